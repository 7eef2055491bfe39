"""Collections on disk: SQLite holds the truth, a usearch graph makes large collections fast to search.

Synchronous and thread-safe; knows no protobuf and no gRPC. ``docs/ARCHITECTURE.md`` has the picture, ``collection.py`` the
rule that keeps the two in step.
"""

from whit.server.index.collection import CollectionHandle
from whit.server.index.files import DataDirectoryLocked
from whit.server.index.store import CollectionStore
from whit.server.index.types import STORAGES, CollectionInfo, PointWrite, SearchHit, StoredPoint

__all__ = [
    "STORAGES",
    "CollectionHandle",
    "CollectionInfo",
    "CollectionStore",
    "DataDirectoryLocked",
    "PointWrite",
    "SearchHit",
    "StoredPoint",
]
