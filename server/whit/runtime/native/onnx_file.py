"""Reads an ONNX file: the few fields of its messages that a graph of whit's has (onnx.proto, ONNX IR version 8 and later).

The base of a server does not have the ``onnx`` package, and needs no more of it than this.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from numpy.typing import NDArray

_Field = descriptor_pb2.FieldDescriptorProto
# message -> field: (number, type, or message; repeated)
_MESSAGES: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "Model": {"graph": (7, "Graph", False)},
    "Graph": {"node": (1, "Node", True), "initializer": (5, "Tensor", True), "input": (11, "Value", True)},
    "Value": {"name": (1, _Field.TYPE_STRING, False)},
    "Node": {
        "input": (1, _Field.TYPE_STRING, True),
        "output": (2, _Field.TYPE_STRING, True),
        "op_type": (4, _Field.TYPE_STRING, False),
        "attribute": (5, "Attribute", True),
    },
    "Attribute": {
        "name": (1, _Field.TYPE_STRING, False),
        "f": (2, _Field.TYPE_FLOAT, False),
        "i": (3, _Field.TYPE_INT64, False),
        "g": (6, "Graph", False),
    },
    "Tensor": {
        "dims": (1, _Field.TYPE_INT64, True),
        "data_type": (2, _Field.TYPE_INT32, False),
        "name": (8, _Field.TYPE_STRING, False),
        "raw_data": (9, _Field.TYPE_BYTES, False),
    },
}
# TensorProto.DataType
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2"}


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. ``attributes`` hold floats, ints and graphs (lists of nodes)."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """Nodes in the order of their computation, and the constants by name."""

    nodes: list[Node]
    constants: dict[str, NDArray[Any]]


def read_graph(source: Path | bytes) -> OnnxGraph:
    """The graph of an ONNX file, or of the bytes of one.

    Raises:
        ValueError: it is no ONNX file, reads what nothing computes, or has tensors of another kind than whit writes.
        OSError: it cannot be read.
    """
    model = _model_class()()
    try:
        model.ParseFromString(source if isinstance(source, bytes) else source.read_bytes())
    except message.DecodeError as error:
        raise ValueError(f"this is not an ONNX file: {error}") from None
    if not model.HasField("graph"):
        raise ValueError("this is not an ONNX file: it has no graph")
    constants = {tensor.name: _array(tensor) for tensor in model.graph.initializer}
    return OnnxGraph(_nodes(model.graph, constants.keys() | {value.name for value in model.graph.input}), constants)


def _nodes(graph: Any, known: AbstractSet[str]) -> list[Node]:
    """The nodes of a graph or branch; ``known`` are the names of what they may read from the start."""
    nodes, known = [], {"", *known}  # an empty name leaves an input out
    for node in graph.node:
        unknown = [name for name in node.input if name not in known]
        if unknown or not node.output:
            raise ValueError(f"{node.op_type} reads {unknown}, which nothing computes, and gives {list(node.output)}")
        attributes = {
            a.name: _nodes(a.g, known) if a.HasField("g") else a.f if a.HasField("f") else a.i for a in node.attribute
        }
        nodes.append(Node(node.op_type, tuple(node.input), node.output[0], attributes))
        known.update(node.output)
    return nodes


def _array(tensor: Any) -> NDArray[Any]:
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        raise ValueError(f"tensor {tensor.name} has element type {tensor.data_type}, which whit does not write")
    return np.frombuffer(tensor.raw_data, dtype).reshape(tuple(tensor.dims))


@cache
def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="whit/onnx_subset.proto", package="whit.onnx", syntax="proto2")
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            entry = described.field.add(name=field, number=number)
            entry.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                entry.type, entry.type_name = _Field.TYPE_MESSAGE, f".whit.onnx.{kind}"
            else:
                entry.type = _Field.Type.ValueType(kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("whit.onnx.Model"))
