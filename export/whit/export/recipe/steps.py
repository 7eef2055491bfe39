"""The steps a recipe may chain.

Each is a function ``step(source, out, options, progress) -> report`` in a module of its own, which is imported when a recipe
names it: some need torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[str, int, int], None]
StepFunction = Callable[[Path, Path, Any, Progress], Any]


@dataclass(frozen=True, slots=True)
class Step:
    """Where a step lives: the function and the frozen dataclass of its options, each as ``module:name``."""

    function: str
    options: str
    incidental: Sequence[str] = ()  # options that change where or how fast it runs, not what comes out

    def load_options(self) -> type[Any]:
        """The class of the step's options: its fields are the keys a recipe may set."""
        found: type[Any] = _load(self.options)
        return found

    def load(self) -> StepFunction:
        """The step itself."""
        found: StepFunction = _load(self.function)
        return found


STEPS: Mapping[str, Step] = {
    "trim": Step("whit.export.vocabulary:trim_vocabulary", "whit.export.vocabulary:TrimOptions"),
    "whiten": Step("whit.export.whitening:whiten", "whit.export.whitening:WhitenOptions"),
    "rotate": Step("whit.export.rotation:rotate", "whit.export.rotation:RotateOptions"),
    "drop-layers": Step("whit.export.prune.layers:drop_layers", "whit.export.prune.layers:LayerOptions"),
    "narrow": Step("whit.export.prune.width:prune_width", "whit.export.prune.width:WidthOptions"),
    "speedup": Step("whit.export.prune.speedup:prune_to_speedup", "whit.export.prune.speedup:SpeedupOptions"),
    "drop-end-token": Step("whit.export.prune.end_token:drop_end_token", "whit.export.prune.end_token:EndTokenOptions"),
    "soup": Step("whit.export.soup:soup", "whit.export.soup:SoupOptions"),
    "distill": Step(
        "whit.export.distill.loop:distill",
        "whit.export.distill.options:DistillOptions",
        incidental=("cache", "sts_dev", "precision", "threads", "save_every"),
    ),
}


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
