"""A tokenizer that puts no special tokens around a text finds none in some: these are left out, or have the zero vector."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.errors import CheckpointError
from whit.export.evaluate.model import Model
from whit.export.prune.layers import LayerOptions, drop_layers
from whit.export.soup import SoupOptions, soup
from whit.export.tokenless import places_with_tokens
from whit.export.whitening import WhitenOptions, whiten

EMPTY = "\u200b"
WORDS = [word for word in tiny.vocabulary() if word.isalpha() and len(word) > 2]
TEXTS = [" ".join(WORDS[i : i + 5]) for i in range(60)] + [EMPTY] * 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.write_checkpoint(tmp_path_factory.mktemp("tokenless") / "source")
    content = json.loads(tiny.tokenizer().to_str()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(source: Path) -> Path:
    path = source.parent / "corpus.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_package_is_calibrated_on_the_others_and_evaluates_all(
    dtype: str, source: Path, corpus: Path, tmp_path: Path
) -> None:
    report = compile_checkpoint(source, tmp_path / "package", ExportOptions(dtype=dtype, calibration=corpus))
    vectors = Model(tmp_path / "package").embed([EMPTY, WORDS[0], ""])

    assert report.text_count == 60
    assert not vectors[[0, 2]].any()
    assert np.linalg.norm(vectors[1]) == pytest.approx(1, abs=1e-5)


def test_steps_leave_them_out(source: Path, corpus: Path, tmp_path: Path) -> None:
    dropped = drop_layers(source, tmp_path / "dropped", LayerOptions(keep=(0,), calibration=corpus))
    whitened = whiten(source, tmp_path / "white", WhitenOptions(corpus))

    assert dropped.min_cosine > 0.1  # it is 0 to nothing
    assert whitened.text_count == 60


def test_pairs_with_such_a_text_are_scored(source: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    lines = [f"{a}\t{b}\t{i}" for i, (a, b) in enumerate(zip([EMPTY, *WORDS[:5]], WORDS[3:9], strict=True))]
    pairs.write_text("\n".join(["sentence1\tsentence2\tscore", *lines]) + "\n", encoding="utf-8")

    report = soup(source, tmp_path / "soup", SoupOptions((source,), sts_dev=pairs))

    assert report.sts is not None
    assert np.isfinite(report.sts)


def test_a_student_learns_from_the_others(source: Path, corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from whit.export.distill.loop import distill
    from whit.export.distill.options import DistillOptions

    options = DistillOptions(teacher=source, texts=(corpus,), cache=tmp_path / "cache", threads=1)
    report = distill(source, tmp_path / "student", options)

    assert report.texts == 60
    assert np.isfinite([report.cosine_before, report.cosine_after]).all()


def test_texts_of_which_none_has_a_token(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(f"{EMPTY}\n" * 10, encoding="utf-8")
    with pytest.raises(CheckpointError, match="none of 10 texts has a token"):
        compile_checkpoint(source, tmp_path / "package", ExportOptions(calibration=tmp_path / "empty.txt"))


def test_special_tokens_are_tokens(source: Path, tmp_path: Path) -> None:
    assert places_with_tokens([EMPTY, "word"], tiny.tokenizer()) == [0, 1]
    assert places_with_tokens([EMPTY, "word"], read_checkpoint(source).tokenizer) == [1]
