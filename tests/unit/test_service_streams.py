"""The grammar of the streams, over a stream in memory: order, window, bad batches, the end, and cancellation."""

import asyncio
import contextlib
import gc
import weakref

import pytest

from whit.contract.errors import FieldViolation, Problem, Reason
from whit.server.errors import ServiceError, refusal
from whit.server.service.limits import ByteBudget
from whit.server.service.rpc import ClientGoneError, Received
from whit.server.service.streams import answer_stream
from whit.v1 import embedding_pb2

Request, Response = embedding_pb2.StreamEmbedRequest, embedding_pb2.StreamEmbedResponse
SHUTTING_DOWN = ServiceError(Problem(Reason.SHUTTING_DOWN, "the end"))
MALFORMED = Received(Request, b"\xff\xff\xff")


def config(model="models/m"):
    return received(Request(config=embedding_pb2.EmbedOptions(model=model)))


def batch(id_):
    return received(Request(batch=embedding_pb2.StreamEmbedBatch(items=[embedding_pb2.StreamEmbedItem(id=id_)])))


def received(message):
    return Received(Request, message.SerializeToString())


def counted(decoded, message):
    def call(self):
        decoded.append(self)
        return message(self)

    return call


class MemoryStream:
    """Hands out messages, collects answers. An exception among the messages is raised when its turn comes."""

    def __init__(self, *messages, budget=1_000_000):
        self.messages = list(messages)
        self.read_count = 0
        self.written = []
        self.budget = ByteBudget(budget)
        self.reading = asyncio.Event()  # set once all has been read

    async def read(self):
        if not self.messages:
            self.reading.set()
            return None
        message = self.messages.pop(0)
        self.read_count += 1
        if isinstance(message, Exception):
            raise message
        return message

    async def write(self, response):
        self.written.append(response)

    @property
    def ids(self):
        return [response.ids[0] if response.ids else response.status.message for response in self.written]


async def configure(given):
    if given.model == "models/bad":
        raise refusal([FieldViolation("config.model", "is bad")])
    return given.model


async def echo(_, given, __):
    id_ = given.items[0].id
    if id_ == "refused":
        raise refusal([FieldViolation("batch", "is refused")])
    if id_ == "broken":
        raise RuntimeError("a defect")
    return Response(ids=[id_])


def refuse(problem):
    made = Response()
    made.status.message = problem.reason.value
    return made


def serve(stream, *, answer=echo, window=4):
    return answer_stream(stream, window=window, configure=configure, answer=answer, refuse=refuse)


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 10))


async def settle():
    for _ in range(50):
        await asyncio.sleep(0)


def test_batches_are_answered_in_order_however_long_each_takes():
    async def scenario():
        stream = MemoryStream(config(), *map(batch, "abcdef"))
        gates = {id_: asyncio.Event() for id_ in "abcdef"}
        finished = []

        async def answer(_, given, __):
            id_ = given.items[0].id
            await gates[id_].wait()
            finished.append(id_)
            return Response(ids=[id_])

        serving = asyncio.create_task(serve(stream, answer=answer, window=6))
        await settle()
        for id_ in "cafbed":
            gates[id_].set()
            await settle()
        await serving
        assert finished == list("cafbed")
        assert stream.ids == list("abcdef")

    run(scenario)


def test_a_stream_is_read_no_further_than_its_window():
    async def scenario():
        stream = MemoryStream(config(), *map(batch, "abcdef"))
        gate, running = asyncio.Semaphore(0), 0

        async def answer(model, given, turn):
            nonlocal running
            running += 1
            assert running <= 2
            await gate.acquire()
            running -= 1
            return await echo(model, given, turn)

        serving = asyncio.create_task(serve(stream, answer=answer, window=2))
        for answered in range(5):
            await settle()
            assert stream.read_count == 1 + min(6, 2 + answered)
            assert len(stream.written) == answered
            gate.release()
        gate.release()
        await serving
        assert stream.ids == list("abcdef")

    run(scenario)


def test_bad_batches_get_a_status_and_the_stream_goes_on():
    async def scenario():
        messages = [batch("a"), batch("refused"), MALFORMED, config(), received(Request()), batch("broken"), batch("b")]
        stream = MemoryStream(config(), *messages)
        await serve(stream)
        invalid = "INVALID_REQUEST"
        assert stream.ids == ["a", invalid, "MALFORMED_MESSAGE", invalid, invalid, "INTERNAL", "b"]

    run(scenario)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ([], Reason.INVALID_REQUEST),
        ([batch("a")], Reason.INVALID_REQUEST),
        ([received(Request())], Reason.INVALID_REQUEST),
        ([config("models/bad"), batch("a")], Reason.INVALID_REQUEST),
        ([MALFORMED], Reason.MALFORMED_MESSAGE),
    ],
)
def test_a_bad_or_missing_config_ends_the_stream(first, reason):
    async def scenario():
        stream = MemoryStream(*first)
        with pytest.raises(ServiceError) as error:
            await serve(stream)
        assert error.value.problem.reason is reason
        assert not stream.written

    run(scenario)


def test_a_drain_answers_what_was_read_first():
    async def scenario():
        stream = MemoryStream(config(), batch("a"), batch("b"), SHUTTING_DOWN, batch("never"))
        with pytest.raises(ServiceError) as error:
            await serve(stream)
        assert error.value is SHUTTING_DOWN
        assert stream.ids == ["a", "b"]

    run(scenario)


def test_turns_come_in_order_and_after_failures():
    async def scenario():
        stream = MemoryStream(config(), *map(batch, ["a", "broken", "c", "d"]))
        started, written = [], []

        async def answer(model, given, turn):
            id_ = given.items[0].id
            started.append(id_)
            if id_ == "a":
                await settle()
            await turn.comes()
            written.append(id_)
            return await echo(model, given, turn)

        await serve(stream, answer=answer)
        assert started == written == ["a", "broken", "c", "d"]

    run(scenario)


def test_a_batch_that_fails_at_once_lets_no_later_one_pass_an_earlier_one():
    async def scenario():
        stream = MemoryStream(config(), *map(batch, ["slow", "refused", "broken", "last"]))
        gate, written = asyncio.Event(), []

        async def answer(model, given, turn):
            id_ = given.items[0].id
            if id_ == "slow":
                await gate.wait()
            response = await echo(model, given, turn)
            await turn.comes()
            written.append(id_)
            return response

        serving = asyncio.create_task(serve(stream, answer=answer))
        await settle()
        assert written == []
        gate.set()
        await serving
        assert written == ["slow", "last"]
        assert stream.ids == ["slow", "INVALID_REQUEST", "INTERNAL", "last"]

    run(scenario)


def test_a_client_that_vanishes_cancels_everything():
    async def scenario():
        stream = MemoryStream(config(), *map(batch, "abc"))
        cancelled = []

        async def answer(_, given, __):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(given.items[0].id)
                raise

        before = asyncio.all_tasks()
        serving = asyncio.create_task(serve(stream, answer=answer, window=2))
        await settle()
        assert stream.budget.used_bytes > 0
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert sorted(cancelled) == ["a", "b"]
        assert stream.budget.used_bytes == 0
        assert asyncio.all_tasks() == before

    run(scenario)


def test_a_broken_connection_ends_everything_with_its_own_error():
    async def scenario():
        stream = MemoryStream(config(), *map(batch, "abc"))
        broken = ConnectionResetError("gone")

        async def write(_):
            raise broken

        stream.write = write
        with pytest.raises(ConnectionResetError) as error:
            await serve(stream)
        assert error.value is broken
        assert stream.budget.used_bytes == 0

    run(scenario)


def test_a_batch_waits_for_its_bytes_before_it_is_decoded(monkeypatch):
    async def scenario():
        size = batch("a").byte_count
        stream = MemoryStream(config(), *map(batch, "abc"), budget=2 * size)
        gate, running, decoded = asyncio.Event(), [], []
        monkeypatch.setattr(Received, "message", counted(decoded, Received.message))

        async def answer(model, given, turn):
            running.append(given.items[0].id)
            await gate.wait()
            return await echo(model, given, turn)

        serving = asyncio.create_task(serve(stream, answer=answer))
        await settle()
        assert running == ["a", "b"]
        assert len(set(map(id, decoded))) == 3  # the config is one
        gate.set()
        await serving
        assert stream.ids == list("abc")
        assert stream.budget.used_bytes == 0

    run(scenario)


def test_an_answer_that_is_too_large_becomes_a_status():
    async def scenario():
        stream = MemoryStream(config(), *map(batch, "ab"))
        write = stream.write

        async def bounded(response):
            if list(response.ids) == ["a"]:
                raise ServiceError(Problem(Reason.INVALID_REQUEST, "too large"))
            await write(response)

        stream.write = bounded
        await serve(stream)
        assert stream.ids == ["INVALID_REQUEST", "b"]

    run(scenario)


class Answer:
    """An answer of some size, which a weak reference may watch."""

    def __init__(self, byte_count):
        self.byte_count = byte_count

    def ByteSize(self):  # noqa: N802  (as protobuf's)
        return self.byte_count


def test_answers_that_the_client_does_not_take_are_counted_and_hold_up_reading():
    async def scenario():
        stream = MemoryStream(config(), *map(batch, "abcdef"), budget=1000)
        takes = asyncio.Semaphore(0)

        async def write(response):
            await takes.acquire()
            stream.written.append(response)

        async def answer(_, __, ___):
            return Answer(600)

        stream.write = write
        serving = asyncio.create_task(serve(stream, answer=answer, window=2))
        await settle()
        assert stream.budget.used_bytes == 1200
        takes.release()
        await settle()
        assert stream.budget.used_bytes == 1200  # the next was read while one lay there, and answered
        for _ in range(5):
            takes.release()
        await serving
        assert len(stream.written) == 6
        assert stream.budget.used_bytes == 0

    run(scenario)


async def take_no_answer(_):
    await asyncio.Event().wait()


async def find_client_gone(_):
    raise ClientGoneError


@pytest.mark.parametrize("write", [take_no_answer, find_client_gone])
def test_answers_that_nobody_takes_are_gone_with_their_stream(write):
    async def scenario():
        stream = MemoryStream(config(), *map(batch, "abc"))
        watched = []

        async def answer(_, __, ___):
            made = Answer(600)
            watched.append(weakref.ref(made))
            return made

        stream.write = write
        gc.disable()  # what waits for a collection waits for ever on an idle server
        try:
            serving = asyncio.create_task(serve(stream, answer=answer))
            await settle()
            assert watched
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError, ClientGoneError):
                await serving
            del serving
            await settle()
            assert {reference() for reference in watched} == {None}
        finally:
            gc.enable()
        assert stream.budget.used_bytes == 0

    run(scenario)
