"""Outlier neurons: what is split, that the split encoder computes the same, and what int8 gains from it."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.tiny import write_checkpoint
from whit.export.calibrate import calibrate, neuron_peaks
from whit.export.checkpoint import read_checkpoint
from whit.export.encoder_graph import OUTPUT, Head, build_graph
from whit.export.families import EncoderWeights, Linear, encoder_weights
from whit.export.linear import Plan, Static
from whit.export.outliers import find_splits, split_outliers
from whit.export.quantize import Subject, static_candidate
from whit.runtime.encoder import open_session
from whit.runtime.packing import pack

NEURON = 5
SEQUENCES = [np.random.default_rng(i).integers(5, 40, 9) for i in range(30)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> EncoderWeights:
    """A tiny encoder, one neuron of whose second layer is far above all others, always."""
    plain = encoder_weights(read_checkpoint(write_checkpoint(tmp_path_factory.mktemp("outliers") / "tiny")))
    first, second = plain.layers
    bias = second.up.bias.copy()
    bias[NEURON] += 20
    return replace(plain, layers=[first, replace(second, up=Linear(second.up.weight, bias))])


def vectors(weights: EncoderWeights, plan: Plan) -> np.ndarray:
    session = open_session(build_graph(weights, Head("mean"), plan).SerializeToString())
    feeds = pack(SEQUENCES, length=16, position_offset=weights.position_offset)
    return session.run([OUTPUT], feeds)[0]


def split_of(weights: EncoderWeights) -> EncoderWeights:
    return split_outliers(weights, find_splits(weights, neuron_peaks(weights, Head("mean"), SEQUENCES)))


def test_only_the_outlier_is_split_and_every_copy_has_an_idle_neighbour(weights: EncoderWeights) -> None:
    split = split_of(weights)
    old, new = weights.layers[1], split.layers[1]
    inner = old.up.weight.shape[1]

    assert split.layers[0] is weights.layers[0]
    assert new.ceiling is not None
    assert new.ceiling < 10
    assert np.array_equal(new.down.weight[:inner], old.down.weight)
    assert np.array_equal(
        new.down.weight[inner::2], np.repeat(old.down.weight[[NEURON]], (len(new.down.weight) - inner) // 2, axis=0)
    )
    assert not new.down.weight[inner + 1 :: 2].any()
    assert not new.up.weight[:, inner + 1 :: 2].any()


@pytest.mark.parametrize(("activation", "tolerance"), [("relu", 1e-5), ("gelu", 2e-3)])
def test_the_split_encoder_computes_the_same(weights: EncoderWeights, activation: str, tolerance: float) -> None:
    """Exactly so where the activation is straight on either side of zero; GELU is off by its dip next to the ceilings."""
    whole = replace(weights, activation=activation)
    split = split_of(whole)

    assert split is not whole
    assert np.abs(vectors(split, Plan()) - vectors(whole, Plan())).max() <= tolerance


def test_one_scale_serves_the_split_layer_better(weights: EncoderWeights) -> None:
    name, errors = "layers.1.down", []
    for each in (weights, split_of(weights)):
        seen = calibrate(each, Head("mean"), SEQUENCES)[name]
        found = static_candidate(Subject(each.layers[1].down, seen))
        errors.append(found.error)

    assert errors[1] <= 0.6 * errors[0]
    assert isinstance(found.scheme, Static)
    assert Plan({name: found.scheme}).ends_at_ceiling(name)
    top = (255 - found.scheme.zero_point) * found.scheme.scale
    assert top == pytest.approx(split_of(weights).layers[1].ceiling, rel=1e-6)


def test_what_has_no_outlier_or_is_stored_once_for_several_layers_stays(weights: EncoderWeights) -> None:
    plain = replace(weights, layers=[weights.layers[0]] * 2)
    shared = replace(weights, layers=[weights.layers[1]] * 2)

    assert split_of(plain) is plain
    assert split_of(shared) is shared
    assert split_outliers(replace(weights, activation="tanh"), {}).layers == weights.layers
