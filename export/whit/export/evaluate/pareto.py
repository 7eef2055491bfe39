"""Packages beside each other: size, speed and quality, and which of them no other beats in everything."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from whit.export.evaluate.model import Model, Progress, silent
from whit.export.evaluate.plot import Panel, Point
from whit.export.evaluate.run import SetResult

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one thread, tokenising included. CPU time is steadier where other programs run; ratios are to the first package.

    Attributes:
        texts_per_cpu_s: texts a second of CPU time, median of the rounds.
        texts_per_s: texts a second by the clock, median of the rounds.
        ratio: of CPU time, the first package's over this one's in the same round; median.
        ratio_low: smallest of the rounds.
        ratio_high: largest of the rounds.
        wall_ratio: as ``ratio``, by the clock.
    """

    texts_per_cpu_s: float
    texts_per_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    wall_ratio: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A package in the comparison; ``scores`` are one a set, higher is better. ``dominated_by`` names packages that are better."""

    name: str
    size_bytes: int
    speed: Speed
    scores: Sequence[float]
    dominated_by: Sequence[str] = ()


def measure_speeds(
    models: Sequence[Model], texts: Sequence[str], *, rounds: int = ROUNDS, progress: Progress = silent
) -> list[Speed]:
    """Times all models in turns within one process, so that a slow moment of the machine hits them alike.

    Args:
        models: the first is the base of the ratios.
        texts: what each embeds in each round.
        rounds: how many turns each has, after one that does not count.
        progress: told of turns done.
    """
    turns: list[list[tuple[float, float]]] = [[] for _ in models]
    for number in range(rounds + 1):
        for place, model in enumerate(models):
            seconds = model.cpu_and_wall_seconds(texts)
            if number:
                turns[place].append(seconds)
            progress("timing", number * len(models) + place + 1, (rounds + 1) * len(models))
    return [_speed(own, turns[0], len(texts)) for own in turns]


def _speed(own: Sequence[tuple[float, float]], base: Sequence[tuple[float, float]], count: int) -> Speed:
    ratios = [b[0] / o[0] for o, b in zip(own, base, strict=True)]
    return Speed(
        texts_per_cpu_s=count / statistics.median(cpu for cpu, _ in own),
        texts_per_s=count / statistics.median(wall for _, wall in own),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        wall_ratio=statistics.median(b[1] / o[1] for o, b in zip(own, base, strict=True)),
    )


def candidates(models: Sequence[Model], speeds: Sequence[Speed], results: Sequence[SetResult]) -> list[Candidate]:
    """One for each model, with who dominates it. ``results`` have one row a model."""
    plain = [
        Candidate(model.name, model.package.size_bytes, speed, [result.rows[i].score for result in results])
        for i, (model, speed) in enumerate(zip(models, speeds, strict=True))
    ]
    return [
        Candidate(c.name, c.size_bytes, c.speed, c.scores, [other.name for other in plain if dominates(other, c)])
        for c in plain
    ]


def dominates(a: Candidate, b: Candidate) -> bool:
    """Whether ``a`` is no larger, no slower and nowhere worse than ``b``, and better in something."""
    ours, theirs = (_goods(c) for c in (a, b))
    return ours != theirs and all(x >= y for x, y in zip(ours, theirs, strict=True))


def panels(found: Sequence[Candidate], results: Sequence[SetResult]) -> list[Panel]:
    """Quality over size and over speed, for each set. In a panel a package is grey if another there is better in both."""
    made = []
    for number, result in enumerate(results):
        quality = f"{result.name}, {result.metric} x 100"
        sizes = [(c.size_bytes / 1e6, c.scores[number]) for c in found]
        speeds = [(c.speed.ratio, c.scores[number]) for c in found]
        made.append(_panel(found, sizes, "size, MB", quality, smaller_is_better=True))
        made.append(_panel(found, speeds, f"speed, times {found[0].name}", quality, smaller_is_better=False))
    return made


def _panel(
    found: Sequence[Candidate],
    places: Sequence[tuple[float, float]],
    x_title: str,
    y_title: str,
    *,
    smaller_is_better: bool,
) -> Panel:
    goods = [(-x if smaller_is_better else x, y) for x, y in places]
    beaten = [any(g != own and g[0] >= own[0] and g[1] >= own[1] for g in goods) for own in goods]
    points = [Point(c.name, x, y, bad) for c, (x, y), bad in zip(found, places, beaten, strict=True)]
    return Panel(y_title, x_title, y_title.rpartition(", ")[2], points)


def _goods(c: Candidate) -> tuple[float, ...]:
    return (-c.size_bytes, c.speed.ratio, *c.scores)
