"""How the learning rate goes over a run."""

from __future__ import annotations

import math

from whit.export.distill.options import DistillOptions


def learning_rate_at(share: float, options: DistillOptions) -> float:
    """The learning rate as a share of the highest: up to 1 in the warm-up, then down to 0 (``share`` 1: the run's end)."""
    if share < options.warmup:
        return share / options.warmup
    left = (1 - min(share, 1)) / (1 - options.warmup)
    return left if options.decay == "linear" else 0.5 * (1 - math.cos(math.pi * left))
