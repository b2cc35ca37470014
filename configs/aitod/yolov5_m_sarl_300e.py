"""YOLOv5-m with the SARL relay on AI-TOD."""

from ..common.data import aitod
from ..common.models.yolo import yolov5
from ..common.parts.yolo import sarl
from ..common.recipes import ultralytics_sgd

dataset = aitod()
model = sarl(yolov5("m", dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = ultralytics_sgd(dataset, epochs=300)
