"""What the index takes and gives back, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from whit.contract.vectors import Encoding

# How a collection may store vectors: bits alone have lost what a cosine needs.
STORAGES = tuple(encoding for encoding in Encoding if encoding is not Encoding.BINARY)


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection: the package it is bound to, how it stores vectors, how many points it has."""

    id: str
    model_id: str
    fingerprint: str
    dimension_count: int
    storage: Encoding
    point_count: int
    create_time: datetime  # UTC


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """A point without its vector. ``metadata`` is the text of a JSON object."""

    id: str
    text: str
    metadata: str = "{}"


@dataclass(frozen=True, slots=True)
class PointWrite:
    """A point to write; its vector travels beside it, as a row of a matrix. ``metadata`` is the text of a JSON object."""

    id: str
    text: str
    metadata: str = "{}"


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A point found. ``score`` is the cosine of query and stored vector; text and metadata are empty without payload."""

    id: str
    score: float
    text: str
    metadata: str
