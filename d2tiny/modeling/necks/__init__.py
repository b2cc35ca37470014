"""Necks: they map the feature maps of a backbone to those that a head reads."""

from typing import TYPE_CHECKING

from d2tiny.modeling.necks.arb import ARB
from d2tiny.modeling.necks.channel_mapper import ChannelMapper
from d2tiny.modeling.necks.efpn_bs import CEM, EFPNBS, FBSM
from d2tiny.modeling.necks.mdca import MDCA, MDCAttention
from d2tiny.modeling.necks.necked_backbone import NeckedBackbone
from d2tiny.modeling.necks.pafpn import PAFPN
from d2tiny.modeling.necks.pfdh import ASFF, PFDH
from d2tiny.modeling.necks.sarl import FEM, FIM, SARL

if TYPE_CHECKING:  # mypy checks here that the necks fulfil the contract
    from d2tiny.modeling.contracts import AuxiliaryNeck, Neck

    _NECKS: list[type[Neck]] = [EFPNBS, MDCA, PAFPN, PFDH, SARL, ChannelMapper]
    _AUXILIARY_NECKS: list[type[AuxiliaryNeck]] = [ARB]

__all__ = [
    "ARB",
    "ASFF",
    "CEM",
    "EFPNBS",
    "FBSM",
    "FEM",
    "FIM",
    "MDCA",
    "PAFPN",
    "PFDH",
    "SARL",
    "ChannelMapper",
    "MDCAttention",
    "NeckedBackbone",
]
