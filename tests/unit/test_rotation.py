"""Rotation: bits and residual codes of a turned vector say more, and no cosine changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import parity, tiny
from whit.contract.vectors import Encoding, decode, encode
from whit.export.checkpoint import read_checkpoint
from whit.export.derive import read_steps
from whit.export.errors import CheckpointError
from whit.export.rotation import RotateOptions, rotate, rotation
from whit.export.whitening import WhitenOptions, whiten

TEXTS = [" ".join(text.split()[:8]) for text in parity.mixed_texts(300)]


def unit(x: NDArray[np.floating]) -> NDArray[np.float32]:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def clusters(count: int = 600, dims: int = 24) -> NDArray[np.float32]:
    """Groups around a few directions, which lie near the axes: signs then say little."""
    random = np.random.default_rng(0)
    centres = np.eye(dims)[random.integers(0, 6, count)] * 3
    return unit(centres + random.standard_normal((count, dims)) * np.linspace(1, 0.05, dims))


def error(x: NDArray[np.float32], encoding: Encoding) -> float:
    """1 minus the mean cosine of rows and what their codes stand for."""
    return float(1 - (unit(decode(encode(x, encoding))) * x).sum(axis=1).mean())


@pytest.mark.parametrize(("encoding", "share"), [(Encoding.BINARY, 0.8), (Encoding.BITS_2, 0.9)])
def test_codes_of_turned_vectors_are_nearer_to_them_seen_before_or_not(encoding: Encoding, share: float) -> None:
    x = clusters()
    turn = rotation(x[::2])

    np.testing.assert_allclose(turn.T @ turn, np.eye(24), atol=1e-5)
    for rows in (x[::2], x[1::2]):
        assert error(unit(rows @ turn), encoding) < share * error(rows, encoding)


def test_prefixes_keep_their_cosines() -> None:
    x = clusters()
    turned = x @ rotation(x, [8, 24])

    assert not np.allclose(turned, x, atol=1e-2)
    for count in (8, 24):
        np.testing.assert_allclose(turned[:, :count] @ turned[:, :count].T, x[:, :count] @ x[:, :count].T, atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_checkpoint_keeps_its_cosines_and_its_bits_find_more(normalize: bool, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS))
    source = tmp_path / "centred"
    whiten(
        tiny.write_checkpoint(tmp_path / "source", normalize=normalize), source, WhitenOptions(corpus, power=0)
    )  # weights without training: all vectors point one way

    report = rotate(source, tmp_path / "out", RotateOptions(corpus))

    assert (report.text_count, report.dimension_count) == (len(TEXTS), 32)
    assert report.same_10 > report.same_10_before + 3
    before, after = parity.whit_vectors(source, TEXTS), parity.whit_vectors(tmp_path / "out", TEXTS)
    np.testing.assert_allclose(after @ after.T, before @ before.T, rtol=1e-4, atol=1e-5)
    for encoding in (Encoding.BINARY, Encoding.BITS_2, Encoding.BITS_4):
        assert error(unit(after), encoding) < error(unit(before), encoding)
    assert read_checkpoint(tmp_path / "out").normalize is normalize
    assert read_steps(tmp_path / "out")[-1] == {"step": "rotate", "text_count": len(TEXTS)}


def test_a_matryoshka_checkpoint_stays_one(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS))
    source = tmp_path / "centred"
    whiten(tiny.write_checkpoint(tmp_path / "source"), source, WhitenOptions(corpus, power=0))
    tiny.write_json(source / "config_sentence_transformers.json", {"matryoshka_dims": [32, 16]})

    rotate(source, tmp_path / "out", RotateOptions(corpus))

    assert read_checkpoint(tmp_path / "out").matryoshka_dimension_counts == (32, 16)
    before, after = (parity.whit_vectors(p, TEXTS)[:, :16] for p in (source, tmp_path / "out"))
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-5)


def test_a_rotation_that_does_not_help_is_refused_with_what_to_do(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS))
    source = tiny.write_checkpoint(tmp_path / "source")

    with pytest.raises(CheckpointError, match=r"no rotation was found that helps: .* step whiten with power = 0"):
        rotate(source, tmp_path / "out", RotateOptions(corpus))
    assert not (tmp_path / "out").exists()


def test_too_few_texts_are_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS[:32]))

    with pytest.raises(CheckpointError, match="32 dimensions need more than 32 texts to learn a rotation from, got 32"):
        rotate(tiny.write_checkpoint(tmp_path / "a"), tmp_path / "out", RotateOptions(corpus))
    with pytest.raises(CheckpointError, match="text_count must be at least 1, got -5"):
        rotate(tmp_path / "a", tmp_path / "out", RotateOptions(corpus, text_count=-5))
