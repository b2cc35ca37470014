"""Broken versions of good files, made by a seeded generator."""

from __future__ import annotations

import copy
import json

# What files of the wild, hand-made files and other programs put where something else belongs.
ODD = [
    None, True, False, 0, -1, 1.5, 1e-320, 1e300, 10**30, float("nan"), float("inf"), "", "0", "1_23", "-", "false",
    "NaN", "../x.png", "../../2.png", "/etc/passwd", "a:b.png", "\ud800", "\x00", "ж" * 300, [], [[]], [1], [1, 2, 3],
    [None] * 4, {}, {"0": 1}, {"a": {"b": []}},
]  # fmt: skip
NUMBERS = [0, 1, -1, 0.5, 1e-5, 1e-7, 1e-320, 1e4, 1e8, 1e9, 1e10, 1e300, 10**30, "2", "0.5", float("nan"), -1e9]
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


def mutated_numbers(rng, document):
    """Return a COCO-like document as bytes, with one to four of its numbers exchanged for others, mostly usable."""
    document = copy.deepcopy(document)
    places = [
        (node, key)
        for node in _nodes(document)
        for key, value in (node.items() if isinstance(node, dict) else enumerate(node))
        if type(value) in (int, float) and "id" not in str(key)
    ]
    for _ in range(rng.integers(1, 5)):
        node, key = places[rng.integers(len(places))]
        node[key] = NUMBERS[rng.integers(len(NUMBERS))]
    return json.dumps(document).encode()


def _nodes(node):
    """Return all lists and dicts of a document."""
    if not isinstance(node, list | dict):
        return []
    children = node.values() if isinstance(node, dict) else node
    return [node, *(inner for child in children for inner in _nodes(child))]


def mutated_bytes(rng, content, tokens=TOKENS, most=4, longest=None):
    """Return bytes with one to ``most`` pieces cut, doubled, overwritten by a token, put in, or with a bit flipped.

    A piece has up to a quarter of the bytes, or ``longest``.
    """
    data = bytearray(content)
    for _ in range(rng.integers(1, most + 1)):
        start = int(rng.integers(len(data) + 1))
        stop = min(len(data), start + int(rng.integers(1, 1 + max(1, longest or len(data) // 4))))
        change = rng.integers(5)
        if change == 0:
            del data[start:stop]
        elif change == 1:
            data[start:start] = data[start:stop]
        elif change == 2:
            data[start:start] = tokens[rng.integers(len(tokens))]
        elif change == 3:
            data[start:stop] = tokens[rng.integers(len(tokens))]
        elif len(data):
            data[min(start, len(data) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(data)
