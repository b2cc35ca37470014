"""Tools for datasets: converters, tiling, statistics, preview of augmentations, anchors."""
