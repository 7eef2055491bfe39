"""A place in a graph's nodes: what comes next is taken, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
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
        self._nodes = iter(graph.nodes[first:])
        self._next = next(self._nodes, None)

    @property
    def kind(self) -> str:
        """What comes next."""
        return self._next.kind if self._next else "the end"

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the next node reads."""
        return self._next.inputs if self._next else ()

    def take(self, *kinds: str) -> Node:
        """The next node.

        Raises:
            UnsupportedError: it is of none of these kinds.
        """
        node = self._next
        if node is None or node.kind not in kinds:
            raise UnsupportedError(f"{self.kind} where {' or '.join(kinds)} was expected")
        self._next = next(self._nodes, None)
        return node

    def take_all(self, *kinds: str) -> Node:
        """The next nodes, of these kinds one after the other; returns the last."""
        return [self.take(kind) for kind in kinds][-1]

    def enter(self, nodes: Sequence[Node]) -> None:
        """From here on, what comes next is ``nodes``, and then the rest."""
        rest = [] if self._next is None else [self._next]
        self._nodes = chain(nodes, rest, self._nodes)
        self._next = next(self._nodes, None)

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
