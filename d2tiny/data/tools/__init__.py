"""Tools for datasets: convert, tile, count, preview, fit anchors."""
