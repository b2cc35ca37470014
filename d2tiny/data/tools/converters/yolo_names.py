"""Class names of YOLO data by number, and the number of keypoints, from the files that lie beside the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.values import parse_id
from d2tiny.data.tools.converters.base import text_lines
from d2tiny.utils.errors import DatasetError

if TYPE_CHECKING:
    from yaml.nodes import Node

__all__ = ["find_keypoint_shape", "find_yolo_classes"]


def find_yolo_classes(source: Path, findings: Findings) -> dict[int, str]:
    """Return the class names of ``classes.txt``, ``obj.names`` or ``data.yaml`` in the folder or its parent.

    Args:
        source: folder of the dataset.
        findings: gets names and numbers that cannot be used, and numbers that no class has.

    Returns:
        Class number → name, by rising number. Numbers without a name are left out.

    Raises:
        DatasetError: there is no such file, or its names cannot be used; says in which file and line.
    """
    unread: list[str] = []
    for folder in (source, source.absolute().parent):
        readers = list(_files_with_names(folder, unread))
        if readers:
            path, read = readers[0]
            names = read(findings)
            for other, read_other in readers[1:]:
                if _differs(names, read_other):
                    findings.add("files of class names that others contradict", f"{path} is used, not {other}")
            return names
    more = f" Not readable: {'; '.join(unread)}." if unread else ""
    raise DatasetError(
        f"No class names for {source}: no classes.txt, obj.names or data.yaml in it or beside it.{more} "
        "Give them with --classes."
    )


def _files_with_names(folder: Path, unread: list[str]) -> Iterator[tuple[Path, Callable[[Findings], dict[int, str]]]]:
    """Yield the files of a folder that have class names, and what reads them."""
    for path in (folder / "classes.txt", folder / "obj.names"):
        if path.is_file():
            yield path, partial(_from_lines, path)
    for path, keys in _yaml_files(folder, unread):
        names = keys.get("names")
        if names is not None and names.value and not names.tag.endswith(":null"):
            yield path, partial(_from_yaml, path, names, keys.get("nc"))


def _differs(names: dict[int, str], read: Callable[[Findings], dict[int, str]]) -> bool:
    try:
        return read(Findings()) != names
    except DatasetError:  # it is not used
        return True


def find_keypoint_shape(source: Path) -> tuple[int, int] | None:
    """Return ``kpt_shape`` of the YAML files in the folder or its parent: keypoints, and numbers of each (2 or 3)."""
    for folder in (source, source.absolute().parent):
        for _, keys in _yaml_files(folder, []):
            shape = keys.get("kpt_shape")
            nodes = shape.value if shape is not None and _is_list(shape) else []
            sides = [parse_id(node.value) for node in nodes if _is_scalar(node)]
            if len(sides) == 2 and isinstance(sides[0], int) and sides[0] > 0 and sides[1] in (2, 3):
                return sides[0], int(sides[1])
    return None


def _is_list(node: Node) -> bool:
    return bool(node.id == "sequence")


def _is_scalar(node: Node) -> bool:
    return bool(node.id == "scalar")


def _yaml_files(folder: Path, unread: list[str]) -> Iterator[tuple[Path, dict[str, Node]]]:
    """Yield the YAML files of a folder with the nodes of their keys; no value is constructed from its text.

    A value becomes text, so that ``no`` and dates stay names, and no number is too long. Files that are no YAML are
    added to ``unread``.
    """
    import yaml  # not needed by other formats

    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        if not path.is_file():
            continue
        try:
            root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
        except (yaml.YAMLError, OSError, ValueError, RecursionError) as err:
            unread.append(f"{path}: {' '.join(str(err).split())[:200]}")
            continue
        if isinstance(root, yaml.MappingNode):
            yield path, {key.value: value for key, value in root.value if _is_scalar(key)}


def _from_lines(path: Path, findings: Findings) -> dict[int, str]:
    try:
        lines = text_lines(path)
    except DatasetError as err:
        raise DatasetError(f"{err} Or give the names with --classes.") from err
    return _checked(path, {number - 1: text for number, text in lines}, findings)


def _from_yaml(path: Path, names: Node, count: Node | None, findings: Findings) -> dict[int, str]:
    """Return the names of a list, or of a map from numbers to names."""
    pairs: list[tuple[int | str | None, Node]]
    if _is_list(names):
        pairs = list(enumerate(names.value))
    elif names.id == "mapping":
        pairs = [(parse_id(key.value) if _is_scalar(key) else None, value) for key, value in _merged(names)]
    else:
        raise DatasetError(
            f"{path}, line {names.start_mark.line + 1}: names is the text {names.value[:80]!r}, but must be a list "
            "([car, ship]) or a number for each name ({0: car, 1: ship}). Mend it, or give the names with --classes."
        )
    result: dict[int, str] = {}
    for number, value in pairs:
        where = f"{path}, line {value.start_mark.line + 1}"
        text = value.value.strip() if _is_scalar(value) and not value.tag.endswith(":null") else ""
        if not isinstance(number, int) or number < 0:
            findings.add("class numbers that are no whole numbers from 0, left out", f"{where}: {text[:80]!r}", "error")
        elif not text or any("\ud800" <= letter <= "\udfff" for letter in text):
            findings.add("class names that are no text, left out", f"{where}: class {number}", "error")
        elif number in result:
            findings.add("class numbers with two names, the second left out", f"{where}: class {number}", "error")
        else:
            result[number] = text
    return _checked(path, result, findings, count)


def _merged(mapping: Node) -> list[tuple[Node, Node]]:
    """Return the pairs of a map, first those that ``<<`` merges; each map counts once, also one that holds itself."""
    own = [(key, value) for key, value in mapping.value if not _is_merge(key)]
    merged: dict[str, tuple[Node, Node]] = {key.value: (key, value) for key, value in own if _is_scalar(key)}
    known = len(merged)
    seen, waiting = {id(mapping)}, [value for key, value in mapping.value if _is_merge(key)]
    for node in waiting:  # grows
        if id(node) in seen:
            continue
        seen.add(id(node))
        if _is_list(node):
            waiting += node.value
        elif node.id == "mapping":
            for key, value in node.value:
                if _is_merge(key):
                    waiting.append(value)
                elif _is_scalar(key):
                    merged.setdefault(key.value, (key, value))  # the first map that has a key wins
    return [*list(merged.values())[known:], *own]


def _is_merge(key: Node) -> bool:
    return bool(key.tag == "tag:yaml.org,2002:merge")


def _checked(path: Path, names: dict[int, str], findings: Findings, count: Node | None = None) -> dict[int, str]:
    """Return the names by rising number; what is odd about them is counted.

    Raises:
        DatasetError: there are none.
    """
    if not names:
        why = f" Found: {findings}." if findings else ""
        raise DatasetError(
            f"{path} holds no class names: needed is a list ([car, ship]), or a number for each name "
            f"({{0: car, 1: ship}}). Mend it, or give the names with --classes.{why}"
        )
    result = dict(sorted(names.items()))
    if max(result) >= len(result):
        findings.add(
            "files of class names that skip numbers; objects of these have no class",
            f"{path}: {len(result)} names for the numbers 0 to {max(result)}",
        )
    stated = parse_id(count.value) if count is not None and _is_scalar(count) else None
    if isinstance(stated, int) and stated != max(result) + 1:
        findings.add("files whose number of classes (nc) does not fit the names", f"{path}: nc is {stated}")
    joined = sorted(name for name, numbers in Counter(result.values()).items() if numbers > 1)
    if joined:
        findings.add("class names that several numbers have, joined", f"{path}: {', '.join(joined)}", count=len(joined))
    return result
