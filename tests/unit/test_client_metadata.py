"""Metadata on its way to the wire and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.client._metadata import from_struct, to_struct
from whit.v1 import point_pb2

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values))
def test_metadata_comes_back_as_it_was(metadata: dict[str, Any]) -> None:
    """Equal in Python's sense, where 3.0 == 3; whole numbers come back as int."""
    assert from_struct(to_struct(metadata, "metadata")) == metadata


def test_whole_numbers_are_int_again_and_numpy_is_welcome() -> None:
    found = from_struct(to_struct({"a": 3.0, "b": np.int64(4), "c": np.float32(0.5), "d": True}, "m"))

    assert found == {"a": 3, "b": 4, "c": 0.5, "d": True}
    assert isinstance(found["a"], int)
    assert found["d"] is True


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({1: "x"}, TypeError, "m has the key 1, but keys must be str; write '1'"),
        ({"a": {"b": [0, object()]}}, TypeError, r"m\['a'\]\['b'\]\[1\] is a object, which JSON does not have"),
        ({"a": float("inf")}, ValueError, r"m\['a'\] is inf, which JSON does not have"),
        ({"a": 2**53 + 1}, ValueError, "more than a 64-bit float holds exactly"),
        ({"a": "\ud800"}, ValueError, "half a surrogate pair at character 0"),
        ("text", TypeError, "m must be a mapping of JSON values, got str"),
    ],
)
def test_what_json_does_not_have(metadata: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        to_struct(metadata, "m")


@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: [value]])
def test_metadata_may_be_as_deep_as_every_message_can_carry(wrap: Callable[[Any], Any]) -> None:
    deepest: Any = 1
    for _ in range(31):
        deepest = wrap(deepest)

    struct = to_struct({"a": deepest}, "m")
    hit = point_pb2.Hit(id="1", metadata=struct)
    response = point_pb2.StreamSearchResponse(results=[point_pb2.SearchResult(hits=[hit])])
    back = point_pb2.StreamSearchResponse.FromString(response.SerializeToString())
    assert from_struct(back.results[0].hits[0].metadata) == {"a": deepest}
    with pytest.raises(ValueError, match="nested more than 32 levels deep; flatten it"):
        to_struct({"a": wrap(deepest)}, "m")
