"""Quick YOLOX-s on aerial_* with mosaics of crops instead of crops."""

from ..common.data import aerial
from ..common.models.yolo import yolox
from ..common.recipes import quick, with_mosaic

dataset = aerial()
model = yolox("s", dataset.num_classes, max_detections=1500)
dataloader, optimizer, lr_multiplier, train = quick(dataset)
with_mosaic(dataloader, size=160, close_share=0.9, mixup_prob=0.0, multi_scale=0, saturation=0.3, value=0.3, hue=5.4)
