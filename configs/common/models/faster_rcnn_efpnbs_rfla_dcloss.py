"""E-FPN-BS behind the FPN, RFLA, and DCLoss in RPN and ROI head (SPEC §3.4)."""

from ..parts import dcloss, efpnbs
from .faster_rcnn_fpn_rfla import model

efpnbs(model)
dcloss(model)
