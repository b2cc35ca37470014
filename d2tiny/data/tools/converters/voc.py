"""Read Pascal VOC xml files, and DIOR, which uses the same format."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from d2tiny.data.coco.boxes import box_xyxy_to_xywh
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.source import relative_name
from d2tiny.data.loading.headers import IMAGE_SUFFIXES
from d2tiny.data.tools.converters.base import (
    RawImage,
    RawObject,
    find_folder,
    image_files,
    image_size,
    read_lines,
)
from d2tiny.utils.errors import DatasetError

__all__ = ["read_dior", "read_voc"]

_SUFFIXES = IMAGE_SUFFIXES | {".xml"}


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
    return root, _images([root], xmls, _stems(source, split), findings, minus_one)


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
    return root, _images(folders, xmls, _stems(source, split), findings, minus_one)


def _stems(source: Path, split: str | None) -> list[str] | None:
    """Return the image names of a split, without suffix, or None for all images."""
    if split is None:
        return None
    for folder in ("ImageSets/Main", "ImageSets", "Main"):
        path = source / folder / f"{split}.txt"
        if path.is_file():
            findings = Findings()
            lines = read_lines(path, findings)
            if lines is None:
                raise DatasetError(str(findings))
            # lists of single classes have a second column
            names = [PurePosixPath(line.split()[0]) for _, line in lines]
            return list(dict.fromkeys(n.stem if n.suffix.lower() in _SUFFIXES else n.name for n in names))
    raise DatasetError(f"No list of the split '{split}' (looked for {source / 'ImageSets/Main'}/{split}.txt).")


def _images(
    folders: Sequence[Path], xmls: Path, stems: Sequence[str] | None, findings: Findings, minus_one: bool
) -> Iterator[RawImage]:
    files = {stem: path for folder in reversed(folders) for stem, path in image_files(folder).items()}
    available = {xml.stem: xml for xml in sorted(xmls.glob("*.xml"))}
    if stems is None:
        for stem in sorted(set(files) - set(available)):
            findings.add("images without a label file, left out", str(files[stem]))
    for stem in available if stems is None else stems:
        xml = available.get(stem)
        if xml is None:
            findings.add("images without a label file, left out", f"{xmls / stem}.xml", "error")
            continue
        try:
            tree = ElementTree.parse(xml).getroot()
        except (ElementTree.ParseError, OSError, ValueError, LookupError) as err:  # the last two: encodings
            findings.add("label files that cannot be read, image left out", f"{xml}: {err}", "error")
            continue
        path = _image_of(tree, stem, files, xml, findings)
        size = image_size(path, findings) if path is not None else None
        if path is not None and size is not None:
            yield _image(tree, path, size, xml, findings, minus_one)


def _image_of(
    tree: ElementTree.Element, stem: str, files: dict[str, Path], xml: Path, findings: Findings
) -> Path | None:
    """Return the image of an xml file: the one of the same name, else the one that the file states."""
    stated = (tree.findtext("filename") or "").strip()
    pure = relative_name(stated)
    if stated and pure is None:
        findings.add("file names that leave the image folder, not followed", f"{xml.name}: {stated}", "error")
    elif pure is not None and pure.stem != stem:
        findings.add("label files that state another image name than their own", f"{xml.name}: {stated}", "note")
    path = files.get(stem) or (files.get(pure.stem) if pure is not None else None)
    if path is None:
        findings.add("label files without an image", str(xml))
    return path


def _image(
    tree: ElementTree.Element, path: Path, size: tuple[int, int], xml: Path, findings: Findings, minus_one: bool
) -> RawImage:
    stated = (tree.findtext("size/width"), tree.findtext("size/height"))
    if all(stated) and tuple(s.strip() for s in stated if s) not in ((str(size[0]), str(size[1])), ("0", "0")):
        findings.add(
            "label files that state a wrong image size", f"{xml.name}: {stated[0]}x{stated[1]}, is {size[0]}x{size[1]}"
        )
    raw = RawImage(path, size)
    shift = 1.0 if minus_one else 0.0
    for number, item in enumerate(tree.iter("object"), start=1):
        name = (item.findtext("name") or "").strip()
        where = f"{xml.name}, object {number} ({name or 'no name'})"
        corners = [item.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = (float(text) - shift for text in corners if text is not None)
        except ValueError:
            findings.add("objects without four numbers in their bndbox, left out", f"{where}: {corners}")
            continue
        if not name:
            findings.add("objects without a name, left out", where)
            continue
        difficult = (item.findtext("difficult") or "0").strip() not in ("0", "")
        box = box_xyxy_to_xywh((x1, y1, x2, y2))
        raw.objects.append(RawObject(name, box, ignore=difficult, extra={"difficult": int(difficult)}, where=where))
    return raw
