"""Checkpoint soup: the mean of checkpoints is a checkpoint, a greedy one leaves out what harms, misfits are refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.tiny import write_checkpoint
from whit.cli.app import run as whit
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.derive import derive_checkpoint, read_steps
from whit.export.errors import CheckpointError
from whit.export.evaluate.model import Model
from whit.export.soup import SoupOptions, soup
from whit.export.vocabulary import TrimOptions, trim_vocabulary

Tensors = Mapping[str, NDArray[np.float32]]

SENTENCES = [f"{a} {b} {c}" for a in ("the boy", "a girl") for b in ("saw", "made", "took") for c in ("it", "books")]


def noisy(folder: Path, out: Path, seed: int, size: float = 0.01) -> Path:
    """A copy of a checkpoint, with noise on its weights: a run that ended beside where it should have."""
    random = np.random.default_rng(seed)
    tensors = read_checkpoint(folder).tensors
    shaken = {n: t + random.normal(0, size, t.shape).astype(np.float32) for n, t in tensors.items()}
    derive_checkpoint(folder, out, tensors=shaken, step={"step": "noise"})
    return out


def embed(folder: Path, scratch: Path) -> NDArray[np.float32]:
    compile_checkpoint(folder, scratch, ExportOptions(dtype="float32"))
    return Model(scratch, threads=1).embed(SENTENCES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, four noisy copies of it, and sentence pairs with the model's own cosines for scores."""
    tmp_path = tmp_path_factory.mktemp("soup")
    write_checkpoint(tmp_path / "model")
    for i in range(4):
        noisy(tmp_path / "model", tmp_path / f"run-{i}", seed=i)
    vectors = embed(tmp_path / "model", tmp_path / "package")
    pairs = [(i, j) for i in range(len(SENTENCES)) for j in range(i)]
    rows = [f"{vectors[i] @ vectors[j]:.6f}\t{SENTENCES[i]}\t{SENTENCES[j]}" for i, j in pairs]
    (tmp_path / "dev.tsv").write_text("\n".join(["score\tsentence1\tsentence2", *rows]) + "\n")
    return tmp_path


def test_a_soup_of_noisy_runs_is_nearer_to_the_model_than_each_of_them(place: Path, tmp_path: Path) -> None:
    runs = [place / f"run-{i}" for i in range(4)]
    report = soup(runs[0], tmp_path / "soup", SoupOptions(tuple(runs[1:])))

    assert [ingredient.weight for ingredient in report.ingredients] == [0.25] * 4
    truth = embed(place / "model", tmp_path / "truth")
    errors = [np.square(embed(run, tmp_path / "package") - truth).sum() for run in [*runs, tmp_path / "soup"]]
    assert errors[-1] < min(0.8 * min(errors[:-1]), 0.5 * np.mean(errors[:-1]))
    assert [step["step"] for step in read_steps(tmp_path / "soup")] == ["noise", "soup"]
    json.dumps(read_steps(tmp_path / "soup"))


def test_weights_are_shares(place: Path, tmp_path: Path) -> None:
    soup(place / "run-0", tmp_path / "soup", SoupOptions((place / "run-1",), weights=(1, 3)))
    first, second, made = (read_checkpoint(p).tensors for p in (place / "run-0", place / "run-1", tmp_path / "soup"))
    for name, tensor in made.items():
        assert np.allclose(tensor, 0.25 * first[name] + 0.75 * second[name], atol=1e-6)

    soup(place / "run-0", tmp_path / "soup", SoupOptions((place / "run-0", place / "run-0")))
    same = read_checkpoint(tmp_path / "soup").tensors
    assert all(np.array_equal(same[name], tensor) for name, tensor in first.items())


def test_a_student_of_prefixes_can_be_averaged_with_its_model(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    student = write_checkpoint(tmp_path / "student", seed=1, matryoshka_dims=[8])

    soup(student, tmp_path / "soup", SoupOptions((model,)))

    assert read_checkpoint(tmp_path / "soup").matryoshka_dimension_counts == (8,)


def test_a_greedy_soup_leaves_out_what_harms(place: Path, tmp_path: Path) -> None:
    noisy(place / "model", place / "lost", seed=9, size=0.5)
    others = (place / "run-1", place / "lost", place / "run-2")
    report = soup(place / "run-0", tmp_path / "soup", SoupOptions(others, sts_dev=place / "dev.tsv"))

    shares = {Path(i.checkpoint).name: i.weight for i in report.ingredients}
    assert shares["lost"] == 0
    assert sum(weight > 0 for weight in shares.values()) > 1
    assert report.sts is not None
    assert report.sts >= max(i.sts for i in report.ingredients if i.sts is not None)


def test_a_pooler_is_averaged_with_the_encoder(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", pooling="pooler")
    runs = [noisy(tmp_path / "model", tmp_path / f"run-{i}", seed=i) for i in range(2)]
    (tmp_path / "dev.tsv").write_text("score\tsentence1\tsentence2\n1\tthe boy\ta boy\n0\tthe sea\tmoney\n")
    report = soup(runs[0], tmp_path / "soup", SoupOptions((runs[1],), sts_dev=tmp_path / "dev.tsv"))
    assert report.sts is not None
    made, first = (read_checkpoint(folder).dense[0].weight for folder in (tmp_path / "soup", runs[0]))
    assert np.array_equal(made, first) == (report.ingredients[1].weight == 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 1}, "num_hidden_layers is 1 there and 2 here; give runs of one training"),
        ({"intermediate_size": 48}, "intermediate_size is 48 there and 64 here"),
        ({"pooling": "cls"}, "one pools by 'cls', the other by 'mean'"),
        ({"normalize": False}, "or only one normalises"),
        ({"dense_sizes": (8,)}, "their Dense modules differ"),
        ({"family": "roberta"}, "cannot be averaged"),
    ],
)
def test_what_has_no_mean_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model")
    write_checkpoint(tmp_path / "other", **changes)
    with pytest.raises(CheckpointError, match=message):
        soup(tmp_path / "model", tmp_path / "out", SoupOptions((tmp_path / "other",)))
    assert not (tmp_path / "out").exists()


def test_another_tokenizer_is_refused(place: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other") / "tokenizer.json"
    text = other.read_text(encoding="utf-8")
    other.write_text(text.replace('"lowercase": true', '"lowercase": false'), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"other and .*model cannot be averaged: their tokenizers differ"):
        soup(place / "model", tmp_path / "out", SoupOptions((tmp_path / "other",)))
    (tmp_path / "corpus.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    trim_vocabulary(place / "model", tmp_path / "trimmed", TrimOptions(tmp_path / "corpus.txt"))
    with pytest.raises(CheckpointError, match="vocab_size is"):
        soup(place / "model", tmp_path / "out", SoupOptions((tmp_path / "trimmed",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SoupOptions(()), "at least 2 checkpoints, got 1"),
        (SoupOptions((Path("b"),), weights=(1,)), "weights must be 2 numbers, one for each checkpoint, got 1"),
        (SoupOptions((Path("b"),), weights=(1, -1)), "weights must be 0 or more and not all 0, got 1, -1"),
        (SoupOptions((Path("b"),), weights=(0, 0)), "not all 0"),
        (SoupOptions((Path("b"),), weights=(1, float("nan"))), "0 or more"),
        (SoupOptions((Path("b"),), weights=(1, 1), sts_dev=Path("c")), "weights and sts_dev exclude each other"),
    ],
)
def test_bad_options_are_named(options: SoupOptions, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        soup(Path("a"), tmp_path / "out", options)


def test_the_command(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(place / f"run-{i}") for i in range(3)]
    assert whit(["soup", *runs, "--out", str(tmp_path / "soup"), "--weights", "2,1,1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [ingredient["weight"] for ingredient in report["ingredients"]] == [0.5, 0.25, 0.25]
    assert whit(["soup", *runs, "--out", str(tmp_path / "soup"), "--sts-dev", str(place / "dev.tsv")]) == 0
    assert "soup: " in capsys.readouterr().out
    assert whit(["soup", *runs, "--out", str(tmp_path / "soup"), "--weights", "2,x,1"]) == 2
    assert "numbers separated by commas" in capsys.readouterr().err
    assert whit(["soup", runs[0], "--out", str(tmp_path / "soup")]) == 2
    assert "at least 2 CHECKPOINTs" in capsys.readouterr().err
