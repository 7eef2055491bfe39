"""What is best for work that comes alone: the thread of its caller where it is short, all idle cores where it is long."""

from __future__ import annotations

from typing import NamedTuple

from whit.server.engine.costs import Costs
from whit.server.engine.jobs import Depth
from whit.server.engine.types import Lane

# Lone short work runs in the calling thread, which is kept from all else meanwhile: waking a worker and being woken by it
# takes 0.2 to 0.4 ms.
_QUICK_S = 0.002

# A lone sequence runs on all idle cores, if it takes so long that another thread, 0.1 ms, is worth it. What a model costs is learned
# from runs on one core: from so many before any is run on several.
_LEAST_SHARED_S = 0.0005
_LEARNED_RUNS = 8


class Size(NamedTuple):
    """How much work sequences are: their number, tokens, cells of attention grids, and in how many grids they run."""

    sequence_count: int
    token_count: int
    cell_count: int
    run_count: int


class Loan(NamedTuple):
    """Leave to run work in one's own thread, on so many cores, from ``start_time`` on."""

    number: int  # among the micro-batches'
    model_id: str
    lane: Lane
    depth: Depth
    size: Size
    core_count: int
    start_time: float  # time.monotonic()

    @property
    def token_count(self) -> int:
        """As in ``Size``."""
        return self.size.token_count

    @property
    def cell_count(self) -> int:
        """As in ``Size``."""
        return self.size.cell_count

    def fields(self, end_time: float) -> dict[str, object]:
        """What a log says about it; ``end_time`` is ``time.monotonic()`` seconds."""
        return {
            "number": self.number,
            "model": self.model_id,
            "thread": "event loop",
            "layers": self.depth.layer_count or "all",
            "tokens": self.token_count,
            "cores": self.core_count,
            "ms": round(1e3 * (end_time - self.start_time), 1),
        }


def runs_quickly(size: Size, depth: Depth, core_count: int, costs: Costs | None) -> bool:
    """Whether work takes no longer than the trip to a worker is worth; False while its ``costs`` are not known.

    Costs are those of one core. Two are taken to be twice as quick, which is a little too much, and more no quicker.
    """
    limit_s = _QUICK_S * min(core_count, 2)
    return costs is not None and depth.share * costs.seconds(size.token_count, size.cell_count) <= limit_s


def pays_to_share(token_count: int, depth: Depth, costs: Costs | None) -> bool:
    """Whether a sequence is worth several cores; False until its ``costs`` are known well."""
    if costs is None or costs.run_count < _LEARNED_RUNS:
        return False
    return depth.share * costs.seconds(token_count, 0) >= _LEAST_SHARED_S
