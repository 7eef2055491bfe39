"""Whatever a graph holds, it is refused or it runs within its memory: no text of any graph may bring a server down.

A graph that is read has passed its checksum, so this is about faulty exporters and forged packages. Run under AddressSanitizer,
these examples prove more than here, where only the memory behind the scratch memory is watched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.support.native import kernel_vectors, needs_kernels, open_model, static_package
from whit.contract.manifest import GRAPH_FILE
from whit.runtime.native.onnx_file import Node, OnnxGraph, read_graph
from whit.runtime.native.parts import UnsupportedError
from whit.runtime.native.program import read_program

pytestmark = needs_kernels

PACKAGES: list[tuple[str, dict[str, Any]]] = [
    ("bert", {}),
    ("mpnet", {"num_attention_heads": 16, "intermediate_size": 40}),
    ("roberta", {"pooling": "cls", "normalize": False}),
]
TEXTS = [np.arange(5, 5 + count) for count in (1, 2, 17, 40)]

Random = np.random.Generator
Change = Callable[[OnnxGraph, Random], OnnxGraph]


@cache
def graph(number: int) -> OnnxGraph:
    family, changes = PACKAGES[number]
    return read_graph(static_package(family, **changes) / GRAPH_FILE)


def other_array(found: OnnxGraph, random: Random) -> OnnxGraph:
    """One constant becomes shorter, longer, flatter, of another type, or of other values."""
    name = str(random.choice(list(found.constants)))
    array = found.constants[name]
    changes: list[Callable[[], Any]] = [
        lambda: array[: len(array) // 2] if array.ndim else array,
        lambda: np.concatenate([array, array]) if array.ndim else array,
        lambda: array.reshape(-1),
        lambda: array.T,
        lambda: array[..., None],
        lambda: array.astype(random.choice(["f4", "i1", "u1", "i4", "i8", "f2"])),
        lambda: np.array(array.ravel()[0]) if array.size else array,
        lambda: array * 0,
        lambda: array[:0] if array.ndim else array,
        lambda: (array + random.integers(-300, 300)).astype(array.dtype),
    ]
    with np.errstate(all="ignore"):
        changed = random.choice(np.array(changes))()
    return OnnxGraph(found.nodes, {**found.constants, name: changed})


def other_name(found: OnnxGraph, random: Random) -> OnnxGraph:
    """One node reads another constant."""
    nodes = list(found.nodes)
    index = int(random.integers(len(nodes)))
    node = nodes[index]
    inputs = list(node.inputs) or [""]
    inputs[int(random.integers(len(inputs)))] = str(random.choice(list(found.constants)))
    nodes[index] = Node(node.kind, tuple(inputs), node.output, node.attributes)
    return OnnxGraph(nodes, found.constants)


def fewer_inputs(found: OnnxGraph, random: Random) -> OnnxGraph:
    nodes = list(found.nodes)
    index = int(random.integers(len(nodes)))
    node = nodes[index]
    nodes[index] = Node(node.kind, node.inputs[: int(random.integers(3))], node.output, {})
    return OnnxGraph(nodes, found.constants)


def without_nodes(found: OnnxGraph, random: Random) -> OnnxGraph:
    start = int(random.integers(len(found.nodes)))
    nodes = [*found.nodes[:start], *found.nodes[start + int(random.integers(1, 4)) :]]
    return OnnxGraph(nodes, found.constants)


def twice(found: OnnxGraph, random: Random) -> OnnxGraph:
    start, count = int(random.integers(len(found.nodes))), int(random.integers(1, 30))
    some = found.nodes[start : start + count]
    return OnnxGraph([*found.nodes[:start], *some, *found.nodes[start:]], found.constants)


CHANGES: list[Change] = [
    other_array,
    other_array,
    other_array,
    other_name,
    other_name,
    fewer_inputs,
    without_nodes,
    twice,
]


def outcome(changed: OnnxGraph) -> str:
    """What became of a graph. Any error but the ones that are meant fails the test, and a crash ends it."""
    try:
        model = open_model(read_program(changed), position_offset=2)
    except UnsupportedError:
        return "refused"
    try:
        kernel_vectors(model, TEXTS)
    except ValueError as error:  # there are fewer positions or tokens now
        return str(error)[: len("texts must have")]
    return "ran"


@pytest.mark.parametrize("number", range(len(PACKAGES)))
def test_a_changed_graph_is_refused_or_runs(number: int) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(200):
        random = np.random.default_rng(seed)
        changed = graph(number)
        for _ in range(seed % 3 + 1):
            changed = CHANGES[int(random.integers(len(CHANGES)))](changed, random)

        outcomes[outcome(changed)] += 1

    assert outcomes.keys() <= {"refused", "ran", "texts must have", "token ids must "}
    assert min(outcomes["refused"], outcomes["ran"]) > 20
