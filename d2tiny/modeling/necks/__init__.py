"""What stands between backbone and heads: dict of features in, dict of features out."""

from d2tiny.modeling.necks.efpn_bs import CEM, EFPNBS, FBSM
from d2tiny.modeling.necks.necked_backbone import NeckedBackbone
from d2tiny.modeling.necks.sarl import FEM, FIM, SARL

__all__ = ["CEM", "EFPNBS", "FBSM", "FEM", "FIM", "SARL", "NeckedBackbone"]
