"""Read Pascal VOC xml files, and DIOR, which uses the same format."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Container, Iterator, Sequence
from pathlib import Path, PurePosixPath

from d2tiny.data.coco.boxes import box_xyxy_to_xywh
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.source import relative_name
from d2tiny.data.coco.values import parse_flag, parse_id, parse_number, parse_size
from d2tiny.data.loading.headers import IMAGE_SUFFIXES
from d2tiny.data.tools.converters.base import (
    RawImage,
    RawObject,
    find_folder,
    image_size,
    images_by_stem,
    text_lines,
)
from d2tiny.utils.errors import DatasetError

__all__ = ["read_dior", "read_voc"]

_SUFFIXES = IMAGE_SUFFIXES | {".xml"}
_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z][\w.-]*)["']""")
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030"}  # tools that state the older ones write characters of the newest


def read_voc(
    source: Path,
    findings: Findings,
    *,
    split: str | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    minus_one: bool = False,
) -> tuple[Path, Iterator[RawImage]]:
    """Read ``Annotations/*.xml``; ``difficult`` objects become ignored objects, as in VOC's evaluation.

    Args:
        source: a folder with ``JPEGImages`` and ``Annotations``.
        findings: gets what is left out.
        split: name of a list in ``ImageSets/Main``; None takes every annotated image.
        images: folder of the images; by default ``JPEGImages`` or ``images`` in ``source``.
        labels: folder of the xml files; by default ``Annotations`` in ``source``.
        minus_one: subtract 1 from all coordinates, for files whose first pixel is 1.

    Returns:
        The image folder, and the images one by one.

    Raises:
        DatasetError: a folder or the list is missing.
    """
    root = find_folder(source, ["JPEGImages", "images"], images, "images")
    xmls = find_folder(source, ["Annotations", "annotations"], labels, "labels")
    return root, _images([root], xmls, _listed(source, split), findings, minus_one)


def read_dior(
    source: Path,
    findings: Findings,
    *,
    split: str | None = None,
    images: Path | None = None,
    labels: Path | None = None,
    minus_one: bool = False,
) -> tuple[Path, Iterator[RawImage]]:
    """Read DIOR: VOC xml files, and images in ``JPEGImages-trainval`` and ``JPEGImages-test``.

    Arguments, result and errors are those of :func:`read_voc`; file names are relative to ``source``.
    """
    names = ["JPEGImages-trainval", "JPEGImages-test", "JPEGImages"]
    first = find_folder(source, names, images, "images")
    folders = [images] if images is not None else [source / name for name in names if (source / name).is_dir()]
    xmls = find_folder(
        source, ["Annotations/Horizontal Bounding Boxes", "Annotations_HBB", "Annotations"], labels, "labels"
    )
    root = first if images is not None else source
    return root, _images(folders, xmls, _listed(source, split), findings, minus_one)


def _listed(source: Path, split: str | None) -> list[str] | None:
    """Return the lines of a split's list, or None for all images.

    Raises:
        DatasetError: there is no such list, or it cannot be read.
    """
    if split is None:
        return None
    for folder in ("ImageSets/Main", "ImageSets", "Main"):
        path = source / folder / f"{split}.txt"
        if path.is_file():
            return [line for _, line in text_lines(path)]
    raise DatasetError(f"No list of the split '{split}' (looked for {source / 'ImageSets/Main'}/{split}.txt).")


def _stem(line: str, available: Container[str]) -> str:
    """Return the image name, without suffix, that a line of a list states; names may have blanks.

    Lists of single classes have a second column (1, 0 or -1), others the path of the xml. A line is taken as a whole
    where there is such an xml, else without its last word, else as its first word.
    """
    words = line.split()
    without_last = line.removesuffix(words[-1]).rstrip() or line
    names = [PurePosixPath(text.replace("\\", "/")) for text in (line, without_last, words[0])]
    stems = [n.stem if n.suffix.lower() in _SUFFIXES else n.name for n in names]
    guess = stems[1] if words[-1] in ("1", "0", "-1") else stems[0]
    return next((stem for stem in stems if stem in available), guess)


def _images(
    folders: Sequence[Path], xmls: Path, listed: Sequence[str] | None, findings: Findings, minus_one: bool
) -> Iterator[RawImage]:
    files = images_by_stem(folders, findings)
    available = {xml.stem: xml for xml in sorted(xmls.glob("*.xml"))}
    if listed is None:
        for stem in sorted(set(files) - set(available)):
            findings.add("images without a label file, left out", ", ".join(map(str, files[stem])))
    for stem in available if listed is None else dict.fromkeys(_stem(line, available) for line in listed):
        xml = available.get(stem)
        if xml is None:
            findings.add("images without a label file, left out", f"{xmls / stem}.xml", "error")
            continue
        try:
            tree = _parse(xml)
        except (ElementTree.ParseError, OSError, ValueError, LookupError) as err:  # the last two: encodings
            findings.add("label files that cannot be read, image left out", f"{xml}: {err}", "error")
            continue
        for path in _images_of(tree, stem, files, xml, findings):
            size = image_size(path, findings)
            if size is not None:
                yield _image(tree, path, size, xml, findings, minus_one)


def _parse(xml: Path) -> ElementTree.Element:
    """Parse an xml file; its tags lose their namespace, and become lower case.

    Raises:
        ParseError, OSError, ValueError, LookupError: it cannot be read, is no xml, or no annotation of VOC.
    """
    content = xml.read_bytes()
    try:
        tree = ElementTree.fromstring(content)
    except ValueError:  # the parser knows no encodings of several bytes
        stated = _ENCODING.match(content)
        if stated is None:
            raise
        name = stated[1].decode().lower()
        tree = ElementTree.fromstring(content.decode(_SUPERSETS.get(name, name)))
    for element in tree.iter():
        element.tag = str(element.tag).rpartition("}")[2].lower()
    if tree.tag != "annotation" and tree.find(".//object") is None:
        raise ValueError(f"no annotation of Pascal VOC, but <{tree.tag[:40]}>")
    return tree


def _images_of(
    tree: ElementTree.Element, stem: str, files: dict[str, list[Path]], xml: Path, findings: Findings
) -> list[Path]:
    """Return the images of an xml file: those of the same name, else those that the file states.

    Where several images have the name, the file may state which one is its own.
    """
    stated = (tree.findtext("filename") or "").strip()
    pure = relative_name(stated)
    if stated and pure is None:
        findings.add("file names that leave the image folder, not followed", f"{xml.name}: {stated}", "error")
    elif pure is not None and pure.stem != stem and pure.name != stem:
        findings.add("label files that state another image name than their own", f"{xml.name}: {stated}", "note")
    paths = files.get(stem) or (files.get(pure.stem, []) if pure is not None else [])
    if not paths:
        findings.add("label files without an image", str(xml))
    own = [path for path in paths if pure is not None and path.name == pure.name]
    return own if len(own) == 1 else paths


def _image(
    tree: ElementTree.Element, path: Path, size: tuple[int, int], xml: Path, findings: Findings, minus_one: bool
) -> RawImage:
    stated = [(tree.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    if all(stated) and tuple(map(parse_size, stated)) != size and set(map(parse_number, stated)) != {0.0}:
        findings.add(
            "label files that state a wrong image size", f"{xml.name}: {stated[0]}x{stated[1]}, is {size[0]}x{size[1]}"
        )
    raw = RawImage(path, size)
    for number, item in enumerate(tree.iter("object"), start=1):
        _add_object(raw, item, f"{xml.name}, object {number}", findings, 1.0 if minus_one else 0.0)
    return raw


def _add_object(raw: RawImage, item: ElementTree.Element, where: str, findings: Findings, shift: float) -> None:
    name = (item.findtext("name") or "").strip()
    where = f"{where} ({name or 'no name'})"
    texts = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    corners = [number - shift for number in map(parse_number, texts) if number is not None]
    if len(corners) < 4:
        findings.add("objects without four numbers in their bndbox, left out", f"{where}: {texts}")
        return
    if not name:
        findings.add("objects without a name, left out", where)
        return
    difficult = _is_difficult(item.findtext("difficult"), where, findings)
    extra = {"difficult": int(difficult)}
    raw.objects.append(RawObject(name, box_xyxy_to_xywh(corners), ignore=difficult, extra=extra, where=where))


def _is_difficult(text: str | None, where: str, findings: Findings) -> bool:
    """Return whether a mark says difficult; levels above 1 count, as VisDrone's and DOTA's exports have them."""
    flag, level = parse_flag(text), parse_id(text)
    if flag is None and not (isinstance(level, int) and level > 0):
        findings.add("marks that are neither true nor false, taken as ignored", f"{where}: difficult {text}")
    return flag is not False
