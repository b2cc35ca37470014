"""Inference with a trained detector on images and scenes of any size."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from d2tiny.inference.bulk import merge_shards, predict_folder, predict_scenes
    from d2tiny.inference.merge import MergeSettings, SeamMerger
    from d2tiny.inference.outputs import OutputSettings
    from d2tiny.inference.page import write_page
    from d2tiny.inference.pixels import ReadSettings
    from d2tiny.inference.predictor import TiledPredictor, TileSettings
    from d2tiny.inference.preview import draw_preview
    from d2tiny.inference.run import RunSettings, RunSummary
    from d2tiny.inference.scene import Detection, GeoReference, Scene, SceneDetections
    from d2tiny.inference.sources import collect_scenes
    from d2tiny.inference.tiles import TileGrid
    from d2tiny.inference.writers import open_writer

_NAMES = {
    "bulk": ["merge_shards", "predict_folder", "predict_scenes"],
    "merge": ["MergeSettings", "SeamMerger"],
    "outputs": ["OutputSettings"],
    "page": ["write_page"],
    "predictor": ["TileSettings", "TiledPredictor"],
    "preview": ["draw_preview"],
    "pixels": ["ReadSettings"],
    "run": ["RunSettings", "RunSummary"],
    "scene": ["Detection", "GeoReference", "Scene", "SceneDetections"],
    "sources": ["collect_scenes"],
    "tiles": ["TileGrid"],
    "writers": ["open_writer"],
}
__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
__all__ = [
    "Detection",
    "GeoReference",
    "MergeSettings",
    "OutputSettings",
    "ReadSettings",
    "RunSettings",
    "RunSummary",
    "Scene",
    "SceneDetections",
    "SeamMerger",
    "TileGrid",
    "TileSettings",
    "TiledPredictor",
    "collect_scenes",
    "draw_preview",
    "merge_shards",
    "open_writer",
    "predict_folder",
    "predict_scenes",
    "write_page",
]
