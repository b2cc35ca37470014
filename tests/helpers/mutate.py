"""Broken versions of good files, made by a seeded generator."""

from __future__ import annotations

import copy
import json

# What files of the wild, hand-made files and other programs put where something else belongs.
ODD = [
    None, True, False, 0, -1, 1.5, 1e-320, 1e300, 10**30, float("nan"), float("inf"), "", "0", "1_23", "-", "false",
    "NaN", "../x.png", "/etc/passwd", "a:b.png", "\ud800", "\x00", "ж" * 300, [], [[]], [1], [1, 2, 3], [None] * 4, {},
    {"0": 1}, {"a": {"b": []}},
]  # fmt: skip
# Pieces that mean something to one of the parsers.
TOKENS = [
    b"\n", b"\x00", b"\xff\xfe", b"{", b"]", b",", b":", b" ", b"-", b"nan", b"1e999", b"9" * 400, b"<!--", b"&x;",
    b"!!python/x", b"*a", b"&a ",
]  # fmt: skip


def mutated_json(rng, document):
    """Return a COCO-like document as bytes, with one to three nodes replaced, removed, repeated or wrapped."""
    document = copy.deepcopy(document)
    for _ in range(rng.integers(1, 4)):
        parents = [node for node in _nodes(document) if node]
        if not parents:
            break
        parent = parents[rng.integers(len(parents))]
        key = list(parent)[rng.integers(len(parent))] if isinstance(parent, dict) else int(rng.integers(len(parent)))
        change, value = rng.integers(4), copy.deepcopy(ODD[rng.integers(len(ODD))])
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, list):
            parent.append(parent[key])
        elif change == 2:
            parent[key] = [parent[key]]
        else:
            parent[key] = value
    return json.dumps(document).encode()


def _nodes(node):
    """Return all lists and dicts of a document."""
    if not isinstance(node, list | dict):
        return []
    children = node.values() if isinstance(node, dict) else node
    return [node, *(inner for child in children for inner in _nodes(child))]


def mutated_bytes(rng, content):
    """Return bytes with one to four pieces cut, doubled, overwritten, exchanged or put in."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        start = int(rng.integers(len(data) + 1))
        stop = min(len(data), start + int(rng.integers(1, 1 + max(1, len(data) // 4))))
        change = rng.integers(5)
        if change == 0:
            del data[start:stop]
        elif change == 1:
            data[start:start] = data[start:stop]
        elif change == 2:
            data[start:start] = TOKENS[rng.integers(len(TOKENS))]
        elif change == 3:
            data[start:stop] = TOKENS[rng.integers(len(TOKENS))]
        elif len(data):
            data[min(start, len(data) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(data)
