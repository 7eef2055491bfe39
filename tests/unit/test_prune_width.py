"""Narrower layers: what stays makes up for what goes, the folder reads back, and the compiler runs what comes out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.cosines import row_cosines
from whit.export.embed import embed, micro_batch_feeds
from whit.export.encoder_graph import OUTPUT, Head, build_graph
from whit.export.errors import CheckpointError
from whit.export.families import encoder_weights
from whit.export.linear import Plan
from whit.export.prune.shapes import Shape, shapes_of
from whit.export.prune.subject import read_subject, write_layers
from whit.export.prune.width import WidthOptions, prune_to_shapes, prune_width
from whit.runtime.encoder import open_session


@pytest.mark.parametrize("method", ["stat", "obs"])
@pytest.mark.parametrize("options", [WidthOptions(inner_count=40), WidthOptions(head_count=3)])
def test_correction_beats_magnitude(options: WidthOptions, method: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")

    plain = prune_width(source, tmp_path / "plain", replace(options, method="magnitude"))
    fitted = prune_width(source, tmp_path / "fitted", replace(options, method=method))

    assert fitted.parameter_count == plain.parameter_count < plain.parameter_count_before
    assert 1 - fitted.mean_cosine < 0.7 * (1 - plain.mean_cosine)


def test_a_layer_that_is_narrower_already_stays_as_it_is(tmp_path: Path) -> None:
    subject = read_subject(tiny.write_checkpoint(tmp_path / "source"), None)
    before = [Shape(4, 64), Shape(2, 40)]
    write_layers(subject, tmp_path / "uneven", prune_to_shapes(subject, before, "stat").layers, {"step": "prune_width"})

    report = prune_width(tmp_path / "uneven", tmp_path / "out", WidthOptions(inner_count=48, head_count=3))

    assert (report.head_counts, report.inner_counts) == ((3, 2), (48, 40))
    assert shapes_of(encoder_weights(read_checkpoint(tmp_path / "out"))) == [Shape(3, 48), Shape(2, 40)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_narrow_folder_is_read_and_compiled(family: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source", family)
    heads = None if family == "mpnet" else 3

    report = prune_width(source, tmp_path / "out", WidthOptions(inner_count=48, head_count=heads))

    weights = encoder_weights(read_checkpoint(tmp_path / "out"))
    assert shapes_of(weights) == [Shape(heads or 4, 48)] * 2
    assert report.inner_counts == (48, 48)
    inner = "hidden_dim" if family == "distilbert" else "intermediate_size"
    assert read_checkpoint(tmp_path / "out").config[inner] == 48
    compiled = compile_checkpoint(tmp_path / "out", tmp_path / "package", ExportOptions(dtype="float32", name="narrow"))
    assert compiled.graph_bytes > 0


def test_layers_of_unequal_shapes_are_written_and_read(tmp_path: Path) -> None:
    subject = read_subject(tiny.write_checkpoint(tmp_path / "source", num_hidden_layers=3), None)
    shapes = [Shape(4, 16), Shape(0, 64), Shape(2, 0)]

    pruned = prune_to_shapes(subject, shapes, "stat")
    write_layers(subject, tmp_path / "out", pruned.layers, {"step": "test"})

    again = encoder_weights(read_checkpoint(tmp_path / "out"))
    ids = subject.token_ids(subject.texts[:20])
    assert shapes_of(again) == shapes
    assert np.array_equal(embed(again, subject.head, ids), embed(pruned, subject.head, ids))


def test_a_layer_of_fewer_heads_computes_those_heads(tmp_path: Path) -> None:
    """Heads whose output weights are zero may be cut out without a trace."""
    subject = read_subject(tiny.write_checkpoint(tmp_path), None)
    layer = subject.weights.layers[0]
    silent = layer.out.weight.copy()
    silent[8:16] = 0  # head 1
    muted = replace(
        subject.weights, layers=[replace(layer, out=replace(layer.out, weight=silent)), subject.weights.layers[1]]
    )
    kept = np.r_[0:8, 16:32]
    columns = np.concatenate([kept, kept + 32, kept + 64])
    cut_layer = replace(
        layer,
        qkv=replace(layer.qkv, weight=layer.qkv.weight[:, columns], bias=layer.qkv.bias[columns]),
        out=replace(layer.out, weight=silent[kept]),
    )
    cut = replace(subject.weights, layers=[cut_layer, subject.weights.layers[1]])
    ids = subject.token_ids(subject.texts[:30])

    np.testing.assert_allclose(embed(cut, subject.head, ids), embed(muted, subject.head, ids), atol=1e-6)


@pytest.mark.parametrize("shape", [Shape(3, 40), Shape(0, 40), Shape(3, 0)])
def test_a_pruned_text_has_the_same_bits_in_any_company(shape: Shape, tmp_path: Path) -> None:
    subject = read_subject(tiny.write_checkpoint(tmp_path), None)
    pruned = prune_to_shapes(subject, [shape, Shape(4, 64)], "magnitude")
    session = open_session(build_graph(pruned, Head("mean"), Plan(), unmasked_length=48).SerializeToString())
    ids = [sequence[:12] for sequence in subject.token_ids(subject.texts[:12]) if len(sequence) > 4]

    (_, together), *_ = micro_batch_feeds(pruned, ids)
    alone = [session.run([OUTPUT], feeds)[0] for one in ids for _, feeds in micro_batch_feeds(pruned, [one])]
    order, _ = micro_batch_feeds(pruned, ids)[0]

    assert np.array_equal(session.run([OUTPUT], together)[0], np.concatenate(alone)[order])


def test_heads_that_share_a_position_bias_stay(tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source", "mpnet")
    with pytest.raises(CheckpointError, match="mpnet shares one position bias"):
        prune_width(source, tmp_path / "out", WidthOptions(head_count=2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (WidthOptions(), "inner_count"),
        (WidthOptions(inner_count=65), "from 1 to 64"),
        (WidthOptions(head_count=0), "from 1 to 4"),
        (WidthOptions(inner_count=32, method="luck"), "magnitude, stat, obs"),
    ],
)
def test_options_that_cannot_be_met(options: WidthOptions, words: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")
    with pytest.raises(CheckpointError, match=words):
        prune_width(source, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_nothing_to_prune_changes_nothing(tmp_path: Path) -> None:
    subject = read_subject(tiny.write_checkpoint(tmp_path), None)
    same = prune_to_shapes(subject, shapes_of(subject.weights), "obs")
    ids = subject.token_ids(subject.texts[:4])
    assert row_cosines(embed(same, subject.head, ids), embed(subject.weights, subject.head, ids)).min() > 0.999999
    assert same is subject.weights
