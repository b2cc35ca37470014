"""Synthetic aerial scenes with exact boxes, for the demo, the tests and the benchmarks."""

from d2tiny.synthetic.scene import Scene, render_scene
from d2tiny.synthetic.writer import write_dataset

__all__ = ["Scene", "render_scene", "write_dataset"]
