"""What is to be expected of work that waits or comes: how much runs before it, and whether it would be in time."""

from __future__ import annotations

from collections.abc import Mapping

from whit.contract.errors import Problem
from whit.server.engine import problems
from whit.server.engine.admission import Admission
from whit.server.engine.costs import CostModel
from whit.server.engine.fairness import Turns
from whit.server.engine.jobs import Depth, Job
from whit.server.engine.statistics import Statistics
from whit.server.engine.types import Lane

# Predictions err. A job is let in, and begun, only if it would be in time even if all took so much longer: what is run of one that
# is late is lost to others. And it is read only with a larger margin: to read costs a tenth of what to run does.
ADMISSION_MARGIN = 1.2
READING_MARGIN = 1.3


class Forecast:
    """Reads what the scheduler keeps; its lock is held. ``micro_batch_token_count`` is the scheduler's to change."""

    def __init__(
        self,
        admissions: Mapping[str, Admission],
        costs: Mapping[str, CostModel],
        turns: Turns,
        statistics: Statistics,
        *,
        worker_count: int,
        micro_batch_token_count: int,
    ) -> None:
        self.micro_batch_token_count = micro_batch_token_count
        self._admissions = admissions
        self._costs = costs
        self._turns = turns
        self._statistics = statistics
        self._worker_count = worker_count

    def tokens_ahead(self, model_id: str, lane: Lane, token_count: int) -> int:
        """Tokens that will run before a job is done that comes now. Errs on the low side: other models are not counted."""
        return min(self._admissions[model_id].waiting_tokens, self._turns.tokens_ahead(lane, token_count))

    def late_job(self, job: Job, left_s: float, tokens_ahead: int, margin: float = 1.0) -> Problem | None:
        """Why starting a job is useless that has ``left_s``: it would be late. None if it may be in time, or who knows."""
        work = tokens_ahead, job.waiting_tokens, job.waiting_cells
        return self.late(job.model_id, job.lane, job.depth, left_s, *work, margin, shared=not job.begun)

    def late(
        self,
        model_id: str,
        lane: Lane,
        depth: Depth,
        left_s: float,
        tokens_ahead: int,
        token_count: int,
        cell_count: int,
        margin: float = 1.0,
        *,
        shared: bool = True,
    ) -> Problem | None:
        """Why a job of so much work would be done after its deadline, in ``left_s``; None if it may be, or who knows."""
        # A job is done when the last micro-batch is that it is in, which fills up with others' work. Under overload dropping
        # who comes too late for that is better than small micro-batches, later and later.
        company = min(self._statistics.lanes[lane].waiting_token_count, self.micro_batch_token_count) if shared else 0
        work = token_count, cell_count, tokens_ahead, company
        needed_s = self._costs[model_id].needed_s(*work, self._worker_count, depth.share)
        if needed_s is None or needed_s * margin <= left_s:
            return None
        return problems.deadline_hopeless(needed_s * margin, left_s)

    def queue_full(self, model_id: str, token_count: int) -> Problem:
        """The refusal of so many tokens for which there is no room, with when to come again."""
        admission = self._admissions[model_id]
        # Until there is room and, so that clients do not come back at once to be refused again, half is worked off.
        tokens = max(admission.excess_tokens(token_count), admission.waiting_tokens // 2)
        retry_after_s = self._costs[model_id].wait_s(tokens, self._worker_count)
        return problems.queue_full(model_id, admission.waiting_tokens, admission.bound_tokens, retry_after_s)
