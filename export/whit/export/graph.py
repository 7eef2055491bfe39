"""A small builder for ONNX graphs: append an op, get the name of its output.

Names are counted, so the same calls give the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
MICROSOFT = "com.microsoft"  # onnxruntime's own operators

FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64
INT32 = TensorProto.INT32
UINT8 = TensorProto.UINT8

Shape = Sequence[int | str]


class Graph:
    """A graph under construction. Values are names."""

    def __init__(self, outer: Graph | None = None) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = outer._constants if outer else []
        # By type, shape and first bytes, which nearly always tell tensors apart.
        self._known: dict[tuple[str, tuple[int, ...], bytes], list[tuple[str, NDArray[Any]]]] = (
            outer._known if outer else {}
        )
        self._numbers: Iterator[int] = outer._numbers if outer else itertools.count()

    def op(self, kind: str, *inputs: str, domain: str = "", output: str | None = None, **attributes: Any) -> str:
        """Appends ``kind(*inputs)`` and returns the name of its first output. An empty input name leaves it out."""
        number = next(self._numbers)
        name = output or f"{kind}_{number}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def choose(self, condition: str, then: Callable[[Graph], str], otherwise: Callable[[Graph], str]) -> str:
        """Appends an ``If``: the float32 value that ``then`` or ``otherwise`` makes. Both may use all values made so far."""
        branches = []
        for build in (then, otherwise):
            inner = Graph(self)
            result = helper.make_tensor_value_info(build(inner), FLOAT, None)
            branches.append(helper.make_graph(inner._nodes, "branch", [], [result]))
        return self.op("If", condition, then_branch=branches[0], else_branch=branches[1])

    def const(self, value: NDArray[Any]) -> str:
        """A constant tensor. Those of the same content are one: a layer that is run twice is stored once."""
        array = np.asarray(value, order="C")  # ascontiguousarray would turn a scalar into a vector
        alike = self._known.setdefault((array.dtype.str, array.shape, array.ravel()[:64].tobytes()), [])
        for name, other in alike:
            if array.tobytes() == other.tobytes():  # bytes, for 0.0 == -0.0
                return name
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        alike.append((name, array))
        return name

    def ints(self, *values: int) -> str:
        """A constant int64 vector."""
        return self.const(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A constant float32 scalar."""
        return self.const(np.array(value, np.float32))

    def model(self, inputs: Mapping[str, tuple[int, Shape]], outputs: Mapping[str, Shape]) -> onnx.ModelProto:
        """The finished model. Inputs map to (element type, shape), outputs (float32) to their shapes."""
        graph = helper.make_graph(
            self._nodes,
            "whit",
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="whit")
