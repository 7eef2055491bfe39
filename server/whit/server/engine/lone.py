"""What is best for a job that comes alone: the thread of its caller where it is short, all idle cores where it is long."""

from __future__ import annotations

from whit.server.engine.costs import Costs
from whit.server.engine.jobs import Job

# A lone short text runs in the calling thread, which is kept from all else meanwhile: waking a worker and being woken by it
# takes 0.2 to 0.4 ms.
_QUICK_S = 0.002

# A lone sequence runs on all idle cores, if it takes so long that another thread, 0.1 ms, is worth it. What a model costs is learned
# from runs on one core: from so many before any is run on several.
_LEAST_SHARED_S = 0.0005
_LEARNED_RUNS = 8


def runs_quickly(job: Job, costs: Costs | None) -> bool:
    """Whether all that waits of a job takes no longer than the trip to a worker is worth; False while its ``costs`` are not known."""
    return costs is not None and job.depth.share * costs.seconds(job.waiting_tokens, job.waiting_cells) <= _QUICK_S


def pays_to_share(job: Job, token_count: int, costs: Costs | None) -> bool:
    """Whether a sequence of a job is worth several cores; False until its ``costs`` are known well."""
    if costs is None or costs.run_count < _LEARNED_RUNS:
        return False
    return job.depth.share * costs.seconds(token_count, 0) >= _LEAST_SHARED_S
