"""A QGIS style beside a map, so that it opens with outlines coloured by class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from d2tiny.utils.files import write_text
from d2tiny.visualization import class_color

__all__ = ["style_of", "write_style"]

_FIELD = "class"
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LINE = {
    "line_style": "solid",
    "line_width": "0.4",
    "line_width_unit": "MM",
    "joinstyle": "miter",
    "capstyle": "square",
}


def write_style(path: Path, classes: Sequence[str]) -> Path:
    """Write the style of a map, which QGIS finds by its name, and return its file.

    Args:
        path: of the map.
        classes: K names; each has the colour that pictures of d2tiny give it.
    """
    target = path.with_suffix(".qml")
    write_text(target, style_of(classes))
    return target


def style_of(classes: Sequence[str]) -> str:
    """Return a style of QGIS 3 as XML: a category for each class, outlines only, no labels."""
    root = Element("qgis", version="3.28.0", styleCategories="Symbology|Labeling", labelsEnabled="0")
    renderer = SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr=_FIELD, symbollevels="0", enableorderby="0", forceraster="0"
    )
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for number, name in enumerate(classes):
        value = _NO_XML.sub("\ufffd", name)
        entry = {"symbol": str(number), "value": value, "label": value, "type": "string", "render": "true"}
        SubElement(categories, "category", entry)
        _add_outline(symbols, str(number), class_color(number))
    SubElement(root, "layerGeometryType").text = "2"  # polygons
    ElementTree.indent(root)
    head = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return head + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_outline(symbols: Element, name: str, color: tuple[int, int, int]) -> None:
    """Add the symbol of a class, for QGIS before 3.26 (``prop``) and since (``Option``)."""
    symbol = SubElement(symbols, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1", force_rhr="0")
    layer = SubElement(symbol, "layer", {"class": "SimpleLine", "enabled": "1", "locked": "0", "pass": "0"})
    values = {"line_color": ",".join(map(str, (*color, 255))), **_LINE}
    options = SubElement(layer, "Option", type="Map")
    for key, value in values.items():
        SubElement(options, "Option", name=key, type="QString", value=value)
    for key, value in values.items():
        SubElement(layer, "prop", k=key, v=value)
