"""What int8 compilation leaves in the graph: integers that cannot overflow, and no scale that a batch could move."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.support import packages, tiny
from whit.contract.manifest import GRAPH_FILE, Manifest, read_manifest
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.sealing import GOLDEN_TEXTS
from whit.runtime.encoder import Encoder
from whit.runtime.package import open_package
from whit.runtime.tokenizer import Tokenizer

SCHEMES = {"static", "smoothed", "row", "float32"}

# Operators that take a scale or a maximum from the whole batch: with any of them a vector depends on its company.
FROM_THE_BATCH = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}


@cache
def graph(family: str, dtype: str) -> onnx.ModelProto:
    return onnx.load(str(packages.package(family, dtype) / GRAPH_FILE))


def int8_weights(model: onnx.ModelProto) -> list[NDArray[np.int8]]:
    """The int8 matrices [in, out] that integer products take."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if "MatMulInteger" in node.op_type:
            weight = numpy_helper.to_array(stored[node.input[1]])
            assert weight.dtype == np.int8, node
            found.append(weight)
    return found


def compile_with(checkpoint: Path, out: Path, **options: float) -> Manifest:
    compile_checkpoint(checkpoint, out, ExportOptions(**options))
    return read_manifest(out)


def vectors(directory: Path) -> NDArray[np.float32]:
    package = open_package(directory)
    tokenizer, limit = Tokenizer(package), package.manifest.max_token_count
    return Encoder(package).encode([tokenizer.cut(ids, limit) for ids in tokenizer.encode(GOLDEN_TEXTS)])


def min_cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float((one * other).sum(axis=1).min())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_no_input_can_overflow_a_sum_of_two_products(family: str) -> None:
    """CPUs without VNNI add two products of u8 and s8 in 16 bits, saturating; then every CPU gives the same integers."""
    weights = int8_weights(graph(family, "int8"))

    assert len(weights) == sum(linear.scheme != "float32" for linear in manifest(family).linears)
    for weight in weights:
        even = np.concatenate([weight, np.zeros((len(weight) % 2, weight.shape[1]), np.int8)]).astype(np.int32)
        pairs = even.reshape(-1, 2, weight.shape[1])
        assert weight.min() >= -127
        assert 255 * pairs.clip(min=0).sum(axis=1).max() <= 2**15 - 1
        assert 255 * pairs.clip(max=0).sum(axis=1).min() >= -(2**15)


def manifest(family: str) -> Manifest:
    return read_manifest(packages.package(family, "int8"))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_no_scale_comes_from_the_batch(family: str) -> None:
    assert FROM_THE_BATCH.isdisjoint(node.op_type for node in graph(family, "int8").graph.node)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_words_are_stored_as_int8(family: str) -> None:
    rows = len(tiny.vocabulary(family))
    kinds = {tensor.data_type for tensor in graph(family, "int8").graph.initializer if list(tensor.dims)[:1] == [rows]}

    # The codes, and the float scale of each row.
    assert onnx.TensorProto.INT8 in kinds
    assert not [t for t in graph(family, "int8").graph.initializer
                if t.data_type == onnx.TensorProto.FLOAT and t.dims[:1] == [rows] and np.prod(t.dims) > rows]  # fmt: skip


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_linear_has_a_scheme_and_its_error(family: str) -> None:
    found = manifest(family).linears

    assert {linear.name for linear in found} == {
        f"layers.{layer}.{part}" for layer in (0, 1) for part in ("qkv", "out", "up", "down")
    }
    assert {linear.scheme for linear in found} <= SCHEMES
    assert all((linear.error == 0) == (linear.scheme == "float32") for linear in found)


def test_a_float_package_names_no_linear_and_has_no_int8() -> None:
    assert read_manifest(packages.package("bert", "float32")).linears == ()
    assert int8_weights(graph("bert", "float32")) == []


def test_a_stricter_limit_takes_dearer_schemes(tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "tiny")
    plain = packages.package("bert", "float32")

    loose, strict = (compile_with(checkpoint, tmp_path / f"{e}", max_layer_error=e) for e in (0.9, 0.001))

    assert {linear.scheme for linear in loose.linears} == {"static"}
    assert "static" not in {linear.scheme for linear in strict.linears}
    assert min_cosine(vectors(tmp_path / "0.001"), vectors(plain)) >= min_cosine(
        vectors(tmp_path / "0.9"), vectors(plain)
    )


def test_a_channel_far_larger_than_the_others_is_not_left_to_one_scale(tmp_path: Path) -> None:
    """The outlier channels of real models (arXiv:2211.10438, figure 4): one scale for all would round the rest to nothing."""
    from safetensors.numpy import load_file, save_file

    checkpoint = tiny.write_checkpoint(tmp_path / "tiny")
    tensors = load_file(checkpoint / "model.safetensors")
    gain = tensors["encoder.layer.0.attention.output.LayerNorm.weight"]
    gain[3] *= 60
    tensors["encoder.layer.0.intermediate.dense.weight"][:, 3] /= 60
    save_file(tensors, checkpoint / "model.safetensors")
    compile_checkpoint(checkpoint, tmp_path / "float32", ExportOptions(dtype="float32"))

    found = compile_with(checkpoint, tmp_path / "int8")

    assert {linear.name: linear.scheme for linear in found.linears}["layers.0.up"] != "static"
    assert min_cosine(vectors(tmp_path / "int8"), vectors(tmp_path / "float32")) >= 0.95


def test_texts_for_calibration_shape_the_package(tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "tiny")
    (tmp_path / "texts.txt").write_text("\n".join(["the water", "a story", "see him", "of the"] * 3))

    compile_checkpoint(checkpoint, tmp_path / "own", ExportOptions(calibration=tmp_path / "texts.txt", max_loss=100))

    assert read_manifest(tmp_path / "own").fingerprint != manifest("bert").fingerprint
