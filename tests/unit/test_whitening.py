"""Whitening: what comes out is white, and a checkpoint folder says so."""

from pathlib import Path

import numpy as np
import pytest

from tests.support import parity
from tests.support.tiny import write_checkpoint
from whit.contract.manifest import read_manifest
from whit.export.checkpoint import read_checkpoint
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.derive import read_steps
from whit.export.errors import CheckpointError
from whit.export.rotation import RotateOptions, rotate
from whit.export.whitening import WhitenOptions, whiten, whitening

TEXTS = [" ".join(text.split()[:8]) for text in parity.mixed_texts(120)]


def cloud(count: int = 400) -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.standard_normal((count, 5)) @ random.standard_normal((5, 5)) + 3).astype(np.float32)


def test_whitened_vectors_have_no_mean_and_equal_variances_in_all_directions() -> None:
    weight, bias, share = whitening(cloud(), 5, 1.0)

    white = cloud().astype(np.float64) @ weight + bias
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(5), atol=1e-3)
    assert share == pytest.approx(1)


def test_power_0_only_centres_and_turns() -> None:
    weight, _, share = whitening(cloud(), 2, 0.0)

    np.testing.assert_allclose(weight.T @ weight, np.eye(2), atol=1e-6)
    assert 0.5 < share < 1


@pytest.mark.parametrize("pooling", ["mean", "pooler", None])
def test_the_checkpoint_gives_whitened_vectors(pooling: str | None, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", pooling=pooling)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS))
    asked = None if pooling else "first_last"

    report = whiten(source, tmp_path / "out", WhitenOptions(corpus, dimension_count=8, pooling=asked))

    assert (report.text_count, report.dimension_count_before, report.dimension_count) == (len(TEXTS), 32, 8)
    after = read_checkpoint(tmp_path / "out")
    assert (after.pooling, after.normalize) == (pooling or "first_last", True)
    vectors = parity.whit_vectors(tmp_path / "out", TEXTS).astype(np.float64)
    assert vectors.shape == (len(TEXTS), 8)
    # Normalised afterwards, so no longer exactly white; before, all cosines were near 1.
    assert abs(np.mean(vectors @ vectors.T)) < 0.1 < np.mean(_unit(source, asked) @ _unit(source, asked).T)
    assert read_steps(tmp_path / "out")[0]["step"] == "whiten"


def _unit(source: Path, pooling: str | None) -> np.ndarray:
    if pooling:
        source = write_checkpoint(source.parent / "stated", pooling=pooling)
    return parity.whit_vectors(source, TEXTS).astype(np.float64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": 2}, "power must be between 0 and 1, got 2"),
        ({"dimension_count": 33}, "dimension_count must be 1 to 32, got 33"),
        ({"dimension_count": 0}, "dimension_count must be 1 to 32, got 0"),
        ({"text_count": -1}, "text_count must be at least 1, got -1"),
        ({"text_count": 20}, "32 dimensions need more than 32 texts"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, float], message: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS))
    with pytest.raises(CheckpointError, match=message):
        whiten(write_checkpoint(tmp_path / "a"), tmp_path / "out", WhitenOptions(corpus, **options))  # type: ignore[arg-type]


def test_texts_that_are_all_the_same_say_nothing(tmp_path: Path) -> None:
    """They gave a Dense of numbers that are none."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the same\n" * 40)

    with pytest.raises(CheckpointError, match=r"all 40 texts have one vector.*texts that differ"):
        whiten(write_checkpoint(tmp_path / "a"), tmp_path / "out", WhitenOptions(corpus))
    assert not (tmp_path / "out").exists()


def test_prefixes_longer_than_the_vectors_that_are_left_are_not_offered(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", matryoshka_dims=[8, 24])
    whiten(source, tmp_path / "white", WhitenOptions(dimension_count=16, power=0))
    compile_checkpoint(tmp_path / "white", tmp_path / "package", ExportOptions(dtype="float32"))
    rotate(tmp_path / "white", tmp_path / "turned", RotateOptions())

    assert read_manifest(tmp_path / "package").matryoshka_dimension_counts == (8,)
    turn = read_checkpoint(tmp_path / "turned").dense[-1].weight
    assert turn.shape == (16, 16)
    assert not turn[:8, 8:].any()
