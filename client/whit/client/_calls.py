"""One call of the user's: its deadline, its retries, and what is known of the server. Pure: clock and dice are given."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import grpc
import numpy as np

from whit.client import _convert as convert
from whit.client._errors import Unavailable, WhitError, deadline_problem, from_problem, from_rpc_error
from whit.client._methods import GET_SERVER_INFO, Method, Request, Response
from whit.client._retry import Clock, Deadline, RetryPolicy, delay_before_retry
from whit.client._steps import Invoke, Plan, Sleep
from whit.client._types import DEFAULT, ServerInfo, Timeout, Unset
from whit.contract.errors import Problem, Reason
from whit.v1 import server_pb2

_MAX_TIMEOUT_S = 1e9  # gRPC takes ten times as much for a time that has passed


def checked_timeout(timeout: float | None) -> float | None:
    """``timeout``, unless it is no time.

    Raises:
        TypeError: it is no number.
        ValueError: it is 0 or less, or more than gRPC can count.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float | np.integer | np.floating):
        raise TypeError(f"timeout must be a number of seconds, or None for no limit; got {type(timeout).__name__}")
    if not 0 < timeout <= _MAX_TIMEOUT_S:
        raise ValueError(
            f"timeout must be more than 0 seconds, or None for no limit, and at most {_MAX_TIMEOUT_S:g}; got {timeout!r}"
        )
    return float(timeout)


@dataclass(slots=True)
class Session:
    """What all calls of one client share. ``info`` is the server's description, None until it is needed."""

    address: str
    timeout: float | None
    retry: RetryPolicy
    clock: Clock = time.monotonic
    random: Callable[[], float] = field(default=random.random)
    info: ServerInfo | None = None

    def __str__(self) -> str:
        return f"{self.address}, {'no timeout' if self.timeout is None else f'timeout {self.timeout:g} s'}"

    def timeout_of(self, timeout: Timeout) -> float | None:
        """The seconds that a method's ``timeout`` argument means."""
        return self.timeout if isinstance(timeout, Unset) else checked_timeout(timeout)

    def error(self, error: grpc.RpcError, method: Method[Request, Response], timeout: float | None) -> WhitError:
        """The error of a call that gRPC ended with ``error``."""
        return from_rpc_error(error, address=self.address, method=method.name, timeout=timeout)

    def note(self, error: WhitError) -> None:
        """Forgets the server's limits where ``error`` may mean that they are no longer known.

        What comes up again may have others, and a call in between need not have seen that it went: then it is told of a limit.
        """
        if isinstance(error, Unavailable) or error.reason is Reason.INVALID_REQUEST:
            self.info = None

    def closed_error(self, method: Method[Request, Response]) -> WhitError:
        """The error of a call in whose course this client was closed."""
        message = f"{method.name} at {self.address} was cancelled, for this client was closed"
        return from_problem(Problem(Reason.CANCELLED, message))

    def deadline_error(self, method: Method[Request, Response], timeout: float | None) -> WhitError:
        """The error of a call that this client gave up."""
        return from_problem(deadline_problem(self.address, method.name, timeout))


class Call:
    """One call of a client's method, which may take several requests, with one deadline for all of them.

    The time runs from the first request on: a stream that is made now may be begun much later.
    """

    def __init__(self, session: Session, timeout: Timeout = DEFAULT) -> None:
        self.session = session
        self.timeout = session.timeout_of(timeout)
        self._deadline: Deadline | None = None

    def invoke(self, method: Method[Request, Response], request: Request) -> Plan[Response]:
        """Sends one request, again where ``_retry`` says so, and returns the response."""
        attempt = 0
        while True:
            attempt += 1
            remaining = self._remaining()
            if remaining is not None and remaining <= 0:
                raise self.session.deadline_error(method, self.timeout)
            try:
                response = yield Invoke(method, request, remaining, self.timeout)
            except WhitError as error:
                yield Sleep(self.delay_or_raise(error, attempt, repeatable=method.repeatable))
            else:
                return cast("Response", response)

    def delay_or_raise(self, error: WhitError, attempt: int, *, repeatable: bool = True, limited: bool = True) -> float:
        """Seconds to wait before the next try after ``attempt`` of them failed; raises ``error`` if there is none.

        ``limited`` false: this call's timeout is no bound, as for a stream, which may last.
        """
        self.session.note(error)
        delay = delay_before_retry(
            error.problem,
            attempt=attempt,
            policy=self.session.retry,
            remaining_s=self._remaining() if limited else self.timeout,
            random=self.session.random,
            repeatable=repeatable,
        )
        if delay is None:
            raise error
        return delay

    def _remaining(self) -> float | None:
        if self._deadline is None:
            self._deadline = Deadline.after(self.timeout, self.session.clock)
        return self._deadline.remaining()

    def server_info(self, *, fresh: bool = False) -> Plan[ServerInfo]:
        """What the server says of itself, asked for once unless ``fresh``."""
        found = self.session.info  # read once: another thread may forget it
        if found is None or fresh:
            response = yield from self.invoke(GET_SERVER_INFO, server_pb2.GetServerInfoRequest())
            found = self.session.info = convert.server_info(response)
        return found
