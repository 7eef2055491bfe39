"""A collection ``c`` of clustered vectors with a graph over them, and what a search of it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from whit.contract.vectors import Encoding
from whit.server.index import CollectionHandle, CollectionStore, PointWrite, SearchHit, keeper, search

DIMENSIONS = 32
COUNT = 400


def make_graphs_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs from 200 points on and small chunks, so that a test takes milliseconds."""
    monkeypatch.setattr(search, "CACHED_ROW_COUNT", 250)
    monkeypatch.setattr(search, "_CHUNK_ROW_COUNT", 100)
    monkeypatch.setattr(keeper, "GRAPH_POINT_COUNT", 200)
    monkeypatch.setattr(keeper, "_SNAPSHOT_KEY_COUNT", 100)


def clustered(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors around 20 centres: float32 [count, DIMENSIONS]."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((20, DIMENSIONS))
    found = centres[rng.integers(20, size=count)] + 0.7 * rng.standard_normal((count, DIMENSIONS))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def names(count: int, start: int = 0) -> list[str]:
    """Ids in the order of their numbers."""
    return [f"p{i:05}" for i in range(start, start + count)]


def upsert(handle: CollectionHandle, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
    """Writes points, each with a text that names it."""
    handle.upsert([PointWrite(id_, f"text of {id_}") for id_ in ids], vectors)


def make_collection(
    store: CollectionStore, storage: Encoding = Encoding.FLOAT32, count: int = COUNT
) -> CollectionHandle:
    """Makes ``c`` with ``count`` points."""
    store.create("c", model_id="m", fingerprint="f", dimension_count=DIMENSIONS, storage=storage)
    handle = store.open("c")
    upsert(handle, names(count), clustered(count))
    return handle


@contextmanager
def reopening(data: Path) -> Iterator[Callable[[], CollectionStore]]:
    """A function that opens the store in ``data``, and closes first the one that it opened before."""
    stores: list[CollectionStore] = []

    def open_store() -> CollectionStore:
        if stores:
            stores.pop().close()
        stores.append(CollectionStore(data, background=False))
        return stores[0]

    yield open_store
    stores.pop().close()


def ids_of(hits: Sequence[SearchHit]) -> list[str]:
    """Best first."""
    return [hit.id for hit in hits]


def recall(got: Sequence[Sequence[SearchHit]], wanted: Sequence[Sequence[SearchHit]]) -> float:
    """The share of the hits ``wanted`` that are among those that were got, over all queries."""
    return float(np.mean([len({*ids_of(a)} & {*ids_of(b)}) / len(b) for a, b in zip(got, wanted, strict=True)]))
