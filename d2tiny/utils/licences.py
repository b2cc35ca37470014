"""Licences under which trained weights may be published, and the sources of data that have them.

Whoever publishes weights answers for the terms of everything they were trained on; what is not listed here, such as the
non-commercial terms of most aerial benchmarks, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

__all__ = ["PERMITTED", "SHOWN", "SOURCES", "DataSource", "refused_licences"]

# SPDX identifiers: free for any purpose, with at most an attribution.
PERMITTED = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "MIT")


class DataSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What weights were trained on.

    Attributes:
        name: the data set, or the weights that training started from.
        licence: SPDX identifier.
        citation: who is to be named.
        url: where it comes from.
        changes: what was changed, which CC BY asks to say.
    """

    name: str
    licence: str
    citation: str
    url: str = ""
    changes: str = ""


SOURCES = {
    "hituav": DataSource(
        "HIT-UAV",
        "CC-BY-4.0",
        "Suo, J., Wang, T., Zhang, X., Chen, H., Zhou, W., Shi, W.: HIT-UAV: A high-altitude infrared thermal dataset "
        "for Unmanned Aerial Vehicle-based object detection. Scientific Data 10, 227 (2023)",
        "https://github.com/suojiashun/HIT-UAV-Infrared-Thermal-Dataset",
        "images halved to 320x256 px, one grey channel; DontCare became ignore regions",
    ),
    "sen2ships": DataSource(
        "sen2ships",
        "MIT",
        "ShipDetectionExperts: sen2ships; contains modified Copernicus Sentinel-2 data",
        "https://github.com/ShipDetectionExperts/sen2ships",
        "bands 4, 3, 2 scaled to 8 bits and cut into tiles",
    ),
    "kit_ais": DataSource(
        "KIT AIS vehicles",
        "CC-BY-3.0",
        "KIT AIS Data Set, Institute of Photogrammetry and Remote Sensing, Karlsruhe Institute of Technology",
        "https://github.com/jekhor/aerial-cars-dataset",
        "images halved; boxes by the repository, which states no terms of its own for them",
    ),
    "synthetic": DataSource(
        "d2tiny's drawn scenes", "Apache-2.0", "The d2tiny authors", changes="drawn by d2tiny/synthetic"
    ),
    "efficientnet_lite0": DataSource(
        "ImageNet (weights of EfficientNet-Lite0)",
        "Apache-2.0",
        "Tan, M., Le, Q. V.: EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. ICML 2019; "
        "weights by Google, from which the training starts",
        "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    ),
}
# Splits whose pictures are shown in the documentation, and the sources that these are of.
SHOWN = {"hituav_val": ("hituav",), "colour_val_permissive": ("sen2ships", "kit_ais")}


def refused_licences(sources: Iterable[DataSource], licence: str) -> list[str]:
    """Return what stands against a publication: each source, and the weights themselves, without a permitted licence.

    Args:
        sources: what the weights were trained on.
        licence: that of the weights.
    """
    named = [(source.name, source.licence) for source in sources] + [("the weights", licence)]
    return [f"{name}: {spdx or 'no licence'}" for name, spdx in named if spdx not in PERMITTED]
