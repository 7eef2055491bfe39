"""Embedding tables in four bits: what is stored, what comes back, and that the package with it is like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import tiny
from whit.export.checkpoint import CheckpointError
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.embedding import emit_rows, pack_rows
from whit.export.graph import INT64, Graph
from whit.runtime.encoder import Encoder, open_session
from whit.runtime.package import open_package
from whit.runtime.tokenizer import Tokenizer
from whit.runtime.verify import verify


def unpacked(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows as they are stored, by the definition of ``pack_rows``."""
    pairs, scales = pack_rows(table)
    high, low = np.divmod(pairs.astype(np.int64), 16)
    codes = np.hstack([high, low - 8])
    assert codes.min() >= -8
    assert codes.max() <= 7
    block = table.shape[1] // scales.shape[1]
    return codes.astype(np.float32) * np.repeat(scales[:, :, 0].astype(np.float32), block, axis=1)


def looked_up(table: NDArray[np.float32], ids: NDArray[np.int64], bits: int) -> NDArray[np.float32]:
    """The rows as the graph gives them."""
    g = Graph()
    g.op("Identity", emit_rows(g, table, "ids", bits), output="rows")
    session = open_session(
        g.model({"ids": (INT64, ["T"])}, {"rows": ["T", table.shape[1]]}).SerializeToString(),
    )
    rows: NDArray[np.float32] = session.run(["rows"], {"ids": ids})[0]
    return rows


@pytest.mark.parametrize("width", [384, 256, 312, 34, 2])
def test_the_graph_gives_the_stored_rows_to_the_last_bit(width: int) -> None:
    random = np.random.default_rng(width)
    table = random.normal(size=(90, width)).astype(np.float32)
    ids = random.integers(0, len(table), 200)

    assert np.array_equal(looked_up(table, ids, 4), unpacked(table)[ids])


def test_four_bits_are_as_exact_as_sixteen_even_steps_can_be() -> None:
    """A tenth of the spread: the best even steps for values that are distributed normally have 10.7 % (Max, 1960)."""
    table = np.random.default_rng(0).normal(size=(500, 384)).astype(np.float32)

    assert np.std(unpacked(table) - table) < 0.107
    assert np.std(looked_up(table, np.arange(500), 8) - table) < 0.01


def test_one_large_value_spoils_its_own_block_only() -> None:
    table = np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32)
    table[:, 300] *= 40

    error = (unpacked(table) - table).std(axis=0)

    assert error[:256].max() < 0.2
    assert error[256:].mean() > 3 * error[:256].mean()


def test_a_row_of_nothing_stays_nothing() -> None:
    table = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    table[1] = 0
    table[2] = 1e-12  # less than a float16 scale can be

    assert not unpacked(table)[1:].any()


@pytest.mark.parametrize("bits", [32, 8, 4])
def test_rows_that_tokens_share_are_stored_once(bits: int) -> None:
    random = np.random.default_rng(0)
    distinct = random.normal(size=(100, 64)).astype(np.float32)
    places = np.concatenate([random.permutation(100), random.integers(0, 100, 300)])
    g = Graph()
    g.op("Identity", emit_rows(g, distinct[places], "ids", bits), output="rows")
    model = g.model({"ids": (INT64, ["T"])}, {"rows": ["T", 64]})
    ids = np.arange(400)

    (rows,) = open_session(model.SerializeToString()).run(["rows"], {"ids": ids})

    assert np.array_equal(rows, looked_up(distinct, places, bits))
    assert max(tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) > 1) == 100


def test_rows_of_an_odd_width_are_refused() -> None:
    with pytest.raises(CheckpointError, match="even width, these have 33; use embedding_bits 8"):
        pack_rows(np.zeros((2, 33), np.float32))


def test_a_package_with_it_verifies_is_smaller_and_knows_no_company(tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")
    packages = []
    for bits in (8, 4):
        compile_checkpoint(source, tmp_path / str(bits), ExportOptions(name="tiny", embedding_bits=bits))
        packages.append(open_package(tmp_path / str(bits)))
    eight, four = packages
    tokenizer, encoder = Tokenizer(four), Encoder(four)
    sequences = tokenizer.encode(["water", "people read a book by the sea", "a cold morning", "the sea"])

    together = encoder.encode(sequences)

    alone = np.concatenate([encoder.encode([ids]) for ids in sequences])
    assert verify(four, tokenizer, encoder).verified
    assert np.array_equal(alone, together)
    assert four.manifest.provenance["options"]["embedding_bits"] == 4
    assert four.manifest.fingerprint != eight.manifest.fingerprint
    spared = eight.size_bytes - four.size_bytes
    assert spared > four.manifest.vocabulary_size * 32 // 3  # rows have 32 values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_bits": 5}, "embedding_bits must be 4 or 8, got 5"),
        ({"embedding_bits": 4, "dtype": "float32"}, "embedding_bits 4 needs dtype int8"),
    ],
)
def test_what_cannot_be_done_is_refused(options: dict[str, int], message: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")
    with pytest.raises(CheckpointError, match=message):
        compile_checkpoint(source, tmp_path / "out", ExportOptions(**options))  # type: ignore[arg-type]
