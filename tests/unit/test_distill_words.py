"""A student that reads its word embeddings as its package will hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.distilling import sentences, short_run, vectors
from tests.support.tiny import write_checkpoint
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.errors import OptionError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.train

_WORDS = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, which is its own teacher, and texts."""
    folder = tmp_path_factory.mktemp("words")
    write_checkpoint(folder / "model")
    compile_checkpoint(folder / "model", folder / "teacher", ExportOptions(dtype="float32"))
    (folder / "texts.txt").write_text("\n".join(sentences(1200, 0)) + "\n", encoding="utf-8")
    return folder


def nearness(place: Path, checkpoint: Path, out: Path, dtype: str, code_count: int | None) -> float:
    """Mean cosine of a checkpoint's package to the teacher, on texts that nobody has seen."""
    chosen = ExportOptions(embedding_dtype=dtype, embedding_code_count=code_count, max_loss=100)
    compile_checkpoint(checkpoint, out, chosen)
    texts = sentences(300, 1)
    return float((vectors(out, texts) * vectors(place / "teacher", texts)).sum(axis=1).mean())


@pytest.mark.parametrize(("dtype", "code_count"), [("int4", None), ("pq", 2)])
def test_the_package_comes_nearer_to_the_teacher(
    dtype: str, code_count: int | None, place: Path, tmp_path: Path
) -> None:
    from whit.export.distill.loop import distill

    chosen = short_run(place, epochs=8, freeze="words", embedding_dtype=dtype, embedding_code_count=code_count)
    report = distill(place / "model", tmp_path / "student", chosen)
    # The student is the teacher, but for its rounded words.
    assert 1 - report.cosine_after < 0.95 * (1 - report.cosine_before)
    before, after = (
        nearness(place, checkpoint, tmp_path / f"{checkpoint.name}-int8", dtype, code_count)
        for checkpoint in (place / "model", tmp_path / "student")
    )
    assert after > before
    assert after == pytest.approx(report.cosine_after, abs=0.003)  # so it is what was trained that was compiled
    words = [read_checkpoint(folder).tensors[_WORDS] for folder in (place / "model", tmp_path / "student")]
    assert np.array_equal(*words)


def test_texts_cut_for_training_change_no_code(place: Path) -> None:
    """Words were counted in the cut texts, and the package, which reads more, got other product codes."""
    from whit.export.distill.words import rounded_words

    checkpoint = read_checkpoint(place / "model")
    checkpoint.tokenizer.enable_truncation(4)
    words = rounded_words(checkpoint, "pq", 2, lambda *_: None)
    whole = rounded_words(read_checkpoint(place / "model"), "pq", 2, lambda *_: None)
    assert np.array_equal(words, whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": "none"}, r"freeze must be words or embeddings with embedding_dtype, got none"),
        ({"qat": True}, r"embedding_dtype and qat exclude each other"),
        ({"embedding_dtype": "int3"}, r"embedding_dtype must be one of float32, int8, int4, pq, got int3"),
        ({"embedding_dtype": "pq", "embedding_code_count": 5}, r"embedding_code_count must divide"),
        ({"embedding_code_count": 4}, r"embedding_code_count is for embedding_dtype pq"),
        ({"embedding_dtype": "float32", "embedding_code_count": 4}, r"embedding_code_count is for embedding_dtype pq"),
    ],
)
def test_what_does_not_go_together(changes: dict[str, Any], message: str, place: Path, tmp_path: Path) -> None:
    from whit.export.distill.loop import distill

    with pytest.raises(OptionError, match=message):
        distill(
            place / "model",
            tmp_path / "out",
            short_run(place, **{"freeze": "words", "embedding_dtype": "int4", **changes}),
        )
