"""Class names of the benchmarks, in the order of their contiguous ids."""

from __future__ import annotations

# The official json files of AI-TOD v1 and v2 number these 1..8.
AITOD_CLASSES: tuple[str, ...] = (
    "airplane",
    "bridge",
    "storage-tank",
    "ship",
    "swimming-pool",
    "vehicle",
    "person",
    "wind-mill",
)

# VisDrone-DET numbers these 1..10; 0 is an ignored region, 11 "others".
VISDRONE_CLASSES: tuple[str, ...] = (
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
)

# In the order of the tiny-object repositories, whose json files number these 1..18.
DOTA_V2_CLASSES: tuple[str, ...] = (
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
    "container-crane",
    "airport",
    "helipad",
)

# HIT-UAV, in the order of its published ids without "DontCare", which marks regions to ignore.
HITUAV_CLASSES: tuple[str, ...] = ("person", "car", "bicycle", "other-vehicle")

# Of the detector for colour images: what the drawn scenes and the tiles that may be published both have.
COLOUR_CLASSES: tuple[str, ...] = ("airplane", "ship", "vehicle")

DIOR_CLASSES: tuple[str, ...] = (
    "airplane",
    "airport",
    "baseballfield",
    "basketballcourt",
    "bridge",
    "chimney",
    "dam",
    "Expressway-Service-area",
    "Expressway-toll-station",
    "golffield",
    "groundtrackfield",
    "harbor",
    "overpass",
    "ship",
    "stadium",
    "storagetank",
    "tenniscourt",
    "trainstation",
    "vehicle",
    "windmill",
)
