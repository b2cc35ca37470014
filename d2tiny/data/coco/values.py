"""What ids, flags, sizes and numbers of annotation files mean, also where they are written as text.

Every reader (json, xml, texts) calls these functions, so that one value means the same everywhere. They return None for
what has no meaning: the caller counts a finding or refuses the file, and never guesses.
"""

from __future__ import annotations

import math
import numbers
import re
from typing import Any

__all__ = ["MAX_SIDE", "parse_flag", "parse_id", "parse_number", "parse_size"]

MAX_SIDE = 1_000_000  # px; no image is longer
_MAX_ID = 2**63 - 1
_EXACT = 2**53  # from here on, floats skip integers
# Not float() and int(): those read "1_23" as 123, "１２" as 12.
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_TRUE, _FALSE = frozenset({"true", "yes"}), frozenset({"", "false", "no", "unspecified"})


def parse_id(value: Any) -> int | str | None:
    """Return an id in the one form in which ids are compared.

    Numbers and texts of digits become integers: 7, 7.0, ``"7"`` and ``"0007"`` are the same id. Other texts stay text,
    without blanks around them: ``"1_23"`` is no number, and texts of more digits than 64 bits hold are names.

    Returns:
        The id, or None for what can be no id: nothing, truth values, fractions, NaN, larger integers, lists, objects.
    """
    if type(value) is int:
        return value if -_MAX_ID <= value <= _MAX_ID else None
    if isinstance(value, str):
        text = value.strip()
        if len(text) < 100 and _INTEGER.fullmatch(text) and -_MAX_ID <= int(text) <= _MAX_ID:
            return int(text)
        return text or None
    if type(value) is float:
        return int(value) if abs(value) < _EXACT and value.is_integer() else None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    return parse_id(int(value) if isinstance(value, numbers.Integral) else float(value))  # numpy's numbers


def parse_number(value: Any) -> float | None:
    """Return a number, also one written as text (``" 5.0"``); NaN and infinity are numbers, which the caller refuses.

    Returns:
        The number, or None for nothing, truth values, lists, objects and other texts (``"1_23"``, ``"5px"``).
    """
    if type(value) is float:
        return value
    if isinstance(value, str):
        text = value.strip()
        return float(text) if _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]


def parse_flag(value: Any) -> bool | None:
    """Return whether a mark such as ``iscrowd``, ``ignore`` or ``difficult`` is set.

    Zero and one count as numbers and as text, and so do true, false, yes, no in any case. Nothing, an empty text and
    VOC's ``Unspecified`` are not set.

    Returns:
        The truth, or None for other numbers, texts, lists and objects.
    """
    if value is None or isinstance(value, bool) or (type(value) is int and 0 <= value <= 1):
        return bool(value)
    if isinstance(value, str) and (text := value.strip().lower()) in _TRUE | _FALSE:
        return text in _TRUE
    return {0.0: False, 1.0: True}.get(number) if (number := parse_number(value)) is not None else None


def parse_size(value: Any) -> int | None:
    """Return the width or height of an image in px: 64, 64.0, ``"64"`` and ``"64.0"`` are 64.

    Returns:
        A number from 1 to :data:`MAX_SIDE`, or None.
    """
    number = parse_number(value)
    return int(number) if number is not None and 1 <= number <= MAX_SIDE and number.is_integer() else None
