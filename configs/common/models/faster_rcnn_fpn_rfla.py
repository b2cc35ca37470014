"""RFLA: receptive-field anchors and hierarchical label assignment (SPEC §1)."""

from ..parts import rfla
from .faster_rcnn_fpn import model

rfla(model)
