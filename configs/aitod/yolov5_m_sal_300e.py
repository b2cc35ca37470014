"""YOLOv5-m with the scale-adaptive loss on AI-TOD."""

from ..common.data import aitod
from ..common.models.yolo import yolov5
from ..common.parts.yolo import sal
from ..common.recipes import ultralytics_sgd

dataset = aitod()
model = sal(yolov5("m", dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = ultralytics_sgd(dataset, epochs=300)
