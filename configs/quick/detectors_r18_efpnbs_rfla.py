"""Quick DetectoRS with RFLA and E-FPN-BS on aerial_*."""

from ..common.data import aerial
from ..common.models.rcnn import detectors_r18
from ..common.parts.rcnn import efpnbs, rfla
from ..common.recipes import quick

# DetectoRS reads up to 9 cells of stride 32 around each place and averages whole maps. From crops of 160 px it
# learns that there is nothing around, and whole images drive its features to several times their size.
dataset = aerial(crop=320)
model = efpnbs(rfla(detectors_r18(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = quick(dataset, batch_size=2)
