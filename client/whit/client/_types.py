"""What the clients give and take: frozen dataclasses and numpy arrays. Knows no protobuf and no gRPC.

Names are plain ids (``all-MiniLM-L6-v2``), not the resource names of the wire (``models/all-MiniLM-L6-v2``).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from whit.client._errors import WhitError
from whit.contract.vectors import EncodedVectors, Encoding, decode

Json = dict[str, Any]
"""A JSON object: keys are str; values are str, int, float, bool, None, lists of these, or objects again."""


class Unset(enum.Enum):
    """The type of ``DEFAULT``, so that "not given" and ``None`` (no limit) stay apart."""

    DEFAULT = "default"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Unset.DEFAULT
"""As a ``timeout``: use the one given to the client."""

Timeout = float | None | Unset
"""Seconds for a whole call, retries and all its batches included; None: no limit; DEFAULT: the client's own."""


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """What a micro-batch costs one worker of that server now: ``run_time_us`` as such, and more for each token and each cell.

    A text has as many cells as its attention length squared. ``run_count`` micro-batches were seen; ``relative_error`` is how far
    recent predictions were off (0.1: a tenth), None while nothing was predicted.
    """

    run_time_us: float
    token_time_us: float
    cell_time_us: float
    run_count: int
    relative_error: float | None


@dataclass(frozen=True, slots=True)
class Model:
    """A package that the server has loaded.

    ``dimension_count`` is the length of a full vector; any shorter one may be asked for, and those in
    ``matryoshka_dimension_counts`` are the ones it was trained for. ``prompts`` maps roles to the text put before the input.
    ``verified`` is true if the package's golden vectors were recomputed on that machine and agreed. ``costs`` are None until
    they are known there. ``layer_counts`` are the numbers of layers it can be run with, the last is all; empty: only all.
    """

    name: str
    fingerprint: str
    architecture: str
    dimension_count: int
    matryoshka_dimension_counts: tuple[int, ...]
    max_token_count: int
    pooling: str
    prompts: Mapping[str, str]
    dtype: str
    provider: str
    verified: bool
    size_bytes: int
    costs: ModelCosts | None = None
    layer_counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """How far the golden vectors, recomputed on the server now, are from those in the package."""

    verified: bool
    text_count: int
    max_abs_difference: float
    min_cosine: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server accepts in one message. The client splits what is larger; it cuts nothing."""

    batch_item_count: int
    text_byte_count: int
    message_byte_count: int
    metadata_byte_count: int
    search_hit_count: int
    queue_token_count: int
    stream_window_count: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What that server may use and uses. ``pressure`` is "none", "high" (smaller micro-batches) or "critical".

    While it is critical, bulk and large requests are held back or refused; ``refused_count`` were since its start.
    """

    limit_byte_count: int
    used_byte_count: int
    pressure: str
    refused_count: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is and has: ``providers`` are those of onnxruntime there, none where no model needs it; ``uptime_s`` is in seconds.

    ``memory`` is None where the server cannot read it.
    """

    version: str
    limits: Limits
    providers: tuple[str, ...]
    models: tuple[Model, ...]
    worker_count: int
    uptime_s: float
    memory: Memory | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """A matrix of n vectors in one encoding, as numpy sees it. May be given wherever the clients take vectors.

    ``values`` is float32 [n, d], float16 [n, d], int8 [n, d] or, for binary, uint8 [n, ceil(d / 8)] with the most significant bit first; for
    2bit, 3bit and 4bit it is uint8 [n, 2 to 4, ceil(d / 8)], planes of such bits. It is usually a read-only view of the bytes received;
    copy it to change it. ``scales`` is float32 [n] for int8 (``vector = code * scale``), [n, 2 to 4] for planes (the vector is their
    signs times their scales, summed) and None otherwise. ``dimension_count`` is d.
    """

    encoding: Encoding
    dimension_count: int
    values: NDArray[Any]
    scales: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoding", Encoding(self.encoding))  # a plain "int8" does as well

    def __len__(self) -> int:
        return len(self.values)

    def to_float32(self) -> NDArray[np.float32]:
        """The vectors as float32 [n, d]: int8 codes times their scales; a bit of 1 is +1, of 0 is -1."""
        scales = b"" if self.scales is None else self.scales.tobytes()
        return decode(
            EncodedVectors(self.encoding, len(self.values), self.dimension_count, self.values.tobytes(), scales)
        )


@dataclass(frozen=True, slots=True)
class EmbedItem:
    """What became of one text. ``error`` is None if it went well; if not, its row in every matrix is zeros.

    ``token_count`` counts the whole text with prompt and special tokens, ``used_token_count`` what the model read.
    """

    token_count: int
    used_token_count: int
    truncated: bool
    error: WhitError | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went on the server, in microseconds; over several batches, the longest wait and the sums."""

    queue_time_us: int
    tokenize_time_us: int
    infer_time_us: int


@dataclass(frozen=True, slots=True, eq=False)
class EmbedResult:
    """Vectors of a batch; row i belongs to text i, and so does ``items[i]``.

    ``by_encoding`` has a matrix for each encoding asked for, in that order: ``found.by_encoding["int8"].scales``.
    ``fingerprint`` names the package that made them.
    """

    by_encoding: Mapping[str, Vectors]
    items: Sequence[EmbedItem]
    timing: Timing
    fingerprint: str

    @property
    def encoding(self) -> Encoding:
        """The encoding asked for; the first, if there were several."""
        return self._first.encoding

    @property
    def vectors(self) -> NDArray[Any]:
        """The matrix in ``encoding``: ``Vectors.values`` says its dtype and shape."""
        return self._first.values

    @property
    def scales(self) -> NDArray[np.float32] | None:
        """The scales of ``vectors``, as ``Vectors.scales`` has them."""
        return self._first.scales

    @property
    def _first(self) -> Vectors:
        return next(iter(self.by_encoding.values()))

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        failed = sum(item.error is not None for item in self.items)
        matrices = ", ".join(f"{name} {list(v.values.shape)}" for name, v in self.by_encoding.items())
        return f"<EmbedResult {matrices}, {len(self.items)} items, {failed} failed>"


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of points whose vectors were all made by the package with ``fingerprint``.

    ``storage`` is how they are stored; of a newer server it may be ``"unknown (9)"``, with the number on the wire.
    """

    name: str
    model: str
    fingerprint: str
    dimension_count: int
    storage: Encoding | str
    point_count: int
    create_time: datetime


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A point to write, or one that was read.

    To write, give ``text`` alone (the collection's model embeds it) or ``vector`` too (float [d]; the text is then only stored). Read
    points have a ``vector`` (float32 [d]) only if it was asked for.
    """

    id: str
    text: str = ""
    metadata: Json = field(default_factory=dict)
    vector: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class UpsertItem:
    """What became of one point: on disk if ``error`` is None, else not written. The counts are as in ``EmbedItem``."""

    id: str
    token_count: int
    used_token_count: int
    truncated: bool
    error: WhitError | None = None


@dataclass(frozen=True, slots=True)
class UpsertResult:
    """What became of the points, in order. ``sequence`` is the collection's change number after the write; it only grows."""

    items: Sequence[UpsertItem]
    sequence: int

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """How many points went, and which ids were not there."""

    deleted_count: int
    missing_ids: tuple[str, ...]
    sequence: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A point that a query found. ``score`` is the cosine of query and stored vector, -1 to 1.

    Metadata numbers travel as 64-bit floats; whole ones come back as int.
    """

    id: str
    score: float
    text: str
    metadata: Json


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What one query of several found, best first; iterate over it for the hits. ``error`` is None if it went well."""

    hits: Sequence[Hit]
    error: WhitError | None = None

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)
