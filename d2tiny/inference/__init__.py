"""Running a trained detector on images."""

from d2tiny.inference.folder import collect_images, predict_folder

__all__ = ["collect_images", "predict_folder"]
