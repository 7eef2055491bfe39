"""The programs in docs/wire.md run as they stand, against a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.server import server_thread
from whit.contract.errors import Reason
from whit.v1 import embedding_pb2, embedding_pb2_grpc

DOC = (Path(__file__).parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_thread(tmp_path_factory.mktemp("data")) as found:
        yield found


def run(heading: str, address: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs the last program under a heading, with the address and model of the test's server."""
    section = DOC.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    program = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[-1]
    exec(program.replace("127.0.0.1:7600", address).replace("all-MiniLM-L6-v2", "tiny"), names)
    return names


def test_the_programs(address: str) -> None:
    names: dict[str, Any] = {}

    run("Services", address, names)
    assert names["vectors"].shape == (2, 32)
    assert names["good"] == [True, False]
    assert not names["vectors"][1].any()

    run("Streams", address, names)
    assert names["ids"] == [["one", "two"], ["three"]]

    run("Errors", address, names)
    request = embedding_pb2.EmbedRequest(options=embedding_pb2.EmbedOptions(model="models/nobody"), texts=["a"])
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed(request, timeout=10)
    assert names["reason_of"](refused.value) == Reason.MODEL_NOT_FOUND
