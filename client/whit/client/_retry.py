"""When to try a call again, as pure decisions; waiting is left to the clients.

Only UNAVAILABLE, and RESOURCE_EXHAUSTED where the server says when to come back, are tried again: anything else would
fail again or may have been done already.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from whit.contract.errors import Problem

Clock = Callable[[], float]
"""Seconds of a monotonic clock, such as ``time.monotonic``."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast: ``attempt_count`` counts the first try; delays double from ``first_delay_s``.

    Raises:
        ValueError: fewer tries than one, or a delay of less than no time or without end.
    """

    attempt_count: int = 5
    first_delay_s: float = 0.1
    max_delay_s: float = 5.0

    def __post_init__(self) -> None:
        if not isinstance(self.attempt_count, int) or self.attempt_count < 1:
            raise ValueError(
                f"attempt_count must be a whole number, 1 (never again) or more; got {self.attempt_count!r}"
            )
        for name, delay in (("first_delay_s", self.first_delay_s), ("max_delay_s", self.max_delay_s)):
            if not isinstance(delay, int | float) or not 0 <= delay < math.inf:
                raise ValueError(f"{name} must be 0 seconds or more; got {delay!r}")


def checked_retry(retry: RetryPolicy | None) -> RetryPolicy:
    """``retry``, or the usual policy for None.

    Raises:
        TypeError: it is something else.
    """
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise TypeError(
            f"retry must be a RetryPolicy, such as RetryPolicy(attempt_count=3); got {type(retry).__name__}"
        )
    return retry or RetryPolicy()


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment at which a whole call must be done, with all its batches and retries. ``at`` None: never."""

    at: float | None
    clock: Clock

    @classmethod
    def after(cls, timeout: float | None, clock: Clock) -> Deadline:
        """The deadline ``timeout`` seconds from now."""
        return cls(None if timeout is None else clock() + timeout, clock)

    def remaining(self) -> float | None:
        """Seconds left, at least 0; None if there is no limit."""
        return None if self.at is None else max(0.0, self.at - self.clock())


def delay_before_retry(
    problem: Problem,
    *,
    attempt: int,
    policy: RetryPolicy,
    remaining_s: float | None,
    random: Callable[[], float],
    repeatable: bool = True,
) -> float | None:
    """Seconds to wait before another try, or None if there should be none.

    Args:
        problem: how the last try failed.
        attempt: tries made so far, 1 or more.
        policy: the bounds.
        remaining_s: seconds until the call's deadline; a wait that would reach it is pointless.
        random: gives floats in [0, 1). Jitter keeps many clients from coming back at the same moment.
        repeatable: whether doing the call twice gives the same answer. If not, it is tried again only where the server
            says when, for then it did nothing; a broken connection leaves that open.
    """
    if attempt >= policy.attempt_count:
        return None
    if problem.retry_after_s is not None and problem.status_code in _RETRIED:
        delay = problem.retry_after_s * (1 + 0.2 * random())
    elif repeatable and problem.status_code is grpc.StatusCode.UNAVAILABLE:
        ceiling = min(policy.max_delay_s, policy.first_delay_s * 2 ** min(attempt - 1, _MAX_DOUBLINGS))
        delay = ceiling * (0.5 + 0.5 * random())
    else:
        return None
    return None if remaining_s is not None and delay >= remaining_s else delay


_MAX_DOUBLINGS = 62  # of a microsecond: many lifetimes, and still a float

_RETRIED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
