"""From the user's items to those of protobuf requests, and batches of them to messages. Pure.

A wrong type or shape is a ``TypeError`` or ``ValueError`` at once. An item whose content
cannot be sent (half a surrogate pair, NaN in metadata) is refused as the server refuses items: by an error of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whit.client._metadata import to_struct
from whit.client._split import Entry, refused
from whit.client._types import EmbedResult, Point, Vectors
from whit.contract.errors import Reason
from whit.contract.vectors import Encoding
from whit.contract.wire import ENCODING_NUMBERS
from whit.v1 import embedding_pb2, point_pb2, vector_pb2

# Bounds what protobuf adds to the bytes of an item: tags and lengths, of up to three nested messages.
_ITEM_OVERHEAD_BYTES = 24


T = TypeVar("T")
U = TypeVar("U")


class Row(NamedTuple):
    """One vector to send; ``values`` is 1-d in the dtype of its encoding."""

    encoding: Encoding
    dimension_count: int
    values: NDArray[Any]
    scale: float


def sequence_of(values: T, argument: str, *, awaited: bool = False, ordered: bool = True) -> T:
    """``values``, unless they are one text where many are meant. Only ``awaited`` may they be asynchronous.

    ``ordered`` false: they come back by name, so that a set is as good as a list.

    Raises:
        TypeError: a str, bytes, mapping or set, or nothing that can be iterated over.
    """
    if ordered and isinstance(values, set | frozenset):
        raise TypeError(
            f"{argument} must be a sequence, got a {type(values).__name__}, whose order is any: nobody could tell which "
            f"result belongs to which item; write sorted({argument})"
        )
    if isinstance(values, AsyncIterable) and not awaited:
        raise TypeError(
            f"{argument} must be a sequence, got {type(values).__name__}, which has to be awaited; "
            "gather it in a list, or give it to a stream of AsyncClient"
        )
    if isinstance(values, str | bytes | Mapping):
        is_many = isinstance(values, Mapping) and argument != "metadata"
        advice = f"list({argument}.values())" if is_many else f"[{argument}]"
        raise TypeError(f"{argument} must be a sequence, got one {type(values).__name__}; write {advice}")
    is_scalar = isinstance(values, np.ndarray) and values.ndim == 0
    if is_scalar or not (isinstance(values, Iterable | AsyncIterable) or hasattr(values, "__getitem__")):
        raise TypeError(f"{argument} must be a sequence, got {type(values).__name__}")
    return values


def one_of(texts: T | None, token_ids: U | None, *, awaited: bool = False) -> tuple[T | U, bool]:
    """The one that is given, and whether it is ``token_ids``.

    Raises:
        TypeError: both or neither, or a single text in place of a sequence.
    """
    if texts is not None and token_ids is None:
        return sequence_of(texts, "texts", awaited=awaited), False
    if token_ids is not None and texts is None:
        return sequence_of(token_ids, "token_ids", awaited=awaited), True
    raise TypeError("give texts or token_ids, one of them")


def text_entry(text: str, place: int) -> Entry:
    """A text, ready to send."""
    if not isinstance(text, str):
        raise TypeError(f"texts[{place}] must be str, got {type(text).__name__}")
    if text.isascii():
        return Entry(text, len(text) + _ITEM_OVERHEAD_BYTES)
    return Entry(text, _utf8_byte_count(text, f"texts[{place}]") + _ITEM_OVERHEAD_BYTES)


def _utf8_byte_count(text: str, field: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise refused(
            Reason.INVALID_REQUEST, field, "has a lone surrogate, so it is not Unicode text; send valid text"
        ) from None


def token_ids_entry(ids: Sequence[int] | NDArray[np.integer[Any]], place: int) -> Entry:
    """A text given as token ids, ready to send."""
    try:
        if isinstance(ids, bytes | bytearray):  # their items are ints too
            raise TypeError
        values = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        message = embedding_pb2.TokenIds(ids=values)
    except TypeError:
        raise TypeError(f"token_ids[{place}] must be a sequence of int, one text's tokens") from None
    except ValueError:  # beyond int32
        raise refused(
            Reason.INVALID_REQUEST, f"token_ids[{place}]", "token ids must be 0 or more and below 2**31"
        ) from None
    return Entry(message, message.ByteSize() + _ITEM_OVERHEAD_BYTES)


def rows_of(vectors: Vectors | ArrayLike, argument: str = "vectors") -> list[Row]:
    """The rows of a matrix, ready to send: float16 and int8 ``Vectors`` as they are, every other number as float32.

    Raises:
        ValueError: no matrix, or codes of 1 to 4 bits, which are not for sending.
        TypeError: no numbers.
    """
    if isinstance(vectors, EmbedResult):
        raise TypeError(
            f"{argument} must be a matrix or Vectors, got an EmbedResult; give its by_encoding[{vectors.encoding.value!r}]"
        )
    if isinstance(vectors, Vectors):
        if vectors.encoding is Encoding.BINARY:
            raise ValueError(f"{argument} must not be binary: no cosine can be had from bits; give another encoding")
        if vectors.encoding.bits:
            raise ValueError(
                f"{argument} must not be {vectors.encoding}: coded again they would lose more; give to_float32() of them"
            )
        if vectors.encoding is Encoding.INT8 and (vectors.scales is None or len(vectors.scales) != len(vectors)):
            raise ValueError(f"{argument} are int8 and must have a scale for each of their {len(vectors)} rows")
        scales = [0.0] * len(vectors) if vectors.scales is None else vectors.scales.tolist()
        return [
            Row(vectors.encoding, vectors.dimension_count, values, scale)
            for values, scale in zip(vectors.values, scales, strict=True)
        ]
    matrix = _numbers(vectors, argument)
    if matrix.ndim != 2:
        raise ValueError(f"{argument} must have the shape [count, dimensions], got {list(matrix.shape)}")
    return [_row(values) for values in matrix]


def row_of(vector: ArrayLike, argument: str) -> Row:
    """One vector, ready to send.

    Raises:
        ValueError: it is not 1-d.
        TypeError: no numbers.
    """
    values = _numbers(vector, argument)
    if values.ndim != 1:
        raise ValueError(f"{argument} must have the shape [dimensions], got {list(values.shape)}")
    return _row(values)


def _row(values: NDArray[Any]) -> Row:
    return Row(Encoding.FLOAT16 if values.dtype == np.float16 else Encoding.FLOAT32, len(values), values, 0.0)


def _numbers(values: ArrayLike, argument: str) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{argument} has rows of different lengths; every vector must have the same") from None
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{argument} must be numbers, got {array.dtype if array.ndim else type(values).__name__}")
    if array.dtype == np.float16:
        return array
    with np.errstate(over="ignore"):  # what is then infinite is refused by the server, by name
        return array.astype(np.float32, copy=False)


def row_entry(row: Row, place: int) -> Entry:
    """A vector, ready to send; those of one batch have one encoding and length."""
    return Entry(row, row.values.nbytes + 4, row[:2])


def many_queries(queries: Any, *, awaited: bool = False) -> Any:
    """Queries one by one: texts, vectors, or the rows of ``Vectors``; asynchronously only if ``awaited``."""
    if isinstance(queries, Vectors):
        return rows_of(queries, "queries")
    return sequence_of(queries, "queries", awaited=awaited)


def query_entry(query: Any, place: int) -> Entry:
    """A query: a text, or a vector as numbers or as a ``Row``."""
    if isinstance(query, str):
        return text_entry(query, place)
    if isinstance(query, Row):
        return row_entry(query, place)
    try:
        return row_entry(row_of(query, f"queries[{place}]"), place)
    except TypeError:
        raise TypeError(
            f"queries[{place}] must be a text or a vector of numbers, got {type(query).__name__}; "
            "many queries go to search_batch or search_stream"
        ) from None


def point_entry(point: Point, place: int) -> Entry:
    """A point with its vector, if it has one, ready to send."""
    _check_is_point(point, place)
    field = f"points[{place}]"
    for name, value in (("id", point.id), ("text", point.text)):
        if not isinstance(value, str):
            raise TypeError(f"{field}.{name} must be str, got {type(value).__name__}; write str(…)")
    vector: Any = point.vector  # a Row where points_of made the point
    row = vector if vector is None or isinstance(vector, Row) else row_of(vector, f"{field}.vector")
    try:
        metadata = None if point.metadata is None else to_struct(point.metadata, f"{field}.metadata")
        message = point_pb2.Point(id=point.id, text=point.text, metadata=metadata)
    except ValueError as error:  # UnicodeEncodeError too
        name, why = _split_words(error, field)
        raise refused(Reason.INVALID_REQUEST, name, why, id=point.id) from None
    size = message.ByteSize() + _ITEM_OVERHEAD_BYTES
    if row is None:
        return Entry((message, None), size)
    return Entry((message, row), size + row.values.nbytes + 4, row[:2])


def once_only(ids: Iterable[str]) -> Callable[[Point, int], Entry]:
    """Prepares the points of one call like ``point_entry``, but refuses those whose id another one has too.

    The server does the same in one message; what becomes of a point must not hang on how a call was split.
    """
    counts = Counter(id_ for id_ in ids if isinstance(id_, str))

    def prepare(point: Point, place: int) -> Entry:
        entry = point_entry(point, place)
        if counts[point.id] > 1:
            why = f"is {point.id!r}, which {counts[point.id]} points of this call have, so none of them was written; give each id once"
            raise refused(Reason.DUPLICATE_ID, f"points[{place}].id", why, id=point.id)
        return entry

    return prepare


def _check_is_point(point: object, place: int) -> None:
    if not isinstance(point, Point):
        raise TypeError(f"points[{place}] must be a whit.client.Point, got {type(point).__name__}")


def _split_words(error: ValueError, field: str) -> tuple[str, str]:
    """Field and description of what ``to_struct`` or protobuf said about a point."""
    if isinstance(error, UnicodeEncodeError):
        return field, "has a lone surrogate in id or text, so it is not Unicode text; send valid text"
    name, _, why = str(error).partition(" ")
    return name, why


def points_of(
    ids: Sequence[str],
    texts: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
    vectors: Vectors | ArrayLike | None,
) -> list[Point]:
    """The points that parallel sequences mean.

    Raises:
        TypeError: neither texts nor vectors, or a single text in place of a sequence.
        ValueError: sequences of different lengths.
    """
    if texts is None and vectors is None:
        raise TypeError("give texts (to be embedded), vectors, or both")
    columns: list[Sequence[Any]] = [list(sequence_of(ids, "ids"))]
    for name, column, missing in (("texts", texts, ""), ("metadata", metadata, {})):
        values: Sequence[Any] = [missing] * len(columns[0]) if column is None else list(sequence_of(column, name))
        columns.append(values)
        _check_length(name, len(values), len(columns[0]))
    rows: Sequence[Any] = [None] * len(columns[0]) if vectors is None else rows_of(vectors)
    _check_length("vectors", len(rows), len(columns[0]))
    return [Point(*values) for values in zip(*columns, rows, strict=True)]


def _check_length(name: str, count: int, id_count: int) -> None:
    if count != id_count:
        raise ValueError(f"{name} must be as many as ids: {id_count} ids, {count} {name}")


# ---- requests of a batch ----


def vector_batch(rows: Sequence[Row]) -> vector_pb2.VectorBatch:
    """Rows of one encoding and length as the wire has them."""
    encoding, dimension_count = rows[0][:2]
    values = np.stack([row.values for row in rows])
    scales = np.array([row.scale for row in rows], "<f4").tobytes() if encoding is Encoding.INT8 else b""
    little_endian = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return vector_pb2.VectorBatch(
        encoding=ENCODING_NUMBERS[encoding],
        count=len(rows),
        dimension_count=dimension_count,
        data=little_endian.tobytes(),
        scales=scales,
    )


def points_and_vectors(kept: Sequence[tuple[point_pb2.Point, Row | None]]) -> dict[str, Any]:
    """The fields ``points`` and ``vectors`` of a batch."""
    rows = [row for _, row in kept if row is not None]
    return {"points": [point for point, _ in kept], "vectors": vector_batch(rows) if rows else None}


def queries(kept: Sequence[str | Row]) -> dict[str, Any]:
    """The fields ``texts`` or ``vectors`` of a batch of queries, which are all of one kind."""
    if kept and isinstance(kept[0], Row):
        return {"vectors": vector_batch([row for row in kept if isinstance(row, Row)])}
    return {"texts": kept}


def stream_embed_batch(kept: Sequence[Any], *, are_token_ids: bool) -> embedding_pb2.StreamEmbedRequest:
    """A batch of a stream."""
    request = embedding_pb2.StreamEmbedRequest()
    add: Callable[..., Any] = request.batch.items.add
    if are_token_ids:
        for ids in kept:
            add(token_ids=ids)
    else:
        for text in kept:
            add(text=text)
    return request
