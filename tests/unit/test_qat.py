"""Quantisation-aware training: the student is the int8 package it will be, and that package is nearer to the teacher."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.distilling import sentences, short_run, vectors
from tests.support.tiny import write_checkpoint
from whit.cli.app import run
from whit.export.checkpoint import ROUNDING_FILE, read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint, int8_weights
from whit.export.derive import derive_checkpoint
from whit.export.errors import CheckpointError
from whit.export.families import encoder_weights
from whit.export.trained import LayerRounding, Rounding, read_rounding
from whit.export.vocabulary import TrimOptions, trim_vocabulary
from whit.runtime.package import open_package
from whit.runtime.tokenizer import Tokenizer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model one of whose neurons is far above all others, texts, and what two runs made of the model."""
    from whit.export.distill.loop import distill

    folder = tmp_path_factory.mktemp("qat")
    plain = write_checkpoint(folder / "plain")
    tensors = dict(read_checkpoint(plain).tensors)
    bias = tensors["encoder.layer.1.intermediate.dense.bias"].copy()
    bias[5] += 8
    derive_checkpoint(
        plain,
        folder / "model",
        tensors=tensors | {"encoder.layer.1.intermediate.dense.bias": bias},
        step={"step": "test"},
    )
    (folder / "texts.txt").write_text("\n".join(sentences(1500, 0)) + "\n", encoding="utf-8")
    for name, qat in (("with", True), ("without", False)):
        distill(folder / "model", folder / name, short_run(folder, qat=qat))
        compile_checkpoint(folder / name, folder / f"{name}-int8", ExportOptions(max_loss=100))
    compile_checkpoint(folder / "model", folder / "teacher", ExportOptions(dtype="float32"))
    return folder


def test_the_int8_package_comes_nearer_to_the_teacher(place: Path) -> None:
    texts = sentences(300, 1)
    teacher = vectors(place / "teacher", texts)
    errors = {
        name: float(1 - (vectors(place / f"{name}-int8", texts) * teacher).sum(axis=1).mean())
        for name in ("with", "without")
    }
    assert errors["with"] < 0.5 * errors["without"]


def test_the_package_computes_what_was_trained(place: Path) -> None:
    """Codes and ranges of the run are those of the package, with an outlier neuron split in it."""
    from whit.export.distill.student import Student

    rounding = read_rounding(place / "with")
    assert rounding is not None
    assert list(rounding.splits) == [1]
    checkpoint = read_checkpoint(place / "with")
    student = Student(checkpoint)
    student.round_as(rounding, int8_weights(encoder_weights(checkpoint)))
    texts = sentences(50, 2)
    opened = open_package(place / "with-int8")
    with torch.no_grad():
        trained = student.encode(Tokenizer(opened).encode(texts)).vectors.numpy()
    # To the last places; a value next to a rounding boundary may get the next code, by how this CPU sums floats.
    errors = np.abs(trained - vectors(place / "with-int8", texts)).max(axis=1)
    assert np.median(errors) < 1e-5
    assert errors.max() < 1e-3


def test_from_the_command_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``whit export --dtype int8`` rounds as ``whit distill --qat`` did, not as it would by itself."""
    student, trained, untrained = (tmp_path / name for name in ("student", "trained", "untrained"))
    arguments = ["--teacher", place / "model", "--texts", place / "texts.txt", "--qat", "--out", student]
    options = ["--cache", place / "cache", "--epochs", 1, "--precision", "float32", "--threads", 1, "--json"]
    assert run(["distill", *map(str, [place / "model", *arguments, *options])]) == 0
    report = json.loads(capsys.readouterr().out)
    rounding = read_rounding(student)
    assert rounding is not None

    assert run(["export", str(student), "--out", str(trained), "--dtype", "int8"]) == 0
    (student / ROUNDING_FILE).unlink()
    assert run(["export", str(student), "--out", str(untrained), "--dtype", "int8"]) == 0

    assert {linear.name: linear.scheme for linear in open_package(trained).manifest.linears} == {
        name: "row" if not layer.scale else "static" if layer.smoothing is None else "smoothed"
        for name, layer in rounding.layers.items()
    }
    assert open_package(trained).manifest.fingerprint != open_package(untrained).manifest.fingerprint
    texts = sentences(300, 1)
    cosine = (vectors(trained, texts) * vectors(place / "teacher", texts)).sum(axis=1).mean()
    # The report's is of the int8 student, on texts held back.
    assert cosine == pytest.approx(report["cosine_after"], abs=2e-4)


def test_other_layers_lose_the_rounding_and_a_trimmed_vocabulary_keeps_it(place: Path, tmp_path: Path) -> None:
    assert (place / "with" / ROUNDING_FILE).is_file()
    tensors = read_checkpoint(place / "with").tensors
    derive_checkpoint(place / "with", tmp_path / "other", tensors=tensors, step={"step": "test"})
    assert read_rounding(tmp_path / "other") is None
    trim_vocabulary(place / "with", tmp_path / "trimmed", TrimOptions(corpus=place / "texts.txt"))
    assert read_rounding(tmp_path / "trimmed") is not None


def test_a_rounding_that_does_not_fit_is_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "with", tmp_path / "model")
    scales = np.ones(32, np.float32)
    Rounding({"layers.7.up": LayerRounding(scales)}, {}).write(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"rounding.safetensors does not fit layers.7.up .*; remove the file"):
        compile_checkpoint(tmp_path / "model", tmp_path / "package")
    (tmp_path / "model" / ROUNDING_FILE).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"rounding.safetensors is damaged"):
        compile_checkpoint(tmp_path / "model", tmp_path / "package")
