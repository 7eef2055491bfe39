"""What a caller of the engine hands in and gets back."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from whit.contract.errors import Problem

TokenIds = NDArray[np.int64]


class Lane(enum.Enum):
    """What kind of work a call is; ``fairness`` says who goes first."""

    INTERACTIVE = "interactive"  # someone waits for this answer: unary calls, search queries
    BULK = "bulk"  # throughput counts: streams, indexing

    __hash__ = object.__hash__  # enum's own is a function in Python, and every call looks its lane up a dozen times


class Flow:
    """What is served as one among equals: a unary call, or a stream with all its batches.

    Attributes:
        tag: how much service it has had, in virtual time; this and the next belong to the scheduler.
        owed: tokens served that are not in the tag yet.
        waiting_tokens: tokens of its jobs that no worker has started.
    """

    __slots__ = ("owed", "tag", "waiting_tokens")

    def __init__(self) -> None:
        self.tag = 0.0
        self.owed = 0
        self.waiting_tokens = 0


@dataclass(frozen=True, slots=True)
class EmbedSpec:
    """The options of a call, the same for every item in it.

    Attributes:
        prompt: put before every text; must be empty for token ids.
        dimension_count: keep the first so many values of each vector; None keeps all.
        layer_count: compute only so many layers; 0 computes all.
        normalize: scale every vector to length 1.
        truncate: cut items with too many tokens instead of refusing them.
    """

    prompt: str = ""
    dimension_count: int | None = None
    layer_count: int = 0
    normalize: bool = True
    truncate: bool = False


class ItemOutcome(NamedTuple):
    """What became of one item. ``problem`` is None if it has a vector; the token counts include special tokens."""

    token_count: int
    used_token_count: int
    truncated: bool
    problem: Problem | None = None


class Timing(NamedTuple):
    """Where the time of a call went, in microseconds.

    Attributes:
        queue_time_us: from submission to the start of the item that waited longest.
        tokenize_time_us: checking and tokenising all items.
        infer_time_us: in the model, summed over the micro-batches that held an item of this call.
    """

    queue_time_us: int
    tokenize_time_us: int
    infer_time_us: int


class Embedded(NamedTuple):
    """The answer to a call: ``vectors`` float32 [n, dimensions], row i for item i, zeros where ``items[i]`` failed."""

    vectors: NDArray[np.float32]
    items: Sequence[ItemOutcome]
    timing: Timing
