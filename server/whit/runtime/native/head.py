"""Reads what comes after a graph's layers: pooling, dense layers, unit length."""

from __future__ import annotations

import numpy as np

from whit.runtime.native.cursor import Cursor
from whit.runtime.native.parts import Dense, FloatLinear, UnsupportedError

_ACTIVATIONS = {"Relu": "relu", "Tanh": "tanh", "Gelu": "gelu"}


def read_pooling(nodes: Cursor, *, weighed: bool) -> str:
    """How states become a row a text, by its name in ``Program``; ``weighed``: a head's attention to itself was read before.

    Raises:
        UnsupportedError: in a way that the kernels do not know.
    """
    if nodes.kind == "Gather":
        nodes.take_all("Gather", "Gather")
        return "cls"
    if nodes.kind == "Sub":
        nodes.take_all("Sub", "Mul", "Unsqueeze", "Gather", "Add", "ReduceMax")
        return "max"
    averages, by_place = nodes.kind == "Add", nodes.kind == "CumSum"
    if averages or by_place:
        nodes.take_all(nodes.kind, "Mul")
    nodes.take_all("Unsqueeze", "Gather", "MatMul")
    if nodes.kind == "Squeeze":  # earlier versions of whit wrote these the other way round
        nodes.take_all("Squeeze", "ReduceSum", "Div")
        by_root = False
    else:
        nodes.take("ReduceSum")
        by_root = nodes.kind == "Sqrt"
        nodes.take_all(*["Sqrt"] * by_root, "Squeeze", "Div")
    if weighed:
        return "ditto"
    return "first_last" if averages else "weighted_mean" if by_place else "mean_sqrt_len" if by_root else "mean"


def read_dense(nodes: Cursor) -> list[Dense]:
    """The layers after pooling."""
    found = []
    while nodes.kind == "MatMul":
        weight = nodes.constant(nodes.take("MatMul").inputs[1])
        bias = (
            nodes.constant(nodes.take("Add").inputs[1])
            if nodes.kind == "Add"
            else np.zeros(weight.shape[1], np.float32)
        )
        activation = _ACTIVATIONS[nodes.take(*_ACTIVATIONS).kind] if nodes.kind in _ACTIVATIONS else "identity"
        found.append(Dense(FloatLinear(weight, bias), activation))
    return found


def read_end(nodes: Cursor) -> bool:
    """Whether vectors get unit length.

    Raises:
        UnsupportedError: there is something else before the end.
    """
    normalize = nodes.kind == "ReduceL2"
    if normalize:
        nodes.take_all("ReduceL2", "Max", "Div")
    nodes.take("Identity")
    if nodes.kind != "the end":
        raise UnsupportedError(f"{nodes.kind} after the vectors")
    return normalize
