"""The one exception with which engine, index and service refuse a call."""

from __future__ import annotations

from whit.contract.errors import Problem


class ServiceError(Exception):
    """A call was refused. ``problem`` says why, in the words of the contract; it becomes the gRPC status."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem
