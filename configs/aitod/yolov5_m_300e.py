"""YOLOv5-m on AI-TOD, 300 epochs."""

from ..common.data import aitod
from ..common.models.yolo import yolov5
from ..common.recipes import ultralytics_sgd

dataset = aitod()
model = yolov5("m", dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = ultralytics_sgd(dataset, epochs=300)
