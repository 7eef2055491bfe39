"""A server whose int8 model runs in whit's own kernels: what it says of it, what it sends, and what it does not load."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.support import packages
from tests.support.native import RUNNABLE, needs_kernels, static_package
from tests.support.server import server_thread
from tests.support.wire import embed_options
from whit.cli.app import run
from whit.client import Client
from whit.contract.manifest import CPU, PackageError
from whit.runtime import Tokenizer, open_encoder, open_package
from whit.runtime.opening import PROVIDER_VARIABLE
from whit.v1 import embedding_pb2, embedding_pb2_grpc, vector_pb2

pytestmark = needs_kernels

WORDS = ["the", "water", "of", "land", "and", "school", "by", "night", "with", "father", "paper", "story", "7", "hear"]
NATIVE = f"native-{RUNNABLE[0].name}" if RUNNABLE else ""


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROVIDER_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = [static_package(), packages.package()]
    with server_thread(tmp_path_factory.mktemp("data"), models=models) as address:
        yield address


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server) as client:
        yield client


def texts(count: int) -> list[str]:
    """Texts of 1 to 40 words, no two alike."""
    draw = random.Random(3)
    found = {" ".join(draw.choices(WORDS, k=draw.choice((1, 2, 5, 9, 20, 40)))): None for _ in range(3 * count)}
    return list(found)[:count]


def test_int8_models_run_in_the_kernels_and_float32_models_do_not(client: Client) -> None:
    providers = {model.name: (model.dtype, model.provider, model.verified) for model in client.models()}

    assert providers == {"tiny": ("int8", NATIVE, True), "tiny-bert": ("float32", CPU, True)}


def test_a_server_can_be_told_to_use_onnxruntime(tmp_path: Path) -> None:
    with (
        server_thread(tmp_path, models=[static_package()], provider="onnxruntime") as address,
        Client(address) as client,
    ):
        (model,) = client.models()
        found = client.embed(texts(20), model="tiny").vectors
    package = open_package(static_package())
    sequences = Tokenizer(package).encode(texts(20))
    wanted = open_encoder(package, "onnxruntime").encode([Tokenizer(package).cut(ids, 64) for ids in sequences])

    assert model.provider == CPU
    assert np.array_equal(found, wanted)


def test_a_server_that_must_use_the_kernels_refuses_what_they_cannot_run(tmp_path: Path) -> None:
    with (
        pytest.raises(PackageError, match="cannot run in whit's own kernels: its dtype is float32"),
        server_thread(tmp_path, models=[packages.package()], provider="native"),
    ):
        pass


def test_bytes_are_the_same_alone_and_in_any_batch(server: str) -> None:
    given = texts(60)
    with grpc.insecure_channel(server) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        alone = [rows(stub, [text])[0] for text in given]
        assert len(set(alone)) == 60  # the texts do differ

        for size in (2, 7, 60):
            order = random.Random(size).sample(range(60), 60)
            found = [row for at in range(0, 60, size) for row in rows(stub, [given[i] for i in order[at : at + size]])]

            assert found == [alone[i] for i in order]


def rows(stub: embedding_pb2_grpc.EmbeddingServiceStub, batch: list[str]) -> list[tuple[bytes, ...]]:
    """The bytes of each text as they come over the wire, in each of three encodings, scales included."""
    encodings = [vector_pb2.VECTOR_ENCODING_INT8, vector_pb2.VECTOR_ENCODING_BINARY, vector_pb2.VECTOR_ENCODING_FLOAT32]
    answer = stub.Embed(embedding_pb2.EmbedRequest(options=embed_options(encodings=encodings), texts=batch))
    parts = [part for vectors in answer.vectors for part in (vectors.data, vectors.scales)]
    sizes = [len(part) // len(batch) for part in parts]
    return [
        tuple(part[row * size : (row + 1) * size] for part, size in zip(parts, sizes, strict=True))
        for row in range(len(batch))
    ]


def test_a_stream_sends_what_a_call_sends(client: Client) -> None:
    given = texts(60)
    wanted = client.embed(given, model="tiny").vectors

    found = np.concatenate([batch.vectors for batch in client.embed_stream(given, model="tiny", batch_size=7)])

    assert np.array_equal(found, wanted)


def test_verify_says_what_ran_the_package(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def provider() -> str:
        assert run(["verify", str(static_package()), "--json"]) == 0
        return str(json.loads(capsys.readouterr().out)["provider"])

    assert provider() == NATIVE
    monkeypatch.setenv(PROVIDER_VARIABLE, "onnxruntime")
    assert provider() == CPU
    assert run(["verify", str(static_package())]) == 0
    assert f"provider            {CPU}" in capsys.readouterr().out


def test_models_says_what_runs_each(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--server", server, "--json"]) == 0

    found = {model["name"]: model["provider"] for model in json.loads(capsys.readouterr().out)}
    assert found == {"tiny": NATIVE, "tiny-bert": CPU}


def test_a_server_of_native_models_never_loads_onnxruntime(tmp_path: Path) -> None:
    """In a process of its own, since this one has it."""
    code = f"""
import asyncio, sys
from whit.client import AsyncClient
from whit.server.app import running_server
from whit.server.config import build_config

async def main():
    flags = {{"models": [{str(static_package())!r}], "data": {str(tmp_path / "data")!r}}}
    async with running_server(build_config(flags | {{"listen": "127.0.0.1:0"}}, {{}})) as server:
        async with AsyncClient(server.address) as client:
            assert (await client.info()).providers == ()
            assert [model.provider for model in await client.models()] == [{NATIVE!r}]
            assert len(await client.embed(["the house"], model="tiny")) == 1
    assert "onnxruntime" not in sys.modules

asyncio.run(main())
"""
    environment = {name: value for name, value in os.environ.items() if name != PROVIDER_VARIABLE}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, env=environment)
