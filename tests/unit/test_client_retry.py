"""Retries and deadlines as decisions: a plan is driven by hand, with a clock that only sleeping moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import grpc
import pytest

from whit.client import DeadlineExceeded, InvalidRequest, ResourceExhausted, RetryPolicy, Unavailable, WhitError
from whit.client._calls import Call, Session
from whit.client._errors import from_problem
from whit.client._methods import CREATE_COLLECTION, GET_SERVER_INFO, LIST_MODELS, UPSERT
from whit.client._retry import Deadline, delay_before_retry
from whit.client._steps import Invoke, Plan, Sleep
from whit.contract.errors import Problem, Reason
from whit.v1 import collection_pb2, model_pb2, server_pb2

UNREACHABLE = Problem(Reason.UNREACHABLE, "gone")
QUEUE_FULL = Problem(Reason.QUEUE_FULL, "full", retry_after_s=0.25)


@dataclass
class World:
    """A clock that only sleeping moves, and dice that always give 0."""

    now: float = 100.0
    slept: list[float] = field(default_factory=list)

    def session(self, **changes: Any) -> Session:
        values: dict[str, Any] = {"timeout": 60.0, "retry": RetryPolicy()} | changes
        return Session("host:1", clock=lambda: self.now, random=lambda: 0.0, **values)

    def run(self, plan: Plan[Any], answers: Sequence[Any], call_time_s: float = 0.0) -> Any:
        """Runs a plan whose calls are answered with ``answers`` in turn; the plan must need all of them."""
        left, outcome = list(answers), None
        error: WhitError | None = None
        while True:
            try:
                step = plan.send(outcome) if error is None else plan.throw(error)
            except StopIteration as stop:
                assert not left
                return stop.value
            outcome = error = None
            if isinstance(step, Sleep):
                self.slept.append(step.delay_s)
                self.now += step.delay_s
            else:
                assert isinstance(step, Invoke)
                self.now += call_time_s
                answer = left.pop(0)
                error = from_problem(answer) if isinstance(answer, Problem) else None
                outcome = answer


@pytest.fixture
def world() -> World:
    return World()


def list_models(session: Session, **options: Any) -> Plan[Any]:
    return Call(session, **options).invoke(LIST_MODELS, model_pb2.ListModelsRequest())


RESPONSE = model_pb2.ListModelsResponse()


def test_a_good_answer_needs_no_second_try(world: World) -> None:
    assert world.run(list_models(world.session()), [RESPONSE]) is RESPONSE
    assert world.slept == []


def test_unavailable_is_tried_again_ever_more_slowly(world: World) -> None:
    assert world.run(list_models(world.session()), [UNREACHABLE] * 4 + [RESPONSE]) is RESPONSE
    assert world.slept == [0.05, 0.1, 0.2, 0.4]


def test_the_server_says_when_to_come_back(world: World) -> None:
    assert world.run(list_models(world.session()), [QUEUE_FULL, RESPONSE]) is RESPONSE
    assert world.slept == [0.25]


def test_it_gives_up_after_the_tries_of_the_policy(world: World) -> None:
    session = world.session(retry=RetryPolicy(attempt_count=3))

    with pytest.raises(Unavailable):
        world.run(list_models(session), [UNREACHABLE] * 3)
    assert len(world.slept) == 2


def test_it_gives_up_before_a_wait_that_would_pass_the_timeout(world: World) -> None:
    with pytest.raises(ResourceExhausted):
        world.run(list_models(world.session(timeout=0.2)), [QUEUE_FULL])
    assert world.slept == []


def test_a_full_queue_without_a_time_is_not_tried_again(world: World) -> None:
    with pytest.raises(ResourceExhausted):
        world.run(list_models(world.session()), [Problem(Reason.STORAGE_FULL, "no room")])
    assert world.slept == []


@pytest.mark.parametrize(
    "reason",
    [
        reason
        for reason in Reason  # STREAM_IDLE is for streams: tests/integration/test_idle_streams.py
        if reason not in (Reason.UNREACHABLE, Reason.SHUTTING_DOWN, Reason.QUEUE_FULL, Reason.STREAM_IDLE)
    ],
)
def test_nothing_else_is_tried_again(world: World, reason: Reason) -> None:
    with pytest.raises(WhitError):
        world.run(list_models(world.session()), [Problem(reason, "no")])
    assert world.slept == []


def test_a_broken_connection_does_not_repeat_what_may_have_been_done(world: World) -> None:
    plan = Call(world.session()).invoke(CREATE_COLLECTION, collection_pb2.CreateCollectionRequest())

    with pytest.raises(Unavailable):
        world.run(plan, [UNREACHABLE])


def test_but_what_the_server_refused_with_a_time_was_not_done(world: World) -> None:
    plan = Call(world.session()).invoke(CREATE_COLLECTION, collection_pb2.CreateCollectionRequest())
    response = collection_pb2.CreateCollectionResponse()

    assert world.run(plan, [Problem(Reason.SHUTTING_DOWN, "bye", retry_after_s=1.0), response]) is response


def test_upserts_are_repeatable() -> None:
    assert UPSERT.repeatable


def test_one_deadline_for_all_tries(world: World) -> None:
    steps = list_models(world.session(timeout=10.0))
    first = next(steps)
    assert isinstance(first, Invoke)
    assert (first.timeout_s, first.limit_s) == (10.0, 10.0)

    world.now += 4
    assert isinstance(steps.throw(from_problem(UNREACHABLE)), Sleep)
    world.now += 1
    second = next(steps)

    assert isinstance(second, Invoke)
    assert (second.timeout_s, second.limit_s) == (5.0, 10.0)


def test_a_call_of_several_requests_stops_at_its_deadline(world: World) -> None:
    call = Call(world.session(timeout=3.0))
    world.run(call.invoke(LIST_MODELS, model_pb2.ListModelsRequest()), [RESPONSE], call_time_s=3.0)

    with pytest.raises(DeadlineExceeded, match=r"ListModels at host:1 was not done within timeout=3 s; give a larger"):
        world.run(call.invoke(LIST_MODELS, model_pb2.ListModelsRequest()), [])


def test_no_timeout_is_no_deadline(world: World) -> None:
    step = next(list_models(world.session(), timeout=None))

    assert isinstance(step, Invoke)
    assert step.timeout_s is None


def test_time_runs_from_the_first_request_on(world: World) -> None:
    """A stream is made at one time and begun, by iterating, at another."""
    call = Call(world.session(timeout=5.0))
    world.now += 1000

    step = next(call.server_info())

    assert isinstance(step, Invoke)
    assert step.timeout_s == 5.0


def test_the_servers_description_is_asked_for_once(world: World) -> None:
    session = world.session()
    response = server_pb2.GetServerInfoResponse(version="1")

    first = world.run(Call(session).server_info(), [response])
    second = world.run(Call(session).server_info(), [])
    third = world.run(Call(session).server_info(fresh=True), [server_pb2.GetServerInfoResponse(version="2")])

    assert (first.version, second.version, third.version) == ("1", "1", "2")


def test_a_server_that_went_away_is_asked_anew(world: World) -> None:
    session = world.session()
    world.run(Call(session).server_info(), [server_pb2.GetServerInfoResponse(version="1")])
    world.run(list_models(session), [UNREACHABLE, RESPONSE])

    step = next(Call(session).server_info())

    assert isinstance(step, Invoke)
    assert step.method is GET_SERVER_INFO


def test_a_refused_request_makes_the_limits_be_asked_for_again(world: World) -> None:
    """A server that came up again with lower ones refused every later call, and told a client that splits to split."""
    session = world.session()
    world.run(Call(session).server_info(), [server_pb2.GetServerInfoResponse(version="1")])
    request, refusal = model_pb2.ListModelsRequest(), Problem(Reason.INVALID_REQUEST, "texts: has 100 texts, 16 may be")

    with pytest.raises(InvalidRequest):
        world.run(Call(session).invoke(LIST_MODELS, request), [refusal])

    assert world.run(Call(session).server_info(), [server_pb2.GetServerInfoResponse(version="2")]).version == "2"


def test_limits_that_another_thread_forgets_meanwhile_are_still_limits(world: World) -> None:
    class Forgetful(Session):
        """Knows the limits when it is asked whether it does, and no more after that."""

        left: ClassVar[list[Any]] = []

        def __getattribute__(self, name: str) -> Any:
            return Forgetful.left.pop(0) if name == "info" and Forgetful.left else super().__getattribute__(name)

    known = world.run(Call(world.session()).server_info(), [server_pb2.GetServerInfoResponse(version="1")])
    Forgetful.left[:] = [known, None]

    assert world.run(Call(Forgetful("host:1", 60.0, RetryPolicy())).server_info(), []) is known


# ---- the pure decision ----


@pytest.mark.parametrize(("dice", "low", "high"), [(lambda: 0.0, 0.05, 0.25), (lambda: 1.0, 0.1, 0.3)])
def test_jitter_spreads_the_delays(dice: Callable[[], float], low: float, high: float) -> None:
    def delay(problem: Problem) -> float | None:
        return delay_before_retry(problem, attempt=1, policy=RetryPolicy(), remaining_s=None, random=dice)

    assert delay(UNREACHABLE) == pytest.approx(low)
    assert delay(QUEUE_FULL) == pytest.approx(high)  # never earlier than the server said


@pytest.mark.parametrize("attempt", [50, 5000])
def test_delays_are_bounded(attempt: int) -> None:
    policy = RetryPolicy(attempt_count=10_000, max_delay_s=2.0)

    assert delay_before_retry(UNREACHABLE, attempt=attempt, policy=policy, remaining_s=None, random=lambda: 1.0) == 2.0


def test_a_time_to_come_back_means_nothing_with_other_codes() -> None:
    problem = Problem(Reason.INTERNAL, "", retry_after_s=0.1, code=grpc.StatusCode.INTERNAL)

    assert delay_before_retry(problem, attempt=1, policy=RetryPolicy(), remaining_s=None, random=lambda: 0.0) is None


def test_deadlines_never_go_below_zero() -> None:
    now = [0.0]
    deadline = Deadline.after(2.0, lambda: now[0])
    now[0] = 5.0

    assert deadline.remaining() == 0.0
