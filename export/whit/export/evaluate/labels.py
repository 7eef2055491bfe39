"""Where the names of points go in a plot, so that they can be read where points crowd."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_LETTER, _LINE_HEIGHT = 6.2, 12  # of the sans-serif fonts that browsers have, at 11 pixels
_RADIUS = 6  # of a point, with some air
_GAP = 8  # from a point to its name
_STEPS = 8  # heights, above and below, that are tried


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def shared_with(self, other: Box) -> float:
        """Pixels that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    @property
    def area(self) -> float:
        """Pixels that it covers."""
        return (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class Label:
    """A name's base line begins (``start``) or ends (``end``) at x, y; ``is_far`` from its point it needs a line to it."""

    x: float
    y: float
    anchor: str
    is_far: bool


def place_labels(points: Sequence[tuple[float, float]], names: Sequence[str], bounds: Box) -> list[Label]:
    """Places for names beside their points, in the points' order: as near as can be without covering anything.

    From the topmost point down, each name takes the first free place of a fixed list. One that finds none takes the place
    where it covers least, so that the same points always give the same picture.
    """
    taken = [Box(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in points]
    placed: dict[int, Label] = {}
    for i in sorted(range(len(points)), key=lambda i: (points[i][1], points[i][0])):
        width = _LETTER * len(names[i])
        best, box = min(
            ((label, _box(label, width)) for label in _candidates(*points[i])),
            key=lambda found: _covered(found[1], taken, bounds),  # the first one of equals
        )
        placed[i] = best
        taken.append(box)
    return [placed[i] for i in range(len(points))]


def _candidates(x: float, y: float) -> Iterator[Label]:
    for step, below in itertools.product(range(_STEPS), (False, True)):
        height = y + 15 + step * _LINE_HEIGHT if below else y - 6 - step * _LINE_HEIGHT
        for side, anchor in ((_GAP, "start"), (-_GAP, "end")):
            yield Label(x + side, height, anchor, is_far=step > 0)


def _box(label: Label, width: float) -> Box:
    left = label.x if label.anchor == "start" else label.x - width
    return Box(left, label.y - _LINE_HEIGHT + 2, left + width, label.y + 2)


def _covered(box: Box, taken: Sequence[Box], bounds: Box) -> float:
    """Pixels of other names and of points that a name would cover, or that it would have outside the plot."""
    return sum(box.shared_with(other) for other in taken) + box.area - box.shared_with(bounds)
