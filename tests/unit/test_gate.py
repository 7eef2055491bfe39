"""The accuracy gate: what is measured, which layers go back to float32, and what a refusal says."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny import write_checkpoint
from whit.contract.manifest import LinearScheme, read_manifest
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.embed import embed
from whit.export.encoder_graph import Head
from whit.export.errors import CheckpointError
from whit.export.families import encoder_weights
from whit.export.gate import Gate
from whit.export.linear import Plan, Row
from whit.export.report import rank_agreement

BAD, WORSE, FINE = "layers.0.up", "layers.1.out", "layers.0.out"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path_factory.mktemp("gate") / "tiny"))
    weights = encoder_weights(checkpoint)
    random = np.random.default_rng(3)
    sequences = [random.integers(5, len(weights.words), random.integers(3, 12)) for _ in range(40)]
    head = Head("mean")
    return Gate(weights, head, sequences, lambda *_: None, embed(weights, head, sequences))


def plan_of(gate: Gate, keep: dict[str, float]) -> Plan:
    """Each layer as int8 with a share of its outputs left as they are and the others zero."""
    schemes = {}
    for name, share in keep.items():
        _, layer, part = name.split(".")
        linear = getattr(gate.weights.layers[int(layer)], part)
        scales = np.abs(linear.weight).max(axis=0) / np.float32(64)  # no two products saturate on any CPU (ADR 6)
        codes = np.rint(linear.weight / scales).astype(np.int8)
        codes[:, int(share * codes.shape[1]) :] = 0
        schemes[name] = Row(codes, scales, linear.bias)
    return Plan(schemes)


LINEARS = [LinearScheme(name, "row", 0.01) for name in (FINE, BAD, WORSE)]


def test_rank_agreement_by_hand() -> None:
    # Angles 0, 1, 3 put the pairs in the order 01, 12, 02; 0, 1, 1.5 in the order 12, 01, 02: Spearman 1 - 6 * 2 / 24.
    first, second = (
        np.stack([np.cos(a), np.sin(a)], axis=1).astype(np.float32) for a in np.array([[0, 1, 3], [0, 1, 1.5]])
    )

    assert rank_agreement(first, second) == pytest.approx(50)
    assert rank_agreement(first, 3 * first) == pytest.approx(100)  # lengths are of no account
    assert rank_agreement(first, np.concatenate([first, first], axis=1)) == pytest.approx(100)  # nor is the width


def test_sensitivity_is_highest_where_most_is_lost(gate: Gate) -> None:
    costs = gate.sensitivities(plan_of(gate, {FINE: 1, BAD: 0.7, WORSE: 0.1}))

    assert sorted(costs, key=costs.__getitem__) == [FINE, BAD, WORSE]
    assert costs[FINE] < 0.1 < costs[BAD]


def test_the_costliest_layers_go_back_to_float32_as_few_as_will_do(gate: Gate) -> None:
    plan = plan_of(gate, {FINE: 1, BAD: 1, WORSE: 0.1})
    costs = gate.sensitivities(plan)

    held, linears = gate.hold(plan, LINEARS, costs, max_loss=0.5)

    assert set(held.schemes) == {FINE, BAD}
    assert [linear.scheme for linear in linears] == ["row", "row", "float32"]
    assert gate.loss(held) <= 0.5 < gate.loss(plan)


def test_a_plan_within_the_limit_stays(gate: Gate) -> None:
    plan = plan_of(gate, {FINE: 1})

    assert gate.hold(plan, LINEARS[:1], gate.sensitivities(plan), max_loss=5) == (plan, LINEARS[:1])


def test_a_refusal_names_the_costliest_layers_and_the_ways_out(gate: Gate) -> None:
    plan = plan_of(gate, {FINE: 0.1, BAD: 0.1, WORSE: 0.1})

    with pytest.raises(CheckpointError, match=r"max_loss is 0.1; .* Costliest: layers\.\d\.\w+ \(.*export as float32"):
        gate.hold(plan, LINEARS, gate.sensitivities(plan), max_loss=0.1)


def test_an_export_beyond_the_limit_leaves_nothing_behind(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "tiny")

    with pytest.raises(CheckpointError, match="max_loss is 0"):
        compile_checkpoint(source, tmp_path / "out", ExportOptions(max_loss=0))

    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_an_export_reports_loss_and_sensitivities(tmp_path: Path) -> None:
    options = ExportOptions(sensitivity=True)
    report = compile_checkpoint(write_checkpoint(tmp_path / "tiny"), tmp_path / "out", options)

    assert 0 < report.loss < options.max_loss
    assert list(report.sensitivities) == [linear.name for linear in read_manifest(tmp_path / "out").linears]
    assert all(-0.1 < points < options.max_loss for points in report.sensitivities.values())
    assert dataclasses.replace(report, speed_ratio=0).lasting()["loss"] == report.loss
