"""YOLOv5-m on DIOR."""

from ..common.data import dior
from ..common.models.yolo import yolov5
from ..common.recipes import ultralytics_sgd

dataset = dior()
model = yolov5("m", dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = ultralytics_sgd(dataset, epochs=600)
