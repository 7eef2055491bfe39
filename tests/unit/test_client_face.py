"""The face of the SDK: what it exports, what it imports, and that both clients have the same words."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import whit.client
from whit.client import AsyncClient, Client

ASYNC_NAMES = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}

METHODS = {
    "models", "model", "verify_model", "info", "embed", "embed_stream", "create_collection", "collections", "collection",
    "delete_collection", "upsert", "upsert_stream", "get", "delete", "count", "search", "search_batch", "search_stream",
    "close",
}  # fmt: skip


def public(client: type) -> dict[str, Callable[..., Any]]:
    members = {name: member for part in reversed(client.__mro__[:-1]) for name, member in vars(part).items()}
    names = {ASYNC_NAMES.get(name, name): member for name, member in members.items() if callable(member)}
    return {name: member for name, member in names.items() if not re.match("_[^_]", name)}


def test_every_exported_name_is_there_and_documented() -> None:
    assert sorted(whit.client.__all__) == whit.client.__all__
    for name in whit.client.__all__:
        assert inspect.getdoc(getattr(whit.client, name)), name


def test_nothing_public_is_left_out_of_all() -> None:
    public_names = {name for name, value in vars(whit.client).items() if name[0] != "_" and not inspect.ismodule(value)}

    assert public_names == set(whit.client.__all__)


def test_both_clients_have_the_methods_of_the_plan_and_no_others() -> None:
    for client in (Client, AsyncClient):
        assert {name for name in public(client) if not name.startswith("__")} == METHODS


@pytest.mark.parametrize("name", sorted(public(Client)))
def test_signatures_and_documentation_agree(name: str) -> None:
    blocking, awaited = public(Client)[name], public(AsyncClient)[name]
    first, second = inspect.signature(blocking), inspect.signature(awaited)

    assert list(first.parameters) == list(second.parameters)
    for parameter, other in zip(first.parameters.values(), second.parameters.values(), strict=True):
        assert (parameter.kind, parameter.default) == (other.kind, other.default), parameter.name
        assert without_async(other.annotation) == parameter.annotation, parameter.name
    assert without_async(second.return_annotation) == first.return_annotation
    assert inspect.getdoc(blocking) == inspect.getdoc(awaited)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_awaited_or_iterated_over_asynchronously(name: str) -> None:
    awaited = public(AsyncClient)[name]

    is_stream = "AsyncGenerator" in str(inspect.signature(awaited).return_annotation)
    assert is_stream == name.endswith("_stream")
    assert inspect.iscoroutinefunction(awaited) != is_stream
    assert not inspect.iscoroutinefunction(public(Client)[name])


def without_async(annotation: Any) -> Any:
    """An annotation (a string here) as the blocking client has it: no async iterables, generators with three arguments."""
    if not isinstance(annotation, str):
        return annotation
    annotation = re.sub(r" \| AsyncIterable\[(?:[^\[\]]|\[[^\]]*\])*\]", "", annotation)
    return re.sub(r"AsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]", annotation)


def test_import_is_light() -> None:
    """No terminal library and no runtime; and little time beyond what gRPC and numpy take, which is theirs to answer for."""
    code = (
        "import sys, time, asyncio, grpc.aio, grpc_status.rpc_status, numpy.typing, google.protobuf.struct_pb2\n"
        "start = time.process_time()\n"
        "import whit.client\n"
        "took = time.process_time() - start\n"
        "heavy = {'click', 'rich', 'onnxruntime', 'tokenizers', 'usearch', 'onnx', 'torch', 'whit.server', 'whit.runtime'}\n"
        "print(took, sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    # The least of three, for the machine may be busy.
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)]

    assert all(output.split(maxsplit=1)[1].strip() == "[]" for output in outputs), outputs
    assert min(float(output.split()[0]) for output in outputs) < 0.2


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_repr_shows_address_and_timeout(client: type[Client | AsyncClient]) -> None:
    assert repr(client("localhost:1")) == f"<{client.__name__} localhost:1, timeout 60 s>"
    assert repr(client("localhost:1", timeout=None)) == f"<{client.__name__} localhost:1, no timeout>"


def test_repr_of_a_closed_client() -> None:
    client = Client("localhost:1")
    client.close()

    assert repr(client) == "<Client localhost:1, timeout 60 s closed>"


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("address", ["", "http://localhost:7600", "https://h:1", "localhost", "[::1]", "10.0.0.7:"])
def test_an_address_that_grpc_would_misread_is_refused(client: type[Client], address: str) -> None:
    with pytest.raises(ValueError, match=r"must be HOST:PORT"):
        client(address)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_of_no_time_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be more than 0 seconds, or None"):
        Client("localhost:1", timeout=timeout)
