"""Protobuf to plain values and back: encodings, vectors, metadata, statuses. Pure functions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import struct_pb2

from whit.contract.errors import FieldViolation, Problem, Reason
from whit.contract.vectors import EncodedVectors, Encoding, FloatMatrix, decode
from whit.contract.wire import ENCODING_NUMBERS, ENCODINGS
from whit.server.errors import ServiceError
from whit.v1 import embedding_pb2, vector_pb2

# What a client may send: bits have lost the lengths, and residual codes coded a second time would lose more than was asked for.
INPUT_ENCODINGS = (Encoding.FLOAT32, Encoding.FLOAT16, Encoding.INT8)

_POLICIES = frozenset(embedding_pb2.OverflowPolicy.values())
_EXACT = 2**53  # every whole number up to here is a float
BYTES_A_JSON_BYTE = 6  # that metadata has at most on the wire: a number of one digit in a list has 11 there, 2 as JSON
METADATA_DEPTH = 32  # objects and lists inside each other: more might come in, but not go out again in every message


def encoding_of(number: int, allowed: tuple[Encoding, ...] = tuple(Encoding)) -> Encoding:
    """The encoding with that number; UNSPECIFIED is FLOAT32.

    Raises:
        ValueError: an unknown number, or not one of ``allowed``; the message is the description of a violation.
    """
    encoding = ENCODINGS.get(number or vector_pb2.VECTOR_ENCODING_FLOAT32)
    if encoding not in allowed:
        names = ", ".join(f"{e.name} ({ENCODING_NUMBERS[e]})" for e in allowed)
        raise ValueError(f"must be one of {names}; got {encoding.name if encoding else number}")
    return encoding


def truncates(policy: int) -> bool:
    """Whether an ``OverflowPolicy`` asks for items to be cut.

    Raises:
        ValueError: an unknown number; the message is the description of a violation.
    """
    if policy not in _POLICIES:
        raise ValueError(f"must be OVERFLOW_POLICY_ERROR (1) or OVERFLOW_POLICY_TRUNCATE (2); got {policy}")
    return policy == embedding_pb2.OVERFLOW_POLICY_TRUNCATE


def fill_batch(batch: vector_pb2.VectorBatch, encoded: EncodedVectors) -> None:
    """Writes a matrix as it travels."""
    batch.encoding = ENCODING_NUMBERS[encoded.encoding]
    batch.count, batch.dimension_count = encoded.count, encoded.dimension_count
    batch.data, batch.scales = encoded.data, encoded.scales


def from_batch(batch: vector_pb2.VectorBatch, *, count: int | None, dimension_count: int, at: str) -> FloatMatrix:
    """The matrix in a batch: float32 [count, dimension_count], possibly with rows that are not finite.

    Args:
        batch: as received.
        count: rows it must have; None for any number.
        dimension_count: columns it must have.
        at: path of the batch in the request.

    Raises:
        ServiceError: INVALID_VECTOR, the form of the batch is wrong.
    """
    try:
        encoding = encoding_of(batch.encoding, INPUT_ENCODINGS)
    except ValueError as error:
        raise _bad_vectors(f"{at}.encoding", str(error)) from None
    if count is not None and batch.count != count:
        raise _bad_vectors(f"{at}.count", f"must be {count}, a row for each item; got {batch.count}")
    if batch.dimension_count != dimension_count:
        raise _bad_vectors(
            f"{at}.dimension_count",
            f"must be {dimension_count}, the values in a vector of this collection; got {batch.dimension_count}",
        )
    try:
        with np.errstate(all="ignore"):  # rows that are not finite are the caller's to refuse, one by one
            return decode(EncodedVectors(encoding, batch.count, batch.dimension_count, batch.data, batch.scales))
    except ValueError as error:
        raise _bad_vectors(at, str(error)) from None


def metadata_json(struct: struct_pb2.Struct) -> str:
    """Metadata as the text of a JSON object, by name; whole numbers are written without a fraction.

    Raises:
        ValueError: a value is missing, NaN, infinite or too deep; the message is the description of a violation.
    """
    if not struct.fields:
        return "{}"
    return json.dumps(_plain(struct, 1), ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)


def fill_struct(struct: struct_pb2.Struct, text: str) -> None:
    """Metadata from the text of a JSON object, as ``metadata_json`` writes it."""
    if text != "{}":
        struct.SetInParent()
        _fill(struct, json.loads(text))


def with_path(problem: Problem, path: str, longer: str) -> Problem:
    """The problem with the path of its item made more precise, such as ``points[3]`` into ``points[3].text``."""
    return Problem(
        problem.reason,
        problem.message.replace(path, longer, 1),
        tuple(FieldViolation(v.field.replace(path, longer, 1), v.description) for v in problem.violations),
        problem.metadata,
        problem.retry_after_s,
    )


def _bad_vectors(field: str, description: str) -> ServiceError:
    message = f"{field}: {description}"
    return ServiceError(Problem(Reason.INVALID_VECTOR, message, (FieldViolation(field, description),)))


def _plain(struct: struct_pb2.Struct, depth: int) -> dict[str, Any]:
    return {name: _plain_value(value, name, depth) for name, value in struct.fields.items()}


def _plain_value(value: struct_pb2.Value, name: str, depth: int) -> Any:
    if depth > METADATA_DEPTH:
        raise ValueError(f"is nested more than {METADATA_DEPTH} levels deep, at {name!r}; flatten it")
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise ValueError(f"has {number} in {name!r}, which JSON does not have; leave it out or send null")
            # -0.0 stays as it is.
            whole = number.is_integer() and abs(number) <= _EXACT and (number or math.copysign(1, number) > 0)
            return int(number) if whole else number
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case "struct_value":
            return _plain(value.struct_value, depth + 1)
        case "list_value":
            return [_plain_value(item, name, depth + 1) for item in value.list_value.values]
        case _:
            raise ValueError(f"has a value of no kind in {name!r}; set one, or null_value")


def _fill(struct: struct_pb2.Struct, content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        _fill_value(struct.fields[name], value)


def _fill_value(target: struct_pb2.Value, value: Any) -> None:
    match value:
        case None:
            target.null_value = struct_pb2.NULL_VALUE
        case bool():
            target.bool_value = value
        case int() | float():
            target.number_value = value
        case str():
            target.string_value = value
        case dict():
            target.struct_value.SetInParent()
            _fill(target.struct_value, value)
        case _:
            target.list_value.SetInParent()
            for item in value:
                _fill_value(target.list_value.values.add(), item)
