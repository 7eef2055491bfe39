"""The life of a server: start and its failures, health, drain, signals, restart."""

import asyncio
import contextlib
import dataclasses
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.server import config_for_tests, running_server_for_tests, server_thread, tiny_package
from tests.support.signals import handled
from tests.support.waiting import wait_until
from tests.support.wire import connected, embed_options, point, problem_of, refused
from whit.contract.errors import Reason
from whit.contract.manifest import MANIFEST_FILE, PackageError, read_manifest, sha256_of
from whit.server import app
from whit.server.index import DataDirectoryLocked
from whit.v1 import embedding_pb2, model_pb2, server_pb2

SERVICES = ["EmbeddingService", "ModelService", "CollectionService", "PointService", "ServerService"]
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def health(channel, service=""):
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True, timeout=10).status


@contextlib.contextmanager
def daemon(data, *, package=None, address="127.0.0.1:0", **variables):
    """``python -m whit.server`` in a process of its own; gives the process and its address (None if it ends at once)."""
    settings = {"MODELS": str(package or tiny_package()), "DATA": str(data), "LISTEN": address} | variables
    environ = os.environ | {f"WHIT_{name}": value for name, value in settings.items()}
    with subprocess.Popen(
        [sys.executable, "-m", "whit.server"], env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        lines, found = queue.Queue(), None
        reader = threading.Thread(target=_pass_on, args=(process.stderr, lines))
        reader.start()
        seen = []
        while found is None and (line := lines.get(timeout=60)) is not None:
            seen.append(line)
            match = re.search(r'listening on ([^\s"]+)', line)
            found = match and match[1]
        try:
            yield process, found, seen
        finally:
            process.kill()
            process.wait()
            reader.join()


def _pass_on(stream, lines):
    for line in stream:
        lines.put(line)
    lines.put(None)


def test_sigterm_drains_and_what_was_acknowledged_is_there_after_a_restart(tmp_path):
    with daemon(tmp_path) as (process, address, _), connected(address) as wire:
        name = wire.new_collection()
        wire.upsert(name, [point("a", "one"), point("b", "two")])
        call = wire.embedding.Embed.future(embedding_pb2.EmbedRequest(options=embed_options(), texts=["word"] * 1000))
        # Once this later call is answered, the one above is with the server.
        wire.info.GetServerInfo(server_pb2.GetServerInfoRequest())
        process.send_signal(signal.SIGTERM)
        assert len(call.result(timeout=10).items) == 1000
        assert process.wait(timeout=20) == 0
    with daemon(tmp_path) as (process, address, _), connected(address) as wire:
        assert wire.count(name) == 2
        assert wire.search(name, "one").results[0].hits[0].id == "a"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_a_second_signal_ends_at_once(tmp_path):
    with daemon(tmp_path, DRAIN_TIMEOUT_S="300") as (process, address, _), connected(address) as wire:
        stuck = unread_stream(wire)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: _refuses_connections(address))
        for _ in range(20):  # the first of these may come too soon after the one above to count
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.3)
                break
        assert process.returncode == 128 + signal.SIGTERM
        stuck.cancel()


def test_one_request_to_stop_that_comes_twice_is_one(tmp_path):
    with daemon(tmp_path) as (process, _, _):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_a_closed_terminal_drains_too(tmp_path):
    with handled(signal.SIGHUP, signal.SIG_DFL), daemon(tmp_path) as (process, address, _), connected(address) as wire:
        assert wire.embed("there").items[0].token_count
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=20) == 0


def test_nohup_has_it_go_on(tmp_path):
    with handled(signal.SIGHUP, signal.SIG_IGN), daemon(tmp_path) as (process, address, _), connected(address) as wire:
        process.send_signal(signal.SIGHUP)
        assert wire.embed("still there").items[0].token_count
        assert process.poll() is None


def test_a_second_server_on_the_same_data_directory_is_refused_in_one_line(tmp_path):
    with (
        daemon(tmp_path) as (process, _, _),
        daemon(tmp_path, LOG_LEVEL="error") as (second, address, lines),
    ):
        assert address is None
        assert second.wait(timeout=20) == 1
        assert len(lines) == 1
        assert f"in use by process {process.pid}" in lines[0]
        assert "--data" in lines[0]


def test_a_second_server_in_this_process_is_refused_and_the_first_goes_on(tmp_path):
    with server_thread(tmp_path) as address, connected(address) as wire:
        with pytest.raises(DataDirectoryLocked), server_thread(tmp_path):
            pass
        assert wire.embed("a").items


def test_a_bad_package_is_refused_by_name_and_everything_is_free_again(tmp_path):
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        with (
            pytest.raises(PackageError, match=r"manifest\.json is missing"),
            server_thread(tmp_path / "data", models=[tmp_path / "empty"]),
        ):
            pass


def test_a_package_that_is_not_there_is_refused_and_nothing_is_left_behind(tmp_path):
    with (
        pytest.raises(PackageError, match="nowhere is not a directory"),
        server_thread(tmp_path / "made" / "data", models=[tiny_package(), tmp_path / "nowhere"]),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_package_whose_golden_vectors_differ_is_refused_unless_allowed(tmp_path):
    package = tmp_path / "package"
    shutil.copytree(tiny_package(), package)
    golden = json.loads((package / "golden.json").read_text())
    golden["texts"][0]["vector"][0] += 0.25
    (package / "golden.json").write_text(json.dumps(golden))
    manifest = read_manifest(package)
    files = {**manifest.files, "golden.json": sha256_of(package / "golden.json")}
    (package / MANIFEST_FILE).write_text(dataclasses.replace(manifest, files=files).to_json())
    with (
        pytest.raises(PackageError, match=r"golden vectors differ.*--allow-unverified"),
        server_thread(tmp_path / "data", models=[package]),
    ):
        pass
    with (
        server_thread(tmp_path / "data", models=[package], allow_unverified=True) as address,
        connected(address) as wire,
    ):
        model = wire.models.GetModel(model_pb2.GetModelRequest(name="models/tiny")).model
        assert not model.verified
        assert not wire.models.VerifyModel(model_pb2.VerifyModelRequest(name="models/tiny")).verified
        assert wire.embed("a").items


def test_health_is_not_serving_until_the_models_are_loaded_and_calls_wait_for_them(tmp_path, monkeypatch):
    loading, may_load = threading.Event(), threading.Event()
    load = app._load_models

    def slowly(config):
        loading.set()
        may_load.wait(30)
        return load(config)

    monkeypatch.setattr(app, "_load_models", slowly)
    address = f"unix:{tmp_path}/whit.sock"
    starter = threading.Thread(target=_hold_open, args=(tmp_path / "data", address, stop := threading.Event()))
    starter.start()
    try:
        loading.wait(30)
        with connected(address) as wire:
            assert health(wire.channel) == NOT_SERVING
            assert health(wire.channel, "whit.v1.EmbeddingService") == NOT_SERVING
            call = wire.embedding.Embed.future(embedding_pb2.EmbedRequest(options=embed_options(), texts=["a"]))
            assert health(wire.channel) == NOT_SERVING
            assert not call.done()
            may_load.set()
            assert call.result(timeout=30).items
            assert {health(wire.channel, f"whit.v1.{name}") for name in SERVICES} == {SERVING}
            assert health(wire.channel) == SERVING
    finally:
        may_load.set()
        stop.set()
        starter.join()


def _hold_open(data, address, stop):
    with server_thread(data, listen=address):
        stop.wait(60)


def test_drain_answers_what_was_read_and_tells_health_and_streams(tmp_path):
    async def run():
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
            stub = channel.stream_stream(
                "/whit.v1.EmbeddingService/StreamEmbed",
                request_serializer=embedding_pb2.StreamEmbedRequest.SerializeToString,
                response_deserializer=embedding_pb2.StreamEmbedResponse.FromString,
            )
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            async with running_server_for_tests(tmp_path, listen=f"unix:{tmp_path}/s") as server:
                told = [(await watch.read()).status]
                if told == [NOT_SERVING]:  # it asked while the models were still being loaded
                    told = [(await watch.read()).status]
                assert told == [SERVING]
                call = stub()
                await call.write(embedding_pb2.StreamEmbedRequest(config=embed_options()))
                items = [embedding_pb2.StreamEmbedItem(text="word " * 40)] * 500
                for _ in range(3):
                    await call.write(
                        embedding_pb2.StreamEmbedRequest(batch=embedding_pb2.StreamEmbedBatch(items=items))
                    )
                answers = [await call.read()]
                assert server.dispatcher.active_count == 1
                status = asyncio.create_task(watch.read())
                reading = asyncio.create_task(_rest(call))
                start = time.monotonic()
            assert time.monotonic() - start < 5  # the stream was ended, not waited for
            assert (await status).status == NOT_SERVING
            more, problem = await reading
            assert 1 <= len(answers) + len(more) <= 3
            assert all(len(answer.items) == 500 for answer in more)
            assert problem.reason is Reason.SHUTTING_DOWN
            assert problem.status_code is grpc.StatusCode.UNAVAILABLE
            assert problem.retry_after_s > 0
            watch.cancel()

    asyncio.run(run())


async def _rest(call):
    answers = []
    try:
        while (answer := await call.read()) is not grpc.aio.EOF:
            answers.append(answer)
    except grpc.aio.AioRpcError as error:
        return answers, problem_of(error)
    raise AssertionError("the stream ended well")


def test_a_drain_is_over_at_its_timeout(tmp_path):
    with server_thread(tmp_path, drain_timeout_s=0.5) as address, connected(address) as wire:
        stuck = unread_stream(wire)
        start = time.monotonic()
    assert time.monotonic() - start < 5
    stuck.cancel()


def unread_stream(wire):
    """A stream whose client reads nothing, so that the server cannot get rid of its answers."""
    sent = threading.Semaphore(0)

    def requests():
        yield embedding_pb2.StreamEmbedRequest(config=embed_options())
        items = [embedding_pb2.StreamEmbedItem(id=f"{i:0250}", text="x") for i in range(1000)]
        for _ in range(100):
            sent.release()
            yield embedding_pb2.StreamEmbedRequest(batch=embedding_pb2.StreamEmbedBatch(items=items))

    call = wire.embedding.StreamEmbed(requests())
    while sent.acquire(timeout=1):
        pass
    return call


def _refuses_connections(address):
    with grpc.insecure_channel(address) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def test_a_worker_that_dies_ends_the_server_with_status_1(tmp_path, monkeypatch, capsys):
    load = app._load_models

    def loaded(config):
        models = load(config)

        def die(*_):
            raise SystemExit("the worker is told to die")

        models["tiny"].encoder.run = die
        return models

    monkeypatch.setattr(app, "_load_models", loaded)
    address = f"unix:{tmp_path}/s"
    outcome = []

    def call():
        with connected(address) as wire:
            texts = ["a"] * 5  # enough not to be run on the event loop
            request = embedding_pb2.EmbedRequest(options=embed_options(), texts=texts)
            outcome.append(refused(lambda: wire.embedding.Embed(request, wait_for_ready=True, timeout=30)))

    client = threading.Thread(target=call)
    client.start()
    assert app.serve(config_for_tests(tmp_path / "data", listen=address)) == 1
    client.join()
    assert outcome[0].reason is Reason.INTERNAL
    assert "whit-worker" in capsys.readouterr().err


def test_settings_and_address_are_logged_at_start(tmp_path):
    with daemon(tmp_path, LOG_FORMAT="json") as (process, address, lines):
        first, *_, last = [json.loads(line) for line in lines]
        assert first["queue_token_count"] == 131_072
        assert first["data"] == str(tmp_path)
        assert last["message"] == f"listening on {address}"
        assert address.startswith("127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_a_bad_setting_ends_with_status_2(tmp_path):
    with daemon(tmp_path, WORKER_COUNT="many") as (process, address, lines):
        assert process.wait(timeout=20) == 2
        assert address is None
        assert len(lines) == 1
        assert "WHIT_WORKER_COUNT must be a whole number" in lines[0]
