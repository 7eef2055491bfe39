"""What the engine has done and has yet to do, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from whit.server.engine.costs import Costs
from whit.server.engine.types import Lane


@dataclass(slots=True)
class LaneStatistics:
    """One lane.

    Attributes:
        waiting_token_count: tokens that no worker has started, now; parked jobs are not counted.
        waiting_job_count: jobs that they belong to.
        token_count: tokens that workers have started.
        job_count: jobs of which every sequence was started.
        wait_s: of those, from submission to the start of the last sequence, summed.
    """

    waiting_token_count: int = 0
    waiting_job_count: int = 0
    token_count: int = 0
    job_count: int = 0
    wait_s: float = 0.0


@dataclass(slots=True)
class Statistics:
    """All models and workers, since the start.

    Attributes:
        micro_batch_count: runs of a model.
        token_count: tokens in them.
        run_s: their time, summed over the workers.
        cancelled_token_count: tokens that never ran, since their caller had gone.
        deadline_token_count: tokens that never ran, since their deadline had passed or could not be met: work saved.
        refused_job_count: jobs refused because the queue was full.
        lanes: by lane.
        costs: what a micro-batch costs now, by model id; models that have not run yet are left out.
    """

    micro_batch_count: int = 0
    token_count: int = 0
    run_s: float = 0.0
    cancelled_token_count: int = 0
    deadline_token_count: int = 0
    refused_job_count: int = 0
    lanes: Mapping[Lane, LaneStatistics] = field(default_factory=lambda: {lane: LaneStatistics() for lane in Lane})
    costs: Mapping[str, Costs] = field(default_factory=dict)

    def add_run(self, token_count: int, seconds: float) -> None:
        """Counts a run of a model."""
        self.micro_batch_count += 1
        self.token_count += token_count
        self.run_s += seconds

    def fields(self) -> dict[str, object]:
        """The counts as flat fields of a log line."""
        found: dict[str, object] = {
            "micro_batches": self.micro_batch_count,
            "tokens": self.token_count,
            "run_s": round(self.run_s, 3),
            "cancelled_tokens": self.cancelled_token_count,
            "deadline_tokens": self.deadline_token_count,
            "refused_jobs": self.refused_job_count,
        }
        for lane, numbers in self.lanes.items():
            found[f"{lane.value}_tokens"] = numbers.token_count
            found[f"{lane.value}_jobs"] = numbers.job_count
            found[f"{lane.value}_mean_wait_ms"] = round(1e3 * numbers.wait_s / max(1, numbers.job_count), 3)
            found[f"{lane.value}_waiting_tokens"] = numbers.waiting_token_count
        return found
