"""How an error leaves: as a status, or quietly where the call has ended meanwhile."""

import asyncio

import grpc.aio
import pytest

from whit.contract.errors import Problem, Reason
from whit.server.service.rpc import abort

PROBLEM = Problem(Reason.DEADLINE_EXCEEDED, "too late")


class Context:
    """Ends calls like gRPC's: always by raising."""

    def __init__(self, outcome):
        self._outcome = outcome

    async def abort(self, code, details, trailing_metadata):
        self.aborted = code, details, [key for key, _ in trailing_metadata]
        raise self._outcome


def test_a_problem_becomes_a_status_with_details():
    context = Context(grpc.aio.AbortError())

    with pytest.raises(grpc.aio.AbortError):
        asyncio.run(abort(context, PROBLEM))

    assert context.aborted == (grpc.StatusCode.DEADLINE_EXCEEDED, "too late", ["grpc-status-details-bin"])


def test_a_call_that_has_ended_meanwhile_counts_as_cancelled():
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(abort(Context(grpc.aio.InternalError()), PROBLEM))
