"""How much a micro-batch may hold: what shares work among workers, and what keeps runs short while someone waits for them."""

from __future__ import annotations

import math

from whit.server.engine.costs import Costs
from whit.server.engine.jobs import Job
from whit.server.engine.types import Lane

# Below this, sharing work among workers costs more than it gains: every run reads all the weights.
_MIN_SHARE_TOKENS = 64

# While interactive jobs are expected, bulk is run in micro-batches that take so many seconds, or longer if the fixed cost
# of a run were a larger part of it.
_BULK_RUN_S = 0.02
_FIXED_PART = 0.1


def token_budget(
    leader: Job,
    attention_length: int,
    costs: Costs | None,
    *,
    most: int,
    share: int,
    expects_interactive: bool,
    now: float,
) -> int:
    """Tokens that a micro-batch may have.

    Args:
        leader: the job that it is made for.
        attention_length: of the leader's sequences in it.
        costs: what runs of the model cost; None: not known yet.
        most: the bound of every micro-batch.
        share: tokens for each worker, if all that waits were shared out. The next to take some shares what is left then, and so on:
            workers end at about the same time, whatever kept one of them (guided self-scheduling, Polychronopoulos and Kuck 1987).
        expects_interactive: whether interactive jobs are to be expected while it runs.
        now: the time, by the clock of the leader's deadline.
    """
    budget = min(most, max(_MIN_SHARE_TOKENS, share))
    if costs is None:
        return budget
    seconds = math.inf
    if leader.lane is Lane.BULK and expects_interactive:
        seconds = max(_BULK_RUN_S, leader.depth.share * costs.run_s / _FIXED_PART)
    if leader.begun and leader.deadline is not None:  # what was run of it is lost unless the rest is in time
        seconds = min(seconds, leader.deadline - now)
    if math.isfinite(seconds):
        within = costs.tokens_within(seconds / leader.depth.share, attention_length)
        budget = min(budget, max(_MIN_SHARE_TOKENS, within))
    return budget
