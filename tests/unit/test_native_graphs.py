"""What the kernels do not know is refused by name, and nothing that is read from a file can lead the C code astray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.native import POSITION_OFFSET, random_program, static_package
from whit.contract.manifest import GRAPH_FILE
from whit.runtime.native.cursor import Cursor
from whit.runtime.native.layout import Layout
from whit.runtime.native.onnx_file import Node, OnnxGraph, read_graph
from whit.runtime.native.parts import FloatLinear, Linear, Norm, Program, Rows, UnsupportedError
from whit.runtime.native.program import read_program


@cache
def graph_bytes() -> bytes:
    return (static_package() / GRAPH_FILE).read_bytes()


@cache
def graph() -> OnnxGraph:
    return read_graph(graph_bytes())


def first_of_the_model() -> int:
    """The node that looks the words up; what is before are indices of the padded grid, which the kernels have no use for."""
    return next(i for i, node in enumerate(graph().nodes) if "input_ids" in node.inputs)


def edited(change: Callable[[onnx.GraphProto], object]) -> bytes:
    """The package's graph, changed as a protobuf."""
    model = onnx.load_from_string(graph_bytes())
    change(model.graph)
    return model.SerializeToString()


def node_of(kind: str, nth: int = 0) -> int:
    return [i for i, node in enumerate(graph().nodes) if node.kind == kind][nth]


def with_node(index: int, **changes: Any) -> OnnxGraph:
    nodes = list(graph().nodes)
    nodes[index] = replace(nodes[index], **changes)
    return OnnxGraph(nodes, graph().constants)


# Files


def test_a_graph_is_read_as_onnx_reads_it() -> None:
    wanted = onnx.load_from_string(graph_bytes()).graph

    assert [(n.kind, list(n.inputs), n.output) for n in graph().nodes] == [
        (n.op_type, list(n.input), n.output[0]) for n in wanted.node
    ]
    assert list(graph().constants) == [tensor.name for tensor in wanted.initializer]
    for tensor in wanted.initializer:
        found, array = graph().constants[tensor.name], onnx.numpy_helper.to_array(tensor)
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    for node, own in zip(wanted.node, graph().nodes, strict=True):
        for attribute in node.attribute:
            if attribute.type in (onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT):
                assert own.attributes[attribute.name] == onnx.helper.get_attribute_value(attribute)


@pytest.mark.parametrize("content", [b"", b"\x00", b"{}", b"not a graph", b"\xff" * 100, b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_onnx(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(ValueError, match="not an ONNX file"):
        read_graph(tmp_path / "model.onnx")


def test_a_file_that_ends_early() -> None:
    for size in np.linspace(1, len(graph_bytes()) - 1, 40).astype(int):
        with pytest.raises(ValueError, match=r"not an ONNX file|nothing computes|reshape|not match|buffer size"):
            read_graph(graph_bytes()[:size])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_graph(tmp_path / "model.onnx")


def test_a_tensor_of_a_kind_that_whit_does_not_write() -> None:
    def change(g: onnx.GraphProto) -> None:
        g.initializer[3].data_type = onnx.TensorProto.DOUBLE

    with pytest.raises(ValueError, match=rf"tensor {graph_name(3)} has element type 11, which whit does not write"):
        read_graph(edited(change))


def graph_name(index: int) -> str:
    return list(graph().constants)[index]


def test_a_node_less_leaves_a_value_that_nothing_computes() -> None:
    for index in range(len(graph().nodes) - 1):

        def change(g: onnx.GraphProto, index: int = index) -> None:
            del g.node[index]

        with pytest.raises(ValueError, match=rf"reads .*{graph().nodes[index].output}.*, which nothing computes"):
            read_graph(edited(change))


def test_a_node_before_what_it_reads() -> None:
    def change(g: onnx.GraphProto) -> None:
        g.node.append(g.node.pop(first_of_the_model()))

    with pytest.raises(ValueError, match="which nothing computes"):
        read_graph(edited(change))


# Graphs


def test_another_op_in_any_place() -> None:
    for index in range(first_of_the_model(), len(graph().nodes)):
        with pytest.raises(UnsupportedError, match=r"Sinh|after the layers"):
            read_program(with_node(index, kind="Sinh"))


def test_an_op_more_in_any_place() -> None:
    for index in range(first_of_the_model() + 1, len(graph().nodes) + 1):
        nodes = list(graph().nodes)
        nodes.insert(index, Node("Sinh", (nodes[index - 1].output,), "extra", {}))

        with pytest.raises(UnsupportedError, match=r"Sinh|after the layers"):
            read_program(OnnxGraph(nodes, graph().constants))


@pytest.mark.parametrize("count", [0, 1, 10, 40])
def test_a_graph_that_ends_early(count: int) -> None:
    nodes = graph().nodes[: first_of_the_model() + count]

    with pytest.raises(UnsupportedError, match=r"the end|after the layers|values of"):
        read_program(OnnxGraph(nodes, graph().constants))


def test_a_weight_that_is_computed() -> None:
    read = {name for node in graph().nodes[first_of_the_model() :] for name in node.inputs} & set(graph().constants)
    places = {i for node in graph().nodes if node.kind == "Reshape" for i in node.inputs[1:]}
    pooled = {i for node in graph().nodes[node_of("Unsqueeze", -1) :] for i in node.inputs}

    for name in sorted(read - places - pooled):
        constants = {key: value for key, value in graph().constants.items() if key != name}
        with pytest.raises(UnsupportedError, match=f"{name}, which is computed"):
            read_program(OnnxGraph(graph().nodes, constants))


def test_codes_that_the_product_does_not_expect() -> None:
    index = node_of("QuantizeLinear")
    other = graph().nodes[node_of("QuantizeLinear", 1)]
    mine = graph().nodes[index]
    assert mine.inputs[1] != other.inputs[1]

    with pytest.raises(UnsupportedError, match="codes are not those"):
        read_program(with_node(index, inputs=(mine.inputs[0], other.inputs[1], mine.inputs[2])))


def test_weights_with_a_zero_point() -> None:
    index = node_of("MatMulIntegerToFloat")
    inputs = list(graph().nodes[index].inputs)
    inputs[5] = inputs[4]

    with pytest.raises(UnsupportedError, match="codes are not those"):
        read_program(with_node(index, inputs=tuple(inputs)))


def test_activations_in_signed_codes() -> None:
    zero = graph().nodes[node_of("QuantizeLinear")].inputs[2]
    constants = {**graph().constants, zero: np.array(3, np.int8)}

    with pytest.raises(UnsupportedError, match="activations in int8 codes"):
        read_program(OnnxGraph(graph().nodes, constants))


def test_scores_of_another_size() -> None:
    index = node_of("FusedMatMul")
    attributes = graph().nodes[index].attributes | {"alpha": 1.0}

    with pytest.raises(UnsupportedError, match="attention scores times 1"):
        read_program(with_node(index, attributes=attributes))


def test_another_epsilon_in_one_of_the_norms() -> None:
    with pytest.raises(UnsupportedError, match="2 values of epsilon"):
        read_program(with_node(node_of("LayerNormalization", 2), attributes={"epsilon": 0.5}))


def test_any_number_of_branches_one_after_the_other() -> None:
    """More than the stack could hold, if each lay within the one before."""
    nodes = Cursor(OnnxGraph([Node("If", ("input_ids",), "end", {})], {}), "input_ids")

    for _ in range(500_000):
        nodes.enter([])

    nodes.take("If")
    assert nodes.kind == "the end"


def test_a_graph_without_a_model() -> None:
    with pytest.raises(UnsupportedError, match="the end where Gather was expected"):
        read_program(OnnxGraph([], {}))


# Sizes


def arrays_of(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All arrays of a program, by where they are."""
    if isinstance(part, np.ndarray):
        yield path, part
    elif is_dataclass(part):
        for field in fields(part):
            yield from arrays_of(getattr(part, field.name), f"{path}.{field.name}")
    elif isinstance(part, list):
        for i, each in enumerate(part):
            yield from arrays_of(each, f"{path}.{i}")


def with_array(part: Any, path: list[str], array: Any) -> Any:
    """A copy of a program with one array in another's place."""
    if not path:
        return array
    first, *rest = path
    if isinstance(part, list):
        return [with_array(each, rest, array) if i == int(first) else each for i, each in enumerate(part)]
    return replace(part, **{first: with_array(getattr(part, first), rest, array)})


PROGRAM = random_program([(4, 64), (0, 33), (2, 0)], words="shared")
WRONG: dict[str, Callable[[Any], Any]] = {
    "shorter": lambda array: array[:-1],
    "narrower": lambda array: array[..., :-1],
    "empty": lambda array: array[:0],
    "flat": lambda array: array.reshape(-1) if array.ndim > 1 else array.reshape(-1, 1),
    "float64": lambda array: array.astype(np.float64),
    "a scalar": lambda array: np.array(1, array.dtype),
}
# Any number of rows is a table; it must only hold what is looked up in it.
ANY_COUNT = (".words.places", ".positions.codes", ".positions.scales")


MISFITS = [
    (path, wrong)
    for path, _ in arrays_of(PROGRAM)
    for wrong in WRONG
    if not (path in ANY_COUNT and wrong in ("shorter", "narrower"))
]


@pytest.mark.parametrize(("path", "wrong"), MISFITS)
def test_an_array_that_does_not_fit(path: str, wrong: str) -> None:
    array = dict(arrays_of(PROGRAM))[path]
    program = with_array(PROGRAM, path.split(".")[1:], WRONG[wrong](array))

    with pytest.raises(UnsupportedError, match=r"expected|width|heads|beyond|without the other"):
        Layout(program, position_offset=POSITION_OFFSET)


@pytest.mark.parametrize("row", [-1, 45])
def test_tokens_that_read_rows_that_are_not_there(row: int) -> None:
    places = np.array([0, row, 44], np.int32)
    program = replace(PROGRAM, words=replace(PROGRAM.words, places=places))

    with pytest.raises(UnsupportedError, match=r"words.places of rows beyond the 45 that there are"):
        Layout(program, position_offset=POSITION_OFFSET)


@pytest.mark.parametrize("offset", [-1, 302, 1000])
def test_positions_that_begin_beyond_their_table(offset: int) -> None:
    with pytest.raises(UnsupportedError, match=f"302 positions, of which the first is {offset}"):
        Layout(PROGRAM, position_offset=offset)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_none(scale: float) -> None:
    block = PROGRAM.blocks[0]
    assert isinstance(block.down, Linear)
    program = replace(PROGRAM, blocks=[replace(block, down=replace(block.down, scale=scale))])

    with pytest.raises(UnsupportedError, match=r"layers.0.down with scale"):
        Layout(program, position_offset=POSITION_OFFSET)


@pytest.mark.parametrize("ceiling", [float("nan"), -float("inf"), -1.0, 0.0])
def test_ceilings_that_are_none(ceiling: float) -> None:
    """NaN most of all, which one side might take for a ceiling and the other for none."""
    program = replace(PROGRAM, blocks=[replace(PROGRAM.blocks[0], ceiling=ceiling)])

    with pytest.raises(UnsupportedError, match=f"layers.0 with activations that end at {ceiling}"):
        Layout(program, position_offset=POSITION_OFFSET)


def test_halves_of_rows_that_make_no_whole_one() -> None:
    packed = Rows(np.zeros((9, 16), np.int8), np.ones((9, 1), np.float32))
    norm = Norm(np.ones(33, np.float32), np.zeros(33, np.float32))
    projection = FloatLinear(np.zeros((33, 32), np.float32), np.zeros(32, np.float32))

    with pytest.raises(UnsupportedError, match="with rows of a width of 32, not 33"):
        Layout(
            replace(PROGRAM, words=packed, positions=packed, embedding_norm=norm, projection=projection),
            position_offset=POSITION_OFFSET,
        )


def test_a_layer_with_half_a_pair() -> None:
    block = PROGRAM.blocks[0]
    for change in ({"qkv": None}, {"up": None}, {"out": PROGRAM.blocks[1].out}, {"head_count": 0}):
        with pytest.raises(UnsupportedError, match=r"layers\.0\.(qkv|up)"):
            Layout(replace(PROGRAM, blocks=[replace(block, **change)]), position_offset=POSITION_OFFSET)


@pytest.mark.parametrize("width", [8, 16, 24, 40, 48])
def test_a_width_that_fills_no_panels(width: int) -> None:
    program: Program = random_program([(2, 16)], width=width)

    with pytest.raises(UnsupportedError, match=f"a width of {width}, which is no multiple of 32"):
        Layout(program, position_offset=POSITION_OFFSET)
