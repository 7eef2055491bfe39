"""Embedding tables in fewer bits: what is stored, what comes back, and that the package with it is like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import tiny
from whit.export.compile import ExportOptions, compile_checkpoint
from whit.export.embedding import check_embedding, emit_rows, looked_up, pack_rows, store_rows
from whit.export.errors import CheckpointError
from whit.export.graph import INT64, Graph
from whit.export.products import Products
from whit.runtime.encoder import Encoder, open_session
from whit.runtime.package import Package, open_package
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


def products(table: NDArray[np.float32], code_count: int, counts: NDArray[np.int64] | None = None) -> Products:
    found = store_rows(table, "pq", code_count=code_count, counts=counts)
    assert isinstance(found, Products)
    return found


def decoded(rows: Products) -> NDArray[np.float32]:
    """The rows by the definition of ``Products``, with lengths as the graph stores them."""
    stretches = [centroids[codes] for centroids, codes in zip(rows.centroids, rows.codes.T, strict=True)]
    return np.hstack(stretches) * rows.lengths.astype(np.float16).astype(np.float32)[:, None]


@pytest.mark.parametrize("width", [384, 256, 312, 34, 2])
def test_the_graph_gives_the_stored_rows_to_the_last_bit(width: int) -> None:
    random = np.random.default_rng(width)
    table = random.normal(size=(90, width)).astype(np.float32)
    ids = random.integers(0, len(table), 200)

    assert np.array_equal(looked_up(store_rows(table, "int4"), ids), unpacked(table)[ids])


@pytest.mark.parametrize(("width", "code_count"), [(384, 96), (384, 128), (312, 78), (30, 15), (7, 1)])
def test_the_graph_decodes_products_to_the_last_bit(width: int, code_count: int) -> None:
    random = np.random.default_rng(width)
    table = random.normal(size=(300, width)).astype(np.float32)
    ids = random.integers(0, len(table), 500)
    rows = products(table, code_count)

    assert rows.codes.nbytes == 300 * code_count
    assert np.array_equal(looked_up(rows, ids), decoded(rows)[ids])


def test_two_values_a_code_are_more_exact_than_four_bits_each() -> None:
    table = np.random.default_rng(0).normal(size=(2000, 128)).astype(np.float32)

    assert np.std(decoded(products(table, 64)) - table) < 0.9 * np.std(unpacked(table) - table)


def test_rows_that_are_looked_up_are_more_exact_than_those_that_are_not() -> None:
    table = np.random.default_rng(0).normal(size=(4000, 32)).astype(np.float32)
    counts = np.zeros(4000, np.int64)
    counts[:400] = 50

    alike = np.square(decoded(products(table, 8)) - table).sum(axis=1)
    weighted = np.square(decoded(products(table, 8, counts)) - table).sum(axis=1)

    assert weighted[:400].mean() < 0.5 * alike[:400].mean()
    assert weighted[400:].mean() < 1.5 * alike[400:].mean()


def test_four_bits_are_as_exact_as_sixteen_even_steps_can_be() -> None:
    """A tenth of the spread: the best even steps for values that are distributed normally have 10.7 % (Max, 1960)."""
    table = np.random.default_rng(0).normal(size=(500, 384)).astype(np.float32)

    assert np.std(unpacked(table) - table) < 0.107
    assert np.std(looked_up(store_rows(table, "int8"), np.arange(500)) - table) < 0.01


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


@pytest.mark.parametrize("dtype", ["float32", "int8", "int4", "pq"])
def test_rows_that_tokens_share_are_stored_once(dtype: str) -> None:
    random = np.random.default_rng(0)
    distinct = random.normal(size=(300, 64)).astype(np.float32)
    places = np.concatenate([random.permutation(300), random.integers(0, 300, 300)])
    counts = random.integers(0, 9, 600)
    merged = np.bincount(places, counts, 300).astype(np.int64)
    g = Graph()
    rows = store_rows(distinct[places], dtype, code_count=16, counts=counts)
    g.op("Identity", emit_rows(g, rows, "ids"), output="rows")
    model = g.model({"ids": (INT64, ["T"])}, {"rows": ["T", 64]})
    order = places[np.sort(np.unique(places, return_index=True)[1])]  # in which the distinct rows come

    (found,) = open_session(model.SerializeToString()).run(["rows"], {"ids": np.arange(600)})

    alone = store_rows(distinct[order], dtype, code_count=16, counts=merged[order])
    assert np.array_equal(found, looked_up(alone, np.argsort(order)[places]))
    assert 600 not in [tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) > 1]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("plain")
    compile_checkpoint(tiny.write_checkpoint(folder / "source"), folder / "package", ExportOptions(name="tiny"))
    return open_package(folder / "package")


@pytest.mark.parametrize(
    ("chosen", "share"),
    [
        (ExportOptions(name="tiny", embedding_dtype="int4"), 1 / 3),
        (ExportOptions(name="tiny", embedding_dtype="pq", embedding_code_count=4, max_loss=100), 2 / 3),
    ],
)
def test_a_package_with_it_verifies_is_smaller_and_knows_no_company(
    plain: Package, chosen: ExportOptions, share: float, tmp_path: Path
) -> None:
    compile_checkpoint(tiny.write_checkpoint(tmp_path / "source"), tmp_path / "fewer", chosen)
    fewer = open_package(tmp_path / "fewer")
    tokenizer, encoder = Tokenizer(fewer), Encoder(fewer)
    sequences = tokenizer.encode(["water", "people read a book by the sea", "a cold morning", "the sea"])

    together = encoder.encode(sequences)

    alone = np.concatenate([encoder.encode([ids]) for ids in sequences])
    assert verify(fewer, tokenizer, encoder).verified
    assert np.array_equal(alone, together)
    assert fewer.manifest.provenance["options"]["embedding_dtype"] == chosen.embedding_dtype
    assert fewer.manifest.provenance["options"]["embedding_code_count"] == chosen.embedding_code_count
    assert fewer.manifest.fingerprint != plain.manifest.fingerprint
    centroids = 256 * 32 if chosen.embedding_dtype == "pq" else 0
    spared = plain.size_bytes - fewer.size_bytes + centroids
    assert spared > plain.manifest.vocabulary_size * 32 * share  # rows have 32 values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(embedding_dtype="int5"), "embedding_dtype must be one of int8, int4, pq, got 'int5'"),
        (ExportOptions(embedding_dtype="pq", dtype="float32"), "embedding_dtype pq needs dtype int8"),
        (
            ExportOptions(embedding_code_count=8),
            "embedding_code_count is for embedding_dtype pq, not int8; leave it out",
        ),
        (
            ExportOptions(embedding_dtype="pq", embedding_code_count=5),
            r"embedding_code_count must divide the width of the word embeddings \(32\), got 5; 4 is usual",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(options: ExportOptions, message: str, tmp_path: Path) -> None:
    source = tiny.write_checkpoint(tmp_path / "source")
    with pytest.raises(CheckpointError, match=message):
        compile_checkpoint(source, tmp_path / "out", options)


def test_what_fits_a_width_is_found() -> None:
    assert [check_embedding("pq", None, width) for width in (384, 312, 30, 7)] == [96, 78, 6, 1]
    assert check_embedding("int4", None, 384) == 0
    with pytest.raises(CheckpointError, match="rows of an even width, these have 33 values; choose int8 or pq"):
        check_embedding("int4", None, 33)
