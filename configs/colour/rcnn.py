"""Ships, vehicles and airplanes in colour images: drawn scenes, and tiles whose licences let weights be passed on."""

from ..common.data import colour, crops_for_other_places, dataloader
from ..common.models.rcnn import cascade_rcnn_lite0, faster_rcnn_lite0
from ..common.parts.rcnn import efpnbs_taught, narrow_box_heads, rfla
from ..common.recipes import enlarged, experiment, pretrained_quick

DATASET = colour()
# Where 2,000 scenes are drawn, a third of the images is real.
REPEATS = [25, 1]


def drawn_and_real(max_iter=2000):
    """The quick recipe from ImageNet weights, longer, on real tiles and drawn scenes together."""
    _, optimizer, schedule, train = pretrained_quick(DATASET, max_iter=max_iter)
    loaders = dataloader(DATASET, 8, crops_for_other_places(DATASET), num_workers=0)
    loaders["train"].dataset.names = [DATASET.train, "colour_drawn"]
    loaders["train"].dataset.repeats = REPEATS
    return loaders, optimizer, schedule, train


def cascade_rcnn_lite0_efpnbs_taught_rfla_x2():
    """Cascade R-CNN with RFLA and E-FPN-BS with taught masks (ours), images at twice their sides, likewise."""
    model = efpnbs_taught(rfla(narrow_box_heads(cascade_rcnn_lite0(DATASET.num_classes), 128)))
    return experiment(model, enlarged(drawn_and_real(), 2.0))


def faster_rcnn_lite0_fpn_rfla():
    """Faster R-CNN with RFLA on drawn scenes and permissive colour tiles, from ImageNet weights."""
    return experiment(rfla(faster_rcnn_lite0(DATASET.num_classes)), drawn_and_real())
