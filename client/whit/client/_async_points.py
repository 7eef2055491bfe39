# ruff: noqa: ASYNC109 - a timeout here also is the deadline that the server gets
"""What the asyncio client does with collections: making them, writing points, searching. A part of ``AsyncClient``.

``_sync_points`` mirrors this module word for word; a test compares signatures and documentation.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from whit.client import _plans as plans
from whit.client import _streams as streams
from whit.client._async_transport import AsyncTransport
from whit.client._calls import Session
from whit.client._requests import many_queries, sequence_of
from whit.client._types import (
    DEFAULT,
    Collection,
    DeleteResult,
    Hit,
    Point,
    SearchResult,
    Timeout,
    UpsertResult,
    Vectors,
)


class AsyncPoints:
    """The methods of ``AsyncClient`` that a collection is needed for."""

    _session: Session
    _transport: AsyncTransport

    # ---- collections ----

    async def create_collection(
        self,
        name: str,
        *,
        model: str,
        storage: str = "float32",
        dimension_count: int | None = None,
        exist_ok: bool = False,
        timeout: Timeout = DEFAULT,
    ) -> Collection:
        """Makes an empty collection, bound for life to the package of ``model``.

        Args:
            name: 1 to 64 of a-z, 0-9, ``-`` and ``_``; starts with a letter or digit.
            model: name of the model that embeds its texts and queries.
            storage: how vectors are stored: ``"float32"``, ``"float16"``, ``"int8"``, ``"4bit"``, ``"3bit"`` or ``"2bit"``.
            dimension_count: values kept of each vector, renormalised. None: all.
            exist_ok: if there is one already of this package, storage and dimension count, return it.
            timeout: seconds for the whole call.

        Raises:
            AlreadyExists: there is one of that name, with ``exist_ok`` one that differs.
            NotFound: no such model.
        """
        return await self._transport.run(
            plans.create_collection(
                self._session,
                name,
                model=model,
                storage=storage,
                dimension_count=dimension_count,
                exist_ok=exist_ok,
                timeout=timeout,
            )
        )

    async def collections(self, *, timeout: Timeout = DEFAULT) -> list[Collection]:
        """The collections on the server, by name."""
        return await self._transport.run(plans.collections(self._session, timeout))

    async def collection(self, name: str, *, timeout: Timeout = DEFAULT) -> Collection:
        """One collection.

        Raises:
            NotFound: there is none of that name.
        """
        return await self._transport.run(plans.collection(self._session, name, timeout))

    async def delete_collection(self, name: str, *, timeout: Timeout = DEFAULT) -> int:
        """Removes a collection with all its points and returns how many there were. This cannot be undone.

        Raises:
            NotFound: there is none of that name.
        """
        return await self._transport.run(plans.delete_collection(self._session, name, timeout))

    # ---- points ----

    async def upsert(
        self,
        collection: str,
        *,
        ids: Sequence[str],
        texts: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        vectors: Vectors | ArrayLike | None = None,
        role: str | None = None,
        on_overflow: str = "error",
        on_error: str = "raise",
        timeout: Timeout = DEFAULT,
    ) -> UpsertResult:
        """Writes points, new or over old ones with the same id. When it returns, what did not fail is on disk.

        One message is one transaction. More than the server takes in one is sent in several, one after the other; if a
        later one fails, the earlier ones stay written, and the same call can be made again.

        Args:
            collection: name of the collection.
            ids: 1 to 256 bytes of UTF-8 each, each once: points with the same id all fail.
            texts: embedded with the collection's model, unless ``vectors`` are given, and stored whole.
            metadata: a JSON object for each point. Numbers travel as 64-bit floats; whole ones come back as int.
            vectors: float [n, d], or ``Vectors``, to store in place of embedding the texts.
            role: name of the prompt put before each text. None: ``"document"`` where the model has it.
            on_overflow: for a text of more tokens than the model reads: ``"error"`` or ``"truncate"`` (what is read).
            on_error: if points fail, ``"raise"`` ItemErrors or ``"return"`` them with ``items[i].error`` set.
            timeout: seconds for the whole call.

        Raises:
            ItemErrors: points failed and were not written; the others were, and are in its ``result``.
            InvalidRequest: vectors have another length than the collection's, there are no points.
            NotFound: no such collection.
            FailedPrecondition: another package filled the collection.
            ResourceExhausted: the disk is full, or the server stayed too busy.
        """
        return await self._transport.run(
            plans.upsert(
                self._session,
                collection,
                ids,
                texts,
                metadata,
                vectors,
                role=role,
                on_overflow=on_overflow,
                on_error=on_error,
                timeout=timeout,
            )
        )

    def upsert_stream(
        self,
        collection: str,
        points: Iterable[Point] | AsyncIterable[Point],
        *,
        batch_size: int = 64,
        role: str | None = None,
        on_overflow: str = "error",
        on_error: str = "raise",
        timeout: Timeout = DEFAULT,
    ) -> AsyncGenerator[UpsertResult, None]:
        """Writes any number of points, in order and in bounded memory; yields a result for each batch once it is on disk.

        Points are taken only as answers come: at most one batch more than the server's ``stream_window_count`` is on its
        way. An exception of ``points`` ends the stream and comes out as it is; so does closing the generator, early too.
        Batches that were sent and not yet yielded may then be written or not; writing them again is harmless.

        Args:
            collection: name of the collection.
            points: with ``vector`` or without; a batch has only one kind, so mixing them makes batches small.
            batch_size: points in a batch, which is one transaction; fewer where the server's limits ask for it.
            role: name of the prompt put before each text. None: ``"document"`` where the model has it.
            on_overflow: for a text of more tokens than the model reads: ``"error"`` or ``"truncate"`` (what is read).
            on_error: if points fail, ``"raise"`` ItemErrors, which ends the stream, or ``"return"`` them with
                ``items[i].error`` set and go on.
            timeout: seconds to wait for the answer to a batch; the stream as a whole may last.

        Raises:
            ItemErrors: points of a batch failed and were not written; its ``result`` has the others.
            NotFound: no such collection.
            FailedPrecondition: another package filled the collection.
            Unavailable: the server went away; the message says how much was answered.
        """
        plan = streams.upsert(
            self._session,
            collection,
            batch_size=batch_size,
            role=role,
            on_overflow=on_overflow,
            on_error=on_error,
            timeout=timeout,
        )
        return self._transport.stream(plan, sequence_of(points, "points", awaited=True, ordered=False))

    async def get(
        self, collection: str, ids: Sequence[str], *, with_vectors: bool = False, timeout: Timeout = DEFAULT
    ) -> list[Point]:
        """Reads points by id, in the order of ``ids``; ids that are not there are left out.

        ``with_vectors`` reads the stored vectors too, as float32 [d].

        Raises:
            NotFound: no such collection.
            InvalidRequest: there are no ids.
        """
        return await self._transport.run(plans.get(self._session, collection, ids, with_vectors, timeout))

    async def delete(self, collection: str, ids: Sequence[str], *, timeout: Timeout = DEFAULT) -> DeleteResult:
        """Deletes points by id; when it returns they are gone from disk. Ids that are not there are counted, not refused.

        Raises:
            NotFound: no such collection.
            InvalidRequest: there are no ids.
        """
        return await self._transport.run(plans.delete(self._session, collection, ids, timeout))

    async def count(self, collection: str, *, timeout: Timeout = DEFAULT) -> int:
        """How many points the collection has.

        Raises:
            NotFound: no such collection.
        """
        return await self._transport.run(plans.count(self._session, collection, timeout))

    # ---- search ----

    async def search(
        self,
        collection: str,
        query: str | ArrayLike,
        *,
        limit: int = 10,
        score_threshold: float | None = None,
        exact: bool = False,
        with_payload: bool = True,
        role: str | None = None,
        on_overflow: str = "error",
        timeout: Timeout = DEFAULT,
    ) -> Sequence[Hit]:
        """The points nearest to a query, best first. For many queries: ``search_batch`` or ``search_stream``.

        Args:
            collection: name of the collection.
            query: a text, or a vector, float [d].
            limit: hits at most.
            score_threshold: leave out hits with a lower cosine, -1 to 1.
            exact: compare with every vector instead of searching the graph: slower.
            with_payload: whether hits have ``text`` and ``metadata``.
            role: name of the prompt put before a query text. None: ``"query"`` where the model has it.
            on_overflow: for a text of more tokens than the model reads: ``"error"`` or ``"truncate"`` (what is read).
            timeout: seconds for the whole call.

        Raises:
            InvalidRequest: the query is empty or too long, the vector has the wrong length, the limit is too high.
            NotFound: no such collection.
            FailedPrecondition: another package filled the collection.
        """
        plan = plans.search_one(
            self._session,
            query,
            collection=collection,
            limit=limit,
            score_threshold=score_threshold,
            exact=exact,
            with_payload=with_payload,
            role=role,
            on_overflow=on_overflow,
            timeout=timeout,
        )
        return (await self._transport.run(plan)).hits

    async def search_batch(
        self,
        collection: str,
        queries: Iterable[str] | Vectors | ArrayLike,
        *,
        limit: int = 10,
        score_threshold: float | None = None,
        exact: bool = False,
        with_payload: bool = True,
        role: str | None = None,
        on_overflow: str = "error",
        on_error: str = "raise",
        timeout: Timeout = DEFAULT,
    ) -> list[SearchResult]:
        """The points nearest to each of many queries; result i belongs to query i.

        ``queries`` are texts, or vectors as float [n, d] or ``Vectors``. If some fail, ``on_error="raise"`` raises
        ItemErrors and ``"return"`` sets their ``error``. The other arguments are those of ``search``, for each query.

        Raises:
            ItemErrors: queries failed; its ``result`` has the others.
            InvalidRequest: an option is refused; there are no queries.
            NotFound: no such collection.
            FailedPrecondition: another package filled the collection.
        """
        plan = plans.search_batch(
            self._session,
            queries,
            collection=collection,
            limit=limit,
            score_threshold=score_threshold,
            exact=exact,
            with_payload=with_payload,
            role=role,
            on_overflow=on_overflow,
            on_error=on_error,
            timeout=timeout,
        )
        return await self._transport.run(plan)

    def search_stream(
        self,
        collection: str,
        queries: Iterable[str | ArrayLike] | AsyncIterable[str | ArrayLike] | Vectors,
        *,
        batch_size: int = 64,
        limit: int = 10,
        score_threshold: float | None = None,
        exact: bool = False,
        with_payload: bool = True,
        role: str | None = None,
        on_overflow: str = "error",
        on_error: str = "raise",
        timeout: Timeout = DEFAULT,
    ) -> AsyncGenerator[SearchResult, None]:
        """Answers any number of queries, in order and in bounded memory; yields a result for each query.

        Queries are taken only as answers come: at most one batch more than the server's ``stream_window_count`` is on its
        way. An exception of ``queries`` ends the stream and comes out as it is; so does closing the generator, early too.

        ``batch_size`` is the number of queries in a batch; there are fewer where the server's limits ask for it. If a query
        fails, ``on_error="raise"`` raises its error, which ends the stream; ``"return"`` sets its ``error`` and goes on.
        ``timeout`` is the seconds to wait for the answer to a batch. The other arguments are those of ``search``.

        Raises:
            InvalidRequest: a query is empty or too long, a vector has the wrong length, an option is refused.
            NotFound: no such collection.
            FailedPrecondition: another package filled the collection.
            Unavailable: the server went away; the message says how much was answered.
        """
        plan = streams.search(
            self._session,
            collection=collection,
            batch_size=batch_size,
            limit=limit,
            score_threshold=score_threshold,
            exact=exact,
            with_payload=with_payload,
            role=role,
            on_overflow=on_overflow,
            on_error=on_error,
            timeout=timeout,
        )
        return self._transport.stream(plan, many_queries(queries, awaited=True))
