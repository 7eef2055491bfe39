"""A student that reads its word embeddings as its package will hold them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny import vocabulary, write_checkpoint
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.distill.options import DistillOptions
from whit.export.errors import OptionError
from whit.runtime.encoder import Encoder
from whit.runtime.package import open_package
from whit.runtime.tokenizer import Tokenizer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.train

_WORDS = "embeddings.word_embeddings.weight"


def sentences(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    words = [word for word in vocabulary() if word.isalpha() and len(word) > 1]
    return [" ".join(random.choice(words, random.integers(2, 9))) for _ in range(count)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, which is its own teacher, and texts."""
    folder = tmp_path_factory.mktemp("words")
    write_checkpoint(folder / "model")
    compile_checkpoint(folder / "model", folder / "teacher", ExportOptions(dtype="float32"))
    (folder / "texts.txt").write_text("\n".join(sentences(1200, 0)) + "\n", encoding="utf-8")
    return folder


def options(place: Path, **changes: Any) -> DistillOptions:
    plain = DistillOptions(
        teacher=place / "teacher",
        texts=(place / "texts.txt",),
        cache=place / "cache",
        epochs=8,
        learning_rate=1e-3,
        batch_token_count=256,
        freeze="words",
        precision="float32",
        threads=1,
    )
    return replace(plain, **changes)


def nearness(place: Path, checkpoint: Path, out: Path, dtype: str, code_count: int | None) -> float:
    """Mean cosine of a checkpoint's package to the teacher, on texts that nobody has seen."""
    chosen = ExportOptions(embedding_dtype=dtype, embedding_code_count=code_count, max_loss=100)
    compile_checkpoint(checkpoint, out, chosen)
    texts = sentences(300, 1)
    found = []
    for folder in (out, place / "teacher"):
        package = open_package(folder)
        found.append(Encoder(package).encode(Tokenizer(package).encode(texts)))
    return float((found[0] * found[1]).sum(axis=1).mean())


@pytest.mark.parametrize(("dtype", "code_count"), [("int4", None), ("pq", 2)])
def test_the_package_comes_nearer_to_the_teacher(
    dtype: str, code_count: int | None, place: Path, tmp_path: Path
) -> None:
    from whit.export.distill.loop import distill

    chosen = options(place, embedding_dtype=dtype, embedding_code_count=code_count)
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
        distill(place / "model", tmp_path / "out", options(place, **{"embedding_dtype": "int4", **changes}))
