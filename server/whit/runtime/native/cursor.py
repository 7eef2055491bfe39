"""A place in a graph's nodes: what comes next is taken, or refused."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from whit.runtime.native.onnx_file import Node, OnnxGraph
from whit.runtime.native.parts import UnsupportedError


class Cursor:
    """Nodes of a graph from the first that reads ``value`` on; ``prelude`` is what comes before."""

    def __init__(self, graph: OnnxGraph, value: str) -> None:
        first = next((i for i, n in enumerate(graph.nodes) if value in n.inputs), len(graph.nodes))
        self._constants = graph.constants
        self.prelude = graph.nodes[:first]
        self._nodes = deque(graph.nodes[first:])

    @property
    def kind(self) -> str:
        """What comes next."""
        return self._nodes[0].kind if self._nodes else "the end"

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the next node reads."""
        return self._nodes[0].inputs if self._nodes else ()

    def take(self, *kinds: str) -> Node:
        """The next node.

        Raises:
            UnsupportedError: it is of none of these kinds.
        """
        if self.kind not in kinds:
            raise UnsupportedError(f"{self.kind} where {' or '.join(kinds)} was expected")
        return self._nodes.popleft()

    def take_all(self, *kinds: str) -> Node:
        """The next nodes, of these kinds one after the other; returns the last."""
        return [self.take(kind) for kind in kinds][-1]

    def enter(self, nodes: Sequence[Node]) -> None:
        """From here on, what comes next is ``nodes``, and then the rest."""
        self._nodes.extendleft(reversed(nodes))

    def is_constant(self, name: str) -> bool:
        """Whether a value is stored in the graph."""
        return name in self._constants

    def constant(self, name: str) -> NDArray[Any]:
        """A stored value; the same object at each call.

        Raises:
            UnsupportedError: it is computed.
        """
        if name not in self._constants:
            raise UnsupportedError(f"{name}, which is computed, where a constant was expected")
        return self._constants[name]
