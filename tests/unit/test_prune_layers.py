"""Layers are dropped by name or by what calibration text says, and the folder stays an ordinary checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support import tiny
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.derive import read_steps
from whit.export.embed import embed
from whit.export.errors import CheckpointError
from whit.export.families import encoder_weights
from whit.export.prune.layers import LayerOptions, drop_layers, even_layers, loss_minima, reuse_layers
from whit.export.prune.subject import hidden_states, read_subject, write_layers


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_layers_written_back_are_the_same_tensors(family: str, tmp_path: Path) -> None:
    subject = read_subject(tiny.write_checkpoint(tmp_path / "source", family), None)
    write_layers(subject, tmp_path / "out", subject.weights.layers, {"step": "nothing"})

    written = read_checkpoint(tmp_path / "out")
    assert written.tensors.keys() == subject.checkpoint.tensors.keys()
    assert all(np.array_equal(written.tensors[name], array) for name, array in subject.checkpoint.tensors.items())
    assert written.config == subject.checkpoint.config


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_layers_named_are_kept_and_renumbered(family: str, tmp_path: Path) -> None:
    changes = {"n_layers": 4} if family == "distilbert" else {"num_hidden_layers": 4}
    source = tiny.write_checkpoint(tmp_path / "source", family, **changes)

    report = drop_layers(source, tmp_path / "out", LayerOptions(keep=(0, 3)))

    before, after = encoder_weights(read_checkpoint(source)), encoder_weights(read_checkpoint(tmp_path / "out"))
    assert (report.kept, report.dropped) == ((0, 3), (1, 2))
    assert len(after.layers) == 2
    assert all(
        np.array_equal(new.up.weight, before.layers[i].up.weight) for new, i in zip(after.layers, (0, 3), strict=True)
    )
    assert report.parameter_count * 2 == report.parameter_count_before
    assert read_steps(tmp_path / "out")[-1]["kept"] == [0, 3]


def test_a_prefix_of_the_names_is_kept(tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")
    tensors = {f"bert.{name}": array for name, array in read_checkpoint(source).tensors.items()}
    save_file(tensors, source / "model.safetensors")

    drop_layers(source, tmp_path / "out", LayerOptions(keep=(1,)))

    names = read_checkpoint(tmp_path / "out").tensors
    assert all(name.startswith("bert.") for name in names)
    assert not any("layer.1." in name for name in names)


@pytest.fixture
def idle(tmp_path: Path) -> Path:
    """A checkpoint of four layers whose layer 2 passes its input on."""
    source = tiny.write_checkpoint(tmp_path / "source", num_hidden_layers=4)
    tensors = dict(read_checkpoint(source).tensors)
    for name in tensors:
        if ".layer." in name and "LayerNorm" in name:
            tensors[name] = np.full_like(tensors[name], name.endswith("weight"))
        elif ".layer.2." in name and "output.dense" in name:
            tensors[name] = np.zeros_like(tensors[name])
    save_file(tensors, source / "model.safetensors")
    return source


def test_cosine_drops_the_layer_that_does_nothing(idle: Path, tmp_path: Path) -> None:
    report = drop_layers(idle, tmp_path / "out", LayerOptions(count=3, criterion="cosine"))

    assert report.dropped == (2,)
    assert report.mean_cosine > 0.9999


def test_entropy_drops_the_layer_that_adds_least(idle: Path, tmp_path: Path) -> None:
    report = drop_layers(idle, tmp_path / "out", LayerOptions(count=3, criterion="entropy"))

    assert report.scores[2] == pytest.approx(0, abs=1e-3)
    assert report.dropped == (int(np.argmin(report.scores)),)


def test_a_layer_is_run_again_where_that_helps(tmp_path: Path) -> None:
    """Layers 1 and 2 are one and the same, so the one stands in for the other without a trace."""
    source = tiny.write_checkpoint(tmp_path / "source", num_hidden_layers=4)
    tensors = dict(read_checkpoint(source).tensors)
    for name in tensors:
        if ".layer.2." in name:
            tensors[name] = tensors[name.replace(".layer.2.", ".layer.1.")]
    save_file(tensors, source / "model.safetensors")
    subject = read_subject(source, None)

    assert reuse_layers(subject, (0, 1, 3)) == [0, 1, 1, 3]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_layer_that_runs_twice_is_stored_once(tmp_path: Path, dtype: str) -> None:
    source = tiny.write_checkpoint(tmp_path / "source", hidden_size=64, intermediate_size=256)
    options = ExportOptions(dtype=dtype, name="tiny")
    once = drop_layers(source, tmp_path / "once", LayerOptions(keep=(0, 1)))
    twice = drop_layers(source, tmp_path / "twice", LayerOptions(keep=(0, 1, 1, 1)))

    small = compile_checkpoint(tmp_path / "once", tmp_path / "small", options)
    deep = compile_checkpoint(tmp_path / "twice", tmp_path / "deep", options)

    assert once.parameter_count == twice.parameter_count
    assert twice.mean_cosine < 0.99
    # Ops, and biases of each place; the weights of both would be 98,304.
    assert deep.graph_bytes - small.graph_bytes < 16_000


def test_loss_keeps_the_first_layers(tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source", num_hidden_layers=4)

    free = drop_layers(source, tmp_path / "free", LayerOptions(criterion="loss"))
    fixed = drop_layers(source, tmp_path / "fixed", LayerOptions(criterion="loss", count=2))

    assert free.kept == tuple(range(loss_minima(free.scores)[1]))
    assert fixed.kept == (0, 1)


def test_minima_of_a_loss_curve() -> None:
    assert loss_minima([3.0, 1.0, 2.0, 2.0, 0.5, 0.7]) == (2, 5)
    assert loss_minima([1.0]) == (1, 1)


def test_even_layers_reach_from_the_first_to_the_last() -> None:
    assert even_layers(6, 3) == [0, 2, 5]
    assert even_layers(12, 6) == [0, 2, 4, 7, 9, 11]
    assert even_layers(6, 1) == [5]


def test_hidden_states_end_in_what_is_pooled(tmp_path: Path) -> None:
    subject = read_subject(tiny.write_checkpoint(tmp_path, pooling="cls", normalize=False), None)
    ids = subject.token_ids(["a small machine"])

    leaving = hidden_states(subject.weights, ids)[-1]

    np.testing.assert_allclose(leaving[:1], embed(subject.weights, subject.head, ids), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (LayerOptions(), "how many"),
        (LayerOptions(keep=(0, 5)), "from 0 to 1"),
        (LayerOptions(keep=()), "from 0 to 1"),
        (LayerOptions(keep=(0,), count=1), "one of them"),
        (LayerOptions(count=3), "from 1 to 2"),
        (LayerOptions(count=1, criterion="luck"), "even, cosine, entropy, loss"),
        (LayerOptions(criterion="loss", calibration=Path("nowhere.txt")), "nowhere.txt"),
    ],
)
def test_options_that_cannot_be_met(options: LayerOptions, words: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")
    with pytest.raises(CheckpointError, match=words):
        drop_layers(source, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_config_says_how_many_layers_there_are(tmp_path: Path) -> None:
    drop_layers(tiny.write_checkpoint(tmp_path / "source"), tmp_path / "out", LayerOptions(count=1, criterion="even"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 1
