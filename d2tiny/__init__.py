"""d2tiny: detection of tiny objects (2-32 px) in aerial images, as a Detectron2 extension.

Importing it registers all parts with Detectron2's registries and the dataset names, as soon as Detectron2 itself is
imported. It reads no data, touches neither GPU nor network, and imports neither torch nor Detectron2.
"""

from typing import TYPE_CHECKING

import lazy_loader

from d2tiny.registration import register_when_imported, silence_known_warnings

if TYPE_CHECKING:
    from d2tiny import compat, inference, model_zoo, modeling, runtime
    from d2tiny.config.defaults import add_d2tiny_config
    from d2tiny.data.datasets import register_coco_like

__version__ = "0.2.0"

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submodules=["compat", "inference", "model_zoo", "modeling", "runtime"],
    submod_attrs={"config.defaults": ["add_d2tiny_config"], "data.datasets": ["register_coco_like"]},
)
__all__ = [
    "__version__",
    "add_d2tiny_config",
    "compat",
    "inference",
    "model_zoo",
    "modeling",
    "register_coco_like",
    "runtime",
]

silence_known_warnings()  # before Detectron2 is imported
register_when_imported()
