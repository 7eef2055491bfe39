"""How much may wait for one model. Pure bookkeeping: the scheduler calls it under its lock."""

from __future__ import annotations

from collections import OrderedDict

from whit.server.engine.jobs import Job


class Admission:
    """Bounds the tokens that wait for one model, and parks the patient jobs that do not fit, first come first served.

    Patient jobs (streams) may hold at most half the bound, so that a bulk load at full speed does not make every unary
    call fail; and the first parked job that is within that half has its room kept free, so that unary calls do not
    starve it either. A job above a limit is let in where nothing else stands against that limit: it cannot wait for ever.
    """

    def __init__(self, bound_tokens: int) -> None:
        self.bound_tokens = bound_tokens
        self.waiting_tokens = 0
        self._patient_tokens = 0
        self._parked: OrderedDict[Job, None] = OrderedDict()

    def has_room(self, token_count: int) -> bool:
        """Whether a job of so many tokens that cannot wait may enter."""
        return self.waiting_tokens == 0 or self.excess_tokens(token_count) == 0

    def enter(self, job: Job) -> bool:
        """Counts the job in if there is room, and says so. A patient job stands behind those already parked."""
        is_next = not (job.patient and self._parked)
        admitted = is_next and (self._fits_patient(job) if job.patient else self.has_room(job.waiting_tokens))
        if admitted:
            self._count_in(job)
        return admitted

    def park(self, job: Job) -> None:
        """Lets a patient job wait for room."""
        self._parked[job] = None

    def unpark(self, job: Job) -> bool:
        """Forgets a parked job; False if it is not parked here."""
        if job not in self._parked:
            return False
        del self._parked[job]
        return True

    def next_parked(self) -> Job | None:
        """Counts in and returns the first parked job if there is room for it now."""
        job = next(iter(self._parked), None)
        if job is None or not self._fits_patient(job):
            return None
        del self._parked[job]
        self._count_in(job)
        return job

    def leave(self, job: Job, token_count: int) -> None:
        """So many tokens of an admitted job no longer wait."""
        self.waiting_tokens -= token_count
        if job.patient:
            self._patient_tokens -= token_count

    def excess_tokens(self, token_count: int) -> int:
        """How many waiting tokens must be worked off before a job of so many tokens has room."""
        taken = self.waiting_tokens + self._reserved_tokens()
        return min(self.waiting_tokens, max(0, taken + token_count - self.bound_tokens))

    def _count_in(self, job: Job) -> None:
        self.waiting_tokens += job.waiting_tokens
        if job.patient:
            self._patient_tokens += job.waiting_tokens

    def _fits_patient(self, job: Job) -> bool:
        total = self.waiting_tokens + job.waiting_tokens
        return self.waiting_tokens == 0 or (total <= self.bound_tokens and self._within_patient_half(job))

    def _within_patient_half(self, job: Job) -> bool:
        return self._patient_tokens == 0 or self._patient_tokens + job.waiting_tokens <= self.bound_tokens // 2

    def _reserved_tokens(self) -> int:
        first = next(iter(self._parked), None)
        return first.waiting_tokens if first is not None and self._within_patient_half(first) else 0
