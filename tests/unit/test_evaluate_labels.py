"""Names in a plot can be read: none covers another, a point or the edge."""

from __future__ import annotations

import itertools

from whit.export.evaluate.labels import Box, Label, place_labels

PLOT = Box(62, 26, 476, 332)


def test_a_name_stands_right_of_its_point() -> None:
    assert place_labels([(200, 100)], ["int8"], PLOT) == [Label(208, 94, "start", is_far=False)]


def test_at_the_right_edge_it_stands_left_of_it() -> None:
    [label] = place_labels([(470, 100)], ["int8"], PLOT)

    assert (label.x, label.anchor) == (462, "end")


def test_at_the_top_it_stands_below() -> None:
    [label] = place_labels([(200, 30)], ["int8"], PLOT)

    assert label.y > 30


def test_names_of_points_that_crowd_cover_nothing() -> None:
    points = [(200 + 7 * i, 100 - 2 * i) for i in range(8)]
    names = [f"int8, package {i}" for i in range(8)]

    labels = place_labels(points, names, PLOT)

    boxes = [_box(label, name) for label, name in zip(labels, names, strict=True)]
    assert all(one.shared_with(other) == 0 for one, other in itertools.combinations(boxes, 2))
    assert all(box.shared_with(Box(x - 4, y - 4, x + 4, y + 4)) == 0 for box in boxes for x, y in points)
    assert all(box.shared_with(PLOT) == box.area for box in boxes)
    # Some of them had to go farther from their points, and have a line to them.
    assert any(label.is_far for label in labels)


def test_points_at_one_place_have_all_their_names() -> None:
    labels = place_labels([(200, 100)] * 4, ["a", "b", "c", "d"], PLOT)

    assert len({(label.x, label.y) for label in labels}) == 4


def _box(label: Label, name: str) -> Box:
    left = label.x if label.anchor == "start" else label.x - 6 * len(name)
    return Box(left, label.y - 9, left + 6 * len(name), label.y + 1)
