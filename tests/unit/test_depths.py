"""Packages that can be run with fewer layers: one graph, its weights stored once, chosen at each run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from whit.contract.manifest import GRAPH_FILE, read_manifest
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.errors import CheckpointError
from whit.export.prune.layers import LayerOptions, drop_layers
from whit.runtime import Tokenizer, open_package
from whit.runtime.encoder import Encoder

TEXTS = ("a", "the water was cold", "people say that great work takes years", "water " * 40, "one " * 90)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depths") / "checkpoint"
    tiny.write_checkpoint(folder, "bert", num_hidden_layers=4)
    return folder


def compiled(checkpoint: Path, out: Path, **options: object) -> Encoder:
    compile_checkpoint(checkpoint, out, ExportOptions(name="tiny", **options))  # type: ignore[arg-type]
    return Encoder(open_package(out))


def ids_of(encoder: Encoder, directory: Path) -> list[np.ndarray]:
    package = open_package(directory)
    tokenizer = Tokenizer(package)
    return [tokenizer.cut(ids, package.manifest.max_token_count) for ids in tokenizer.encode(TEXTS)]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_each_depth_has_the_bits_of_its_own_and_all_layers_those_they_had(
    checkpoint: Path, tmp_path: Path, dtype: str
) -> None:
    plain = compiled(checkpoint, tmp_path / "plain", dtype=dtype)
    deep = compiled(checkpoint, tmp_path / "deep", dtype=dtype, depths=(1, 3))
    texts = ids_of(deep, tmp_path / "deep")

    assert np.array_equal(deep.encode(texts), plain.encode(texts))
    assert np.array_equal(deep.encode(texts, layer_count=4), plain.encode(texts))
    for count in (1, 3):
        together = deep.encode(texts, layer_count=count)
        alone = np.concatenate([deep.run([ids], count) for ids in texts])
        assert np.array_equal(together, alone)
        assert np.abs(together - plain.encode(texts)).max() > 1e-3
    assert deep.manifest.layer_counts == (1, 3, 4)
    # Weights are there once: what is added is the choice.
    sizes = [(tmp_path / name / GRAPH_FILE).stat().st_size for name in ("plain", "deep")]
    assert 0 < sizes[1] - sizes[0] < 2000


@pytest.mark.parametrize("pooling", ["mean", "cls", "first_last", "ditto-1-1"])
def test_a_depth_has_the_bits_of_a_checkpoint_with_its_first_layers(tmp_path: Path, pooling: str) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "all", "bert", pooling=pooling, num_hidden_layers=4)
    drop_layers(checkpoint, tmp_path / "first", LayerOptions(keep=(0, 1)))
    short = compiled(tmp_path / "first", tmp_path / "short", dtype="float32")
    deep = compiled(checkpoint, tmp_path / "deep", dtype="float32", depths=(2,))
    texts = ids_of(deep, tmp_path / "deep")

    assert np.array_equal(deep.encode(texts, layer_count=2), short.encode(texts))


def test_a_package_without_depths_says_nothing_of_them(checkpoint: Path, tmp_path: Path) -> None:
    encoder = compiled(checkpoint, tmp_path / "plain", dtype="float32")
    text = (tmp_path / "plain" / "manifest.json").read_text()

    assert "layer_counts" not in text
    assert "depths" not in text
    assert read_manifest(tmp_path / "plain").format_version == 1
    with pytest.raises(ValueError, match=r"layer_count must be 0 or one of \[\], got 2"):
        encoder.run([np.array([2, 5, 3])], 2)


def test_layer_counts_change_the_fingerprint(checkpoint: Path, tmp_path: Path) -> None:
    manifest = compiled(checkpoint, tmp_path / "deep", dtype="float32", depths=(2,)).manifest

    assert dataclasses.replace(manifest, layer_counts=(2, 3, 4)).fingerprint != manifest.fingerprint


@pytest.mark.parametrize("depths", [(0,), (4,), (3, 1), (2, 2)])
def test_depths_that_the_model_does_not_have(checkpoint: Path, tmp_path: Path, depths: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"depths must be .* 1 to 3 of this model's 4, got"):
        compile_checkpoint(checkpoint, tmp_path / "out", ExportOptions(dtype="float32", depths=depths))


def test_ditto_needs_the_layer_that_it_reads(tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "all", "bert", pooling="ditto-2-1", num_hidden_layers=4)
    options = ExportOptions(dtype="float32", depths=(1, 2))

    with pytest.raises(CheckpointError, match="depths must be at least 2, for pooling 'ditto-2-1'"):
        compile_checkpoint(checkpoint, tmp_path / "out", options)
