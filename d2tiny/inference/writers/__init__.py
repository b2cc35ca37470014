"""Files of what was found: maps (GeoJSON, GeoPackage, FlatGeobuf, GeoParquet), tables (CSV) and COCO json."""

from d2tiny.inference.writers.coco import CocoWriter, open_coco
from d2tiny.inference.writers.writer import FORMATS, MAP_FORMATS, SceneWriter, open_writer

__all__ = ["FORMATS", "MAP_FORMATS", "CocoWriter", "SceneWriter", "open_coco", "open_writer"]
