"""PointService: writes, reads and finds the points of a collection."""

from __future__ import annotations

from collections.abc import Sequence

from whit.contract.errors import Problem, to_status
from whit.server.errors import ServiceError, response_too_large
from whit.server.index import CollectionHandle
from whit.server.service import checks
from whit.server.service.backend import Backend
from whit.server.service.collections import open_collection
from whit.server.service.convert import fill_batch, fill_struct
from whit.server.service.rpc import Call, Stream
from whit.server.service.search import MEMORY_FACTOR, Search, read_search, search
from whit.server.service.streams import Turn, answer_stream
from whit.server.service.upsert import Target, read_target, upsert
from whit.v1 import point_pb2


class PointService:
    """The points of the collections."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def upsert(self, request: point_pb2.UpsertRequest, call: Call) -> point_pb2.UpsertResponse:
        """Writes one batch."""
        target = await read_target(self._backend, request.collection, request.role, request.on_overflow, "")
        vectors = request.vectors if request.HasField("vectors") else None
        return await upsert(self._backend, target, request.points, vectors, call, wait=False, at="")

    async def stream_upsert(self, stream: Stream) -> None:
        """Writes batch after batch; embeds several at a time, but writes them in order."""

        async def configure(config: point_pb2.StreamUpsertConfig) -> Target:
            return await read_target(self._backend, config.collection, config.role, config.on_overflow, "config.")

        async def answer(
            target: Target, batch: point_pb2.StreamUpsertBatch, turn: Turn
        ) -> point_pb2.StreamUpsertResponse:
            vectors = batch.vectors if batch.HasField("vectors") else None
            done = await upsert(
                self._backend, target, batch.points, vectors, stream.call, wait=True, at="batch.", turn=turn
            )
            return point_pb2.StreamUpsertResponse(results=done.results, sequence=done.sequence)

        def refuse(problem: Problem) -> point_pb2.StreamUpsertResponse:
            return point_pb2.StreamUpsertResponse(status=to_status(problem))

        window = self._backend.config.stream_window_count
        await answer_stream(stream, window=window, configure=configure, answer=answer, refuse=refuse)

    async def get(self, request: point_pb2.GetRequest, _: Call) -> point_pb2.GetResponse:
        """Reads points by id."""
        ids = checks.ids(request.ids, self._backend.config.batch_item_count)
        handle, _info = await open_collection(self._backend, request.collection, "collection")
        limit = self._backend.config.message_byte_count
        return await self._backend.storage.read(_get, handle, ids, request.with_vectors, limit)

    async def delete(self, request: point_pb2.DeleteRequest, _: Call) -> point_pb2.DeleteResponse:
        """Deletes points by id."""
        ids = checks.ids(request.ids, self._backend.config.batch_item_count)
        handle, info = await open_collection(self._backend, request.collection, "collection")
        deleted, missing, sequence = await self._backend.storage.write(info.id, handle.delete, ids)
        return point_pb2.DeleteResponse(deleted_count=deleted, missing_ids=missing, sequence=sequence)

    async def count(self, request: point_pb2.CountRequest, _: Call) -> point_pb2.CountResponse:
        """Counts the points."""
        _handle, info = await open_collection(self._backend, request.collection, "collection")
        return point_pb2.CountResponse(count=info.point_count)

    async def search(self, request: point_pb2.SearchRequest, call: Call) -> point_pb2.SearchResponse:
        """Answers one batch of queries."""
        plan = await read_search(self._backend, request.options, "options")
        vectors = request.vectors if request.HasField("vectors") else None
        return await search(self._backend, plan, request.texts, vectors, call, wait=False, at="")

    async def stream_search(self, stream: Stream) -> None:
        """Answers batch after batch of queries."""

        async def configure(config: point_pb2.SearchOptions) -> Search:
            return await read_search(self._backend, config, "config")

        async def answer(plan: Search, batch: point_pb2.StreamSearchBatch, _: Turn) -> point_pb2.StreamSearchResponse:
            vectors = batch.vectors if batch.HasField("vectors") else None
            found = await search(self._backend, plan, batch.texts, vectors, stream.call, wait=True, at="batch.")
            return point_pb2.StreamSearchResponse(results=found.results, timing=found.timing)

        def refuse(problem: Problem) -> point_pb2.StreamSearchResponse:
            return point_pb2.StreamSearchResponse(status=to_status(problem))

        window = self._backend.config.stream_window_count
        await answer_stream(stream, window=window, configure=configure, answer=answer, refuse=refuse)


def _get(handle: CollectionHandle, ids: Sequence[str], with_vectors: bool, limit_bytes: int) -> point_pb2.GetResponse:
    points, missing, vectors = handle.get(ids, with_vectors=with_vectors, byte_limit=MEMORY_FACTOR * limit_bytes)
    response = point_pb2.GetResponse(missing_ids=missing)
    size = 0
    if vectors is not None:
        size = len(vectors.data)
        fill_batch(response.vectors, vectors)
    for point in points:
        found = response.points.add(id=point.id, text=point.text)
        fill_struct(found.metadata, point.metadata)
        size += found.ByteSize()
        if size > limit_bytes:
            raise ServiceError(response_too_large(size, limit_bytes))
    return response
