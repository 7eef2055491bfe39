"""Collections of residual codes: what SQLite holds, what search says of it, and that a restart changes neither."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.clients import MODEL
from tests.support.server import DIMENSION_COUNT, rows, server_thread
from whit.client import Client, Reason, WhitError
from whit.contract.vectors import EncodedVectors, Encoding, decode, encode
from whit.server.index import CollectionStore, PointWrite
from whit.server.index.database import DATABASE_FILE
from whit.server.index.rows import from_rows

RESIDUAL = (Encoding.BITS_2, Encoding.BITS_3, Encoding.BITS_4)
COUNT = 2300  # enough for a graph


def in_database(data: Path, storage: Encoding) -> tuple[EncodedVectors, list[int | None], int]:
    """Codes in the order of their keys, the scale column and the format version, read by nothing but SQLite."""
    with closing(sqlite3.connect(data / "collections" / "c" / DATABASE_FILE)) as connection:
        rows = connection.execute("SELECT scale, vector FROM points ORDER BY key").fetchall()
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    assert {len(blob) for _, blob in rows} == {storage.bits * (DIMENSION_COUNT // 8 + 4)}
    return from_rows(rows, storage, DIMENSION_COUNT), [scale for scale, _ in rows], version


def cosines(queries: NDArray[np.float32], encoded: EncodedVectors) -> NDArray[np.float64]:
    stored, asked = decode(encoded).astype(np.float64), queries.astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    return asked @ stored.T / np.linalg.norm(asked, axis=1, keepdims=True)


@pytest.mark.parametrize("storage", RESIDUAL)
def test_a_collection_keeps_the_codes_and_scores_what_they_stand_for_before_and_after_a_restart(
    tmp_path: Path, storage: Encoding
) -> None:
    vectors, queries = rows(COUNT), rows(5, seed=1)
    ids = [f"p{i:04}" for i in range(COUNT)]
    data = tmp_path / "data"

    def found(whit: Client) -> list[Mapping[str, float]]:
        return [{h.id: h.score for h in hits} for hits in whit.search_batch("c", queries, limit=10)]

    with server_thread(data) as address, Client(address) as whit:
        made = whit.create_collection("c", model=MODEL, storage=storage)
        assert made.storage is storage
        whit.upsert("c", ids=ids, vectors=vectors, texts=ids)
        before = found(whit)
        vector = whit.get("c", ["p0007"], with_vectors=True)[0].vector
    expected = encode(vectors, storage)
    kept, scale_column, version = in_database(data, storage)

    assert kept == expected
    assert set(scale_column) == {None}
    assert version == 2
    assert np.array_equal(vector, decode(expected)[7])
    for row, hits in zip(cosines(queries, expected), before, strict=True):
        assert hits == pytest.approx({ids[i]: row[i] for i in np.argsort(-row)[:10]}, abs=1e-6)

    with server_thread(data) as address, Client(address) as whit:
        assert whit.collection("c").storage is storage
        assert found(whit) == before
    for graph in (data / "collections" / "c").glob("graph-*"):
        graph.unlink()
    with server_thread(data) as address, Client(address) as whit:
        assert found(whit) == before


@pytest.mark.parametrize("storage", RESIDUAL)
def test_the_graph_over_codes_finds_what_a_scan_finds(tmp_path: Path, storage: Encoding) -> None:
    with CollectionStore(tmp_path, background=False) as store:
        store.create("c", model_id="m", fingerprint="f", dimension_count=DIMENSION_COUNT, storage=storage)
        handle = store.open("c")
        handle.upsert([PointWrite(f"p{i:04}", "") for i in range(COUNT)], rows(COUNT))
        handle.maintain()
        queries = rows(20, seed=2)
        pairs = zip(handle.search(queries, limit=10), handle.search(queries, limit=10, exact=True), strict=True)
        shares = [len(set(a) & set(b)) / 10 for a, b in pairs]

    assert np.mean(shares) >= 0.95  # the same points, with the same scores


@pytest.mark.parametrize("storage", [Encoding.FLOAT32, Encoding.INT8])
def test_older_versions_can_still_read_collections_of_other_encodings(tmp_path: Path, storage: Encoding) -> None:
    with CollectionStore(tmp_path, background=False) as store:
        store.create("c", model_id="m", fingerprint="f", dimension_count=8, storage=storage)
    with closing(sqlite3.connect(tmp_path / "collections" / "c" / DATABASE_FILE)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


def test_bits_are_refused_with_the_field_and_what_to_use(tmp_path: Path) -> None:
    with server_thread(tmp_path) as address, Client(address) as whit, pytest.raises(WhitError) as caught:
        whit.create_collection("c", model=MODEL, storage="binary")

    assert caught.value.reason is Reason.INVALID_REQUEST
    assert caught.value.violations[0].field == "collection.storage"
    assert "BITS_2 (5)" in str(caught.value)


@pytest.mark.parametrize("encoding", RESIDUAL)
def test_what_is_embedded_is_what_the_codec_makes_of_the_vector(tmp_path: Path, encoding: Encoding) -> None:
    texts = ["one text", "another text", "a third"]
    with server_thread(tmp_path) as address, Client(address) as whit:
        found = whit.embed(texts, model=MODEL, encoding=[encoding, "float32"], dimension_count=13)
        alone = whit.embed(texts[1:2], model=MODEL, encoding=encoding, dimension_count=13)

    codes, exact = found.by_encoding[encoding], found.by_encoding["float32"].values
    assert (codes.values.shape, codes.scales is not None and codes.scales.shape) == (
        (3, encoding.bits, 2),
        (3, encoding.bits),
    )
    assert np.array_equal(codes.to_float32(), decode(encode(exact, encoding)))
    assert alone.vectors.tobytes() == codes.values[1:2].tobytes()
