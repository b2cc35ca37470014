"""Quick RS-TinyNet (YOLO11n with MDCA, ARB, PFDH) on aerial_*."""

from ..common.data import aerial
from ..common.models.yolo import yolo11
from ..common.parts.yolo import rs_tinynet
from ..common.recipes import quick

dataset = aerial()
model = rs_tinynet(yolo11("n", dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
