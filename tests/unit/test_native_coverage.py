"""What whit's own kernels run: for each thing that a graph may have, a tiny package that has it, beside onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.support import tiny
from tests.support.native import needs_kernels, open_model
from whit.contract.manifest import GRAPH_FILE, PackageError
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.linear import Scheme
from whit.export.quantize import Subject, row_candidate, smoothed_candidate, static_candidate
from whit.runtime import Tokenizer, open_encoder, open_package, verify
from whit.runtime.native.encoder import NativeEncoder
from whit.runtime.native.layout import Layout
from whit.runtime.native.memory import aligned_memory
from whit.runtime.native.onnx_file import OnnxGraph, read_graph
from whit.runtime.native.parts import FloatLinear, Linear, Program, RowLinear
from whit.runtime.native.program import read_program
from whit.runtime.verify import TOLERANCE

pytestmark = needs_kernels

TEXTS = ("a", "the water was cold", "people say that great work takes years", "water " * 40, "sea " * 290)
WORDS = [word for word in tiny.vocabulary() if word.isalpha()]
CALIBRATION = [" ".join(WORDS[i : i + 12]) for i in range(0, len(WORDS), 12)]
# Every linear layer calibrated, unless a test asks for something else.
STATIC: Mapping[str, Any] = {"max_layer_error": 0.9, "max_loss": 100.0}


def write(folder: Path, family: str = "bert", **changes: Any) -> Path:
    """A tiny checkpoint, wide enough for the kernels."""
    widths = {"dim": 64, "hidden_dim": 128} if family == "distilbert" else {"hidden_size": 64, "intermediate_size": 128}
    return tiny.write_checkpoint(folder / "checkpoint", family, **{**widths, **changes})


def edit_weights(checkpoint: Path, name: str, change: Any) -> None:
    """Puts ``change(tensor)`` in the place of one tensor."""
    tensors = load_file(checkpoint / "model.safetensors")
    tensors[name] = np.ascontiguousarray(change(tensors[name]), np.float32)
    save_file(tensors, checkpoint / "model.safetensors")


def compiled(checkpoint: Path, **options: Any) -> Path:
    """The int8 package of a checkpoint."""
    out, lines = checkpoint.with_name("package"), checkpoint.with_name("calibration.txt")
    lines.write_text("\n".join(CALIBRATION), encoding="utf-8")
    compile_checkpoint(checkpoint, out, ExportOptions(name="tiny", calibration=lines, **{**STATIC, **options}))
    return out


def check(directory: Path, layer_count: int = 0) -> NDArray[np.float32]:
    """The kernels open the package, agree with onnxruntime, and give a text the same bits alone and in a batch."""
    package = open_package(directory)
    native, other = open_encoder(package, "native"), open_encoder(package, "onnxruntime")
    tokenizer = Tokenizer(package)
    ids = [tokenizer.cut(each, package.manifest.max_token_count) for each in tokenizer.encode(TEXTS)]
    found, wanted = (encoder.encode(ids, layer_count=layer_count) for encoder in (native, other))
    alone = np.concatenate([native.run([each], layer_count) for each in ids])

    assert isinstance(native, NativeEncoder)
    size = np.linalg.norm(wanted, axis=1).max()
    assert np.abs(found - wanted).max() <= TOLERANCE["int8"] * max(1.0, size)
    cosines = (found * wanted).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() > 0.999
    assert np.array_equal(found, alone)
    assert np.array_equal(found[::-1], native.run(ids[::-1], layer_count))
    return found


@pytest.mark.parametrize(
    "options", [{"embedding_dtype": "int4"}, {"embedding_dtype": "pq", "embedding_code_count": 16}]
)
# 96: one scale a row in four bits, which holds for both halves of it.
@pytest.mark.parametrize(("width", "shared"), [(64, True), (96, False)])
def test_word_embeddings_in_few_bits(tmp_path: Path, options: dict[str, Any], width: int, shared: bool) -> None:
    checkpoint = write(tmp_path, hidden_size=width)
    step = 2 if shared else 1  # tokens that have the same row
    # Much larger than positions: a wrong row shows.
    edit_weights(
        checkpoint, "embeddings.word_embeddings.weight", lambda rows: 8 * rows[np.arange(len(rows)) // step * step]
    )

    check(compiled(checkpoint, **options))


def test_four_bits_with_several_scales_a_row(tmp_path: Path) -> None:
    # 352 is 4 times 88, which sixteen does not divide.
    checkpoint = write(tmp_path, hidden_size=352, num_attention_heads=11)

    check(compiled(checkpoint, embedding_dtype="int4"))


def test_a_relative_position_bias(tmp_path: Path) -> None:
    # The longest text has tokens farther apart than those that have biases of their own.
    checkpoint = write(tmp_path, "mpnet", max_position_embeddings=302)
    edit_weights(checkpoint, "encoder.relative_attention_bias.weight", lambda table: 4 * table)

    check(compiled(checkpoint, max_token_count=300))


@pytest.mark.parametrize(
    ("family", "most"), [("bert", 128), ("mpnet", 64)]
)  # 128: one path for whole texts, one for others
def test_layers_chosen_by_each_request(tmp_path: Path, family: str, most: int) -> None:
    checkpoint = write(tmp_path, family, num_hidden_layers=4, max_position_embeddings=most + 2)
    directory = compiled(checkpoint, depths=(1, 3), max_token_count=most)

    all_, one, three, four = (check(directory, layer_count=count) for count in (0, 1, 3, 4))

    assert np.array_equal(all_, four)
    assert min(np.abs(all_ - one).max(), np.abs(all_ - three).max(), np.abs(one - three).max()) > 0.05


def program_of(directory: Path) -> Program:
    return read_program(read_graph(directory / GRAPH_FILE))


def choose(monkeypatch: pytest.MonkeyPatch, wanted: Mapping[str, str], hidden: int = 64, inner: int = 128) -> None:
    """Has the compiler take the scheme that ``wanted`` names for a linear layer, and ``static`` for others."""
    parts = {(hidden, 3 * hidden): "qkv", (hidden, hidden): "out", (hidden, inner): "up", (inner, hidden): "down"}

    def chosen(subject: Subject, max_error: float) -> tuple[str, Scheme, float]:
        del max_error
        inputs, outputs = subject.linear.weight.shape
        part = parts.get((inputs, outputs), "up" if inputs == hidden else "down")  # splits made it wider
        match wanted.get(part, "static"):
            case "row":
                return "row", row_candidate(subject).scheme, 0.0
            case "smoothed":
                return "smoothed", smoothed_candidate(subject).scheme, 0.0
            case "float32":
                return "float32", subject.linear, 0.0
            case _:
                return "static", static_candidate(subject).scheme, 0.0

    monkeypatch.setattr("whit.export.compile.choose_scheme", chosen)


KINDS = {"row": RowLinear, "float32": FloatLinear, "smoothed": Linear}


@pytest.mark.parametrize("kind", ["row", "float32"])
@pytest.mark.parametrize("parts", [("qkv",), ("out",), ("up",), ("down",), ("qkv", "out", "up", "down")])
def test_linear_layers_of_another_scheme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, parts: tuple[str, ...]
) -> None:
    # Heads of 12 and 132 columns: neither ends where sixteen values or 32 do.
    checkpoint = write(tmp_path, hidden_size=96, num_attention_heads=8, intermediate_size=132)
    choose(monkeypatch, dict.fromkeys(parts, kind), 96, 132)
    directory = compiled(checkpoint)

    check(directory)

    for block in program_of(directory).blocks:
        found = {part for part in ("qkv", "out", "up", "down") if isinstance(getattr(block, part), KINDS[kind])}
        assert found == set(parts)


@pytest.mark.parametrize("kind", ["smoothed", "row", "float32"])
def test_activations_that_end_at_a_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    checkpoint = write(tmp_path)
    edit_weights(checkpoint, "encoder.layer.1.intermediate.dense.bias", lambda bias: bias + 20 * (np.arange(128) == 5))
    choose(monkeypatch, {"down": kind})
    directory = compiled(checkpoint)

    check(directory)

    first, second = program_of(directory).blocks
    assert np.isinf(first.ceiling)
    assert 0 < second.ceiling < 15
    assert isinstance(second.down, KINDS[kind])


@pytest.mark.parametrize("first", ["static", "row", "float32"])
def test_embeddings_that_are_projected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    choose(monkeypatch, {"qkv": first})
    directory = compiled(write(tmp_path, "electra", embedding_size=32))

    check(directory)

    projection = program_of(directory).projection
    assert projection is not None
    assert projection.weight.shape == (32, 64)


@pytest.mark.parametrize("kind", ["static", "row", "float32"])
def test_a_layer_that_is_run_twice_is_in_memory_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    choose(monkeypatch, dict.fromkeys(("qkv", "out", "up", "down"), kind))
    program = program_of(compiled(write(tmp_path)))
    first, second = program.blocks
    layout = Layout(replace(program, blocks=[first, second, second]), position_offset=0)

    for part in ("qkv", "out", "up", "down"):
        places = [getattr(layout.model.layers[i], part).weights for i in range(3)]
        assert places[0] != places[1]
        assert places[1] == places[2]


POOLINGS = ("mean", "cls", "max", "mean_sqrt_len", "weighted_mean", "pooler", "first_last", "ditto-1-2", "ditto-2-4")


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling(tmp_path: Path, pooling: str) -> None:
    check(compiled(write(tmp_path, pooling=pooling, normalize=False)))


@pytest.mark.parametrize("pooling", ["cls+mean", "mean+cls", "max+mean", "mean+mean_sqrt_len", "weighted_mean+max"])
def test_joined_poolings_run_in_onnxruntime(tmp_path: Path, pooling: str) -> None:
    package = open_package(compiled(write(tmp_path, pooling=pooling, dense_sizes=(16,))))
    with pytest.raises(PackageError, match=r"cannot run in whit's own kernels: .*; use provider"):
        open_encoder(package, "native")

    encoder, tokenizer = open_encoder(package, "auto"), Tokenizer(package)
    ids = [tokenizer.cut(each, package.manifest.max_token_count) for each in tokenizer.encode(TEXTS)]
    found = encoder.encode(ids)

    assert found.shape == (len(TEXTS), 16)
    assert np.array_equal(found, np.concatenate([encoder.encode([each]) for each in ids]))
    assert verify(package, tokenizer, encoder).verified


def test_pooling_by_a_head_that_a_position_bias_bears_on(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, "mpnet", pooling="ditto-1-2")
    edit_weights(checkpoint, "encoder.relative_attention_bias.weight", lambda table: 4 * table)

    check(compiled(checkpoint))


@pytest.mark.parametrize("pooling", ["first_last", "ditto-1-3"])
def test_pooling_that_reads_two_layers_at_several_depths(tmp_path: Path, pooling: str) -> None:
    directory = compiled(write(tmp_path, pooling=pooling, num_hidden_layers=3), depths=(1, 2))

    for count in (1, 2, 3):
        check(directory, layer_count=count)


@pytest.mark.parametrize("sizes", [(48,), (100, 20), (16, 200)])
def test_dense_layers_after_pooling(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    found = check(compiled(write(tmp_path, dense_sizes=sizes)))

    assert found.shape == (len(TEXTS), sizes[-1])


@pytest.mark.parametrize("kind", ["linear.Identity", "activation.ReLU", "activation.GELU", "activation.Tanh"])
def test_each_activation_of_a_dense_layer(tmp_path: Path, kind: str) -> None:
    checkpoint = write(tmp_path, dense_sizes=(40,), normalize=False)
    tiny.write_dense(checkpoint / "2_Dense", 64, 40, activation=f"torch.nn.modules.{kind}")

    check(compiled(checkpoint))


def test_attention_and_pooling_as_earlier_versions_wrote_them(tmp_path: Path) -> None:
    graph = read_graph(compiled(write(tmp_path)) / GRAPH_FILE)
    kinds = [node.kind for node in graph.nodes]
    nodes = list(graph.nodes)
    for softmax in (i for i, kind in enumerate(kinds) if kind == "Softmax"):
        assert kinds[softmax - 8 : softmax + 2] == [
            *["Gather", "Reshape"] * 3,
            "FusedMatMul",
            "Add",
            "Softmax",
            "FusedMatMul",
        ]
        nodes[softmax + 1] = replace(nodes[softmax + 1], kind="MatMul")
        for whole_rows in range(softmax - 7, softmax - 2, 2):
            nodes[whole_rows] = replace(nodes[whole_rows], kind="left out")
    total = kinds.index("ReduceSum")
    nodes[total : total + 2] = reversed(nodes[total : total + 2])
    earlier = OnnxGraph([node for node in nodes if node.kind != "left out"], graph.constants)

    now, then = read_program(graph), read_program(earlier)

    assert [node.kind for node in earlier.nodes][-7:-4] == ["Squeeze", "ReduceSum", "Div"]
    assert then.pooling == now.pooling == "mean"
    assert then.head_width == now.head_width == 16
    assert [block.head_count for block in then.blocks] == [block.head_count for block in now.blocks] == [4, 4]


def test_a_layer_count_beyond_the_model_is_refused(tmp_path: Path) -> None:
    model = open_model(program_of(compiled(write(tmp_path))), position_offset=0)

    with pytest.raises(ValueError, match="layer_count must be 0 or from 1 to 2, got 3"):
        model.encode(np.array([1]), np.array([1]), 3, aligned_memory(model.scratch_size(1)))
