"""What stands between backbone and heads: dict of features in, dict of features out."""

from d2tiny.modeling.necks.arb import ARB
from d2tiny.modeling.necks.channel_mapper import ChannelMapper
from d2tiny.modeling.necks.efpn_bs import CEM, EFPNBS, FBSM
from d2tiny.modeling.necks.mdca import MDCA, MDCAttention
from d2tiny.modeling.necks.necked_backbone import NeckedBackbone
from d2tiny.modeling.necks.pafpn import PAFPN
from d2tiny.modeling.necks.pfdh import ASFF, PFDH
from d2tiny.modeling.necks.sarl import FEM, FIM, SARL

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
