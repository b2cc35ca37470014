"""d2tiny: detection of tiny objects (2-32 px) in aerial images, as a Detectron2 extension.

Importing it registers all parts with Detectron2's registries and the dataset names; it reads no data and touches
neither GPU nor network.
"""

from d2tiny.utils.env import require_detectron2

require_detectron2()

# compat comes first: it silences warnings that Detectron2 causes when it is imported.
from d2tiny import compat, model_zoo, modeling  # noqa: E402
from d2tiny.config import add_d2tiny_config  # noqa: E402
from d2tiny.data.datasets import register_builtin, register_coco_like  # noqa: E402

__version__ = "0.1.0"

register_builtin()

__all__ = ["__version__", "add_d2tiny_config", "compat", "model_zoo", "modeling", "register_coco_like"]
