"""docs/wire.md: every RPC, reason and encoding is there, and the numpy snippets read what the codecs write."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from whit.contract.errors import CODES, Reason
from whit.contract.vectors import Encoding, decode, encode
from whit.v1 import collection_pb2, embedding_pb2, model_pb2, point_pb2, server_pb2, vector_pb2

DOC = (Path(__file__).parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
PROTOS = (collection_pb2, embedding_pb2, model_pb2, point_pb2, server_pb2, vector_pb2)


def table(heading: str) -> list[list[str]]:
    """The cells of the first table after ``heading``, without backquotes."""
    lines = DOC.partition(f"\n## {heading}\n")[2].partition("\n|")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in lines]


def snippets(start: str, end: str) -> list[str]:
    part = DOC.partition(start)[2].partition(end)[0]
    return re.findall(r"```python\n(.*?)```", part, re.DOTALL)


def test_every_rpc_is_described_with_its_kind() -> None:
    methods = {
        f"{service.name}.{method.name}": "stream" if method.client_streaming else "unary"
        for proto in PROTOS
        for service in proto.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }

    assert {rpc: kind.partition(",")[0] for rpc, kind, _ in table("Services")} == methods


def test_paged_rpcs_are_marked() -> None:
    paged = {rpc for rpc, kind, _ in table("Services") if "paged" in kind}

    assert paged == {"ModelService.ListModels", "CollectionService.ListCollections"}


def test_every_reason_is_described_with_its_code() -> None:
    found = table("Errors")

    assert {reason: code for reason, code, _, _ in found} == {reason.value: CODES[reason].name for reason in Reason}
    assert all(when and what_to_do for _, _, when, what_to_do in found)


def test_every_encoding_is_described_with_its_number() -> None:
    numbers = dict(re.findall(r"`(VECTOR_ENCODING_\w+)` \((\d)\)", DOC))

    assert {name: int(number) for name, number in numbers.items()} == dict(vector_pb2.VectorEncoding.items())


def test_every_limit_that_is_named_exists() -> None:
    limits = {field.name for field in server_pb2.Limits.DESCRIPTOR.fields}

    assert set(re.findall(r"`(?:Limits\.)?(\w+_(?:byte|item|window|hit|token)_count)`", DOC)) <= limits


@pytest.mark.parametrize("encoding", [Encoding.BITS_2, Encoding.BITS_3, Encoding.BITS_4])
def test_the_snippet_of_residual_codes_reads_them(encoding: Encoding) -> None:
    (snippet,) = snippets("\nBITS_2, BITS_3 and BITS_4.", "\n## Streams")
    encoded = encode(np.random.default_rng(0).standard_normal((3, 13)).astype(np.float32), encoding)
    number = vector_pb2.VectorEncoding.Value(f"VECTOR_ENCODING_{encoding.name}")
    batch = SimpleNamespace(encoding=number, data=encoded.data, scales=encoded.scales, count=3, dimension_count=13)
    names_after: dict[str, Any] = {"np": np, "batch": batch}

    exec(snippet, names_after)

    assert np.array_equal(names_after["vectors"], decode(encoded))


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8, Encoding.BINARY])
def test_the_snippet_of_an_encoding_reads_and_writes_it(encoding: Encoding) -> None:
    names = [e.name for e in Encoding]
    (snippet,) = snippets(f"\n{encoding.name}", f"\n{names[names.index(encoding.name) + 1]}")
    vectors = np.random.default_rng(0).standard_normal((3, 13)).astype(np.float32)
    vectors[1] = 0
    encoded = encode(vectors, encoding)
    names_after: dict[str, Any] = {
        "np": np,
        "batch": SimpleNamespace(data=encoded.data, scales=encoded.scales, count=3, dimension_count=13),
    }

    exec(snippet, names_after)

    assert np.array_equal(names_after["vectors"], decode(encoded))
    assert names_after["data"] == encoded.data
    if encoding is Encoding.INT8:
        assert np.allclose(
            np.frombuffer(names_after["scale_data"], "<f4"), np.frombuffer(encoded.scales, "<f4"), rtol=1e-6
        )
