"""The benchmark that tells where queries start, and what the gate of REM knows."""

from __future__ import annotations

import pytest

from tests.helpers.benchmarks import value_in_benchmarks

GATE = """[[share.tolist(), covered.tolist()] for share, covered in queries._gate(
    queries.Explanation(None, None, None, None, None, None,
        [queries.torch.stack((queries.torch.arange(12.).view(3, 4), queries.torch.zeros(3, 4))),
         queries.torch.zeros(2, 2, 2)],
        {"tiny": ["a"], "other": ["b"]}),
    queries.np.array([[10.2, 4, 3, 3]]), (12, 15), STRIDES)]"""
AUC = """[queries._auc(queries.np.array(values), queries.np.array([True, True, False, False]))
    for values in ([4., 2, 3, 1], [1.] * 4)]"""
BY_SIZE = """[queries.by_size("inside", queries.np.array(sides), queries.np.array(true, dtype=bool))
    for sides, true in (([], []), ([4., 20.], [True, False]))]"""

MOVES = """[queries.centre_errors([queries.np.array(points) for points in ([[.1, .2], [.5, .5], [.9, .9]], [[.12, .2],
    [.5, .7], [.1, .1]])], queries.np.array(boxes, dtype=float).reshape(-1, 4), (50, 100)).tolist()
    for boxes in ([[6, 6, 10, 10], [40, 20, 26, 10], [49, 23, 6, 6]], [])]"""


@pytest.fixture(scope="module")
def found():
    """What all of them give, of one process, whose imports take longer than the rest."""
    parts = (GATE.replace("STRIDES", "(4, 8)"), GATE.replace("STRIDES", "None"), AUC, BY_SIZE, MOVES)
    return value_in_benchmarks("queries", f"[{', '.join(parts)}]".replace("\n", " "))


def test_the_gate_is_compared_with_cells_of_their_stride(found):
    """By hand: of 15 px in cells of 4 px, an object at 11.7 px lies in cell 2; stretched over 15 px, in cell 3."""
    for levels, cell in zip(found[:2], (6, 7), strict=True):
        assert levels[0][0] == list(range(12))
        assert [i for i, covered in enumerate(levels[0][1]) if covered] == [cell]
        assert [i for i, covered in enumerate(levels[1][1]) if covered] == [1]


def test_the_area_under_the_curve(found):
    """By hand: of the four pairs of a positive and a negative three are in order; ties count half."""
    assert found[2] == [0.75, 0.5]


def test_sizes_without_objects_have_no_share(found):
    empty, two = found[3]
    assert set(empty.values()) == {None}
    assert two == {"inside, under 8 px": 1.0, "inside, 8 to 16 px": None, "inside, over 16 px": 0.0}


def test_distances_to_the_object_that_a_cell_lies_in(found):
    """By hand, in 100x50 px: the second query starts in two boxes, nearer to the small one; the third in none.

    The first starts at (10, 10) for an object at (11, 11) and ends at (12, 10), the second at (50, 25) and (50, 35) for
    one at (52, 26).
    """
    (first, second), none = found[4]
    assert first == pytest.approx([2**0.5, 2**0.5])
    assert second == pytest.approx([5**0.5, 85**0.5])
    assert none == []
