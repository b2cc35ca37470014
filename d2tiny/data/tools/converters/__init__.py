"""Convert the benchmarks' own files to COCO json."""

from d2tiny.data.tools.converters.base import Classes, RawImage, RawObject, to_coco
from d2tiny.data.tools.converters.coco import read_coco
from d2tiny.data.tools.converters.convert import FORMATS, Conversion, convert_dataset
from d2tiny.data.tools.converters.dota import read_dota
from d2tiny.data.tools.converters.hituav import read_hituav
from d2tiny.data.tools.converters.scaling import Scaling
from d2tiny.data.tools.converters.visdrone import read_visdrone
from d2tiny.data.tools.converters.voc import read_dior, read_voc
from d2tiny.data.tools.converters.yolo import read_yolo

__all__ = [
    "FORMATS",
    "Classes",
    "Conversion",
    "RawImage",
    "RawObject",
    "Scaling",
    "convert_dataset",
    "read_coco",
    "read_dior",
    "read_dota",
    "read_hituav",
    "read_visdrone",
    "read_voc",
    "read_yolo",
    "to_coco",
]
