"""Metadata: Python's JSON values to and from ``google.protobuf.Struct``.

A Struct has one kind of number, the 64-bit float. So whole numbers come back as int (``3.0`` becomes ``3``), and an int that a float
cannot hold exactly is refused here rather than changed on the way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import struct_pb2

_EXACT = 2**53  # every int up to here is a float
_DEPTH = 32  # objects and lists inside each other: protobuf reads no message with many more


def to_struct(metadata: Mapping[str, Any], field: str) -> struct_pb2.Struct:
    """Packs a JSON object; ``field`` names it in errors.

    Raises:
        TypeError: a key is no str, or a value is none of str, int, float, bool, None, list, tuple, mapping.
        ValueError: NaN or infinity, an int beyond 2**53, text that is no UTF-8, or more than 32 levels.
    """
    struct = struct_pb2.Struct()
    _fill_struct(struct, metadata, field, 1)
    return struct


def from_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """Unpacks a JSON object, its names sorted, for a map has no order; whole numbers up to 2**53 become int."""
    return {name: _from_value(value) for name, value in sorted(struct.fields.items())}


def _fill_struct(struct: struct_pb2.Struct, content: Mapping[str, Any], field: str, depth: int) -> None:
    if not isinstance(content, Mapping):
        raise TypeError(f"{field} must be a mapping of JSON values, got {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str):
            raise TypeError(f"{field} has the key {name!r}, but keys must be str; write {str(name)!r}")
        _fill_value(struct.fields[utf8(name, field)], value, f"{field}[{name!r}]", depth)


def _fill_value(target: struct_pb2.Value, value: Any, field: str, depth: int) -> None:
    if depth > _DEPTH:
        raise ValueError(f"{field[:80]}… is nested more than {_DEPTH} levels deep; flatten it")
    if isinstance(value, np.generic):
        value = value.item()
    match value:
        case None:
            target.null_value = struct_pb2.NULL_VALUE
        case bool():
            target.bool_value = value
        case int() | float():
            target.number_value = _number(value, field)
        case str():
            target.string_value = utf8(value, field)
        case Mapping():
            target.struct_value.SetInParent()
            _fill_struct(target.struct_value, value, field, depth + 1)
        case list() | tuple():
            _fill_list(target.list_value, value, field, depth + 1)
        case _:
            raise TypeError(
                f"{field} is a {type(value).__name__}, which JSON does not have; convert it, for example with str()"
            )


def _fill_list(target: struct_pb2.ListValue, values: Sequence[Any], field: str, depth: int) -> None:
    target.SetInParent()
    for index, value in enumerate(values):
        _fill_value(target.values.add(), value, f"{field}[{index}]", depth)


def _number(value: float, field: str) -> float:
    if isinstance(value, int) and not -_EXACT <= value <= _EXACT:
        raise ValueError(f"{field} is {value}, more than a 64-bit float holds exactly (2**53); store it as str")
    if not math.isfinite(value):
        raise ValueError(f"{field} is {value}, which JSON does not have; leave it out or use None")
    return float(value)


def _from_value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= _EXACT else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [_from_value(item) for item in value.list_value.values]
        case _:
            return None


def utf8(text: str, field: str) -> str:
    """``text``, unless it holds half a surrogate pair and so cannot be sent.

    Raises:
        ValueError: it does; the message names ``field``.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{field} has half a surrogate pair at character {error.start}, which is no text; "
                "read the source with errors='replace'"
            ) from None
    return text
