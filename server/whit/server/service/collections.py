"""CollectionService: makes, lists and removes collections; and which model a collection belongs to."""

from __future__ import annotations

from whit.contract.errors import Problem, Reason
from whit.contract.names import collection_name, model_name, parse_collection_name, parse_model_name
from whit.contract.vectors import Encoding
from whit.contract.wire import ENCODING_NUMBERS
from whit.server.engine import Engine, LoadedModel
from whit.server.errors import ServiceError
from whit.server.index import STORAGES, CollectionHandle, CollectionInfo
from whit.server.service import checks
from whit.server.service.backend import Backend
from whit.server.service.convert import encoding_of
from whit.server.service.rpc import Call
from whit.v1 import collection_pb2


class CollectionService:
    """The collections of the data directory."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def create_collection(
        self, request: collection_pb2.CreateCollectionRequest, _: Call
    ) -> collection_pb2.CreateCollectionResponse:
        """Makes an empty collection, bound to the fingerprint of a loaded model."""
        given, violations = request.collection, checks.Violations()
        collection_id = violations.read("collection.name", lambda: parse_collection_name(given.name), "")
        model_id = violations.read("collection.model", lambda: parse_model_name(given.model), "")
        storage = violations.read("collection.storage", lambda: encoding_of(given.storage, STORAGES), Encoding.FLOAT32)
        if given.dimension_count < 0:
            violations.add("collection.dimension_count", f"must be at least 0; got {given.dimension_count}")
        violations.check()
        model = self._backend.engine.model(model_id)
        full = model.manifest.dimension_count
        if given.dimension_count > full:
            description = (
                f"must be 1 to {full}, the dimensions of model {model.id!r}, or 0 for all; got {given.dimension_count}"
            )
            violations.add("collection.dimension_count", description)
            violations.check()
        storage_threads = self._backend.storage
        info = await storage_threads.write(
            collection_id,
            storage_threads.store.create,
            collection_id,
            model_id=model.id,
            fingerprint=model.fingerprint,
            dimension_count=given.dimension_count or full,
            storage=storage,
        )
        return collection_pb2.CreateCollectionResponse(collection=describe(info))

    async def list_collections(
        self, request: collection_pb2.ListCollectionsRequest, _: Call
    ) -> collection_pb2.ListCollectionsResponse:
        """The collections, by name."""
        storage = self._backend.storage
        ids = await storage.read(storage.store.ids)
        page, token = checks.page(ids, str, request.page_size, request.page_token)
        infos = await storage.list(page)
        return collection_pb2.ListCollectionsResponse(
            collections=[describe(info) for info in infos], next_page_token=token
        )

    async def get_collection(
        self, request: collection_pb2.GetCollectionRequest, _: Call
    ) -> collection_pb2.GetCollectionResponse:
        """One collection."""
        collection_id = checks.collection_id(request.name, "name")
        _handle, info = await self._backend.storage.open(collection_id)
        return collection_pb2.GetCollectionResponse(collection=describe(info))

    async def delete_collection(
        self, request: collection_pb2.DeleteCollectionRequest, _: Call
    ) -> collection_pb2.DeleteCollectionResponse:
        """Removes a collection and all its points."""
        collection_id = checks.collection_id(request.name, "name")
        storage = self._backend.storage
        count = await storage.write(collection_id, storage.store.delete, collection_id)
        return collection_pb2.DeleteCollectionResponse(deleted_point_count=count)


async def open_collection(backend: Backend, name: str, field: str) -> tuple[CollectionHandle, CollectionInfo]:
    """The handle and description of ``collections/{collection}``.

    Raises:
        ServiceError: INVALID_REQUEST (with ``field`` as the path), COLLECTION_NOT_FOUND, STORAGE_FAILED.
    """
    return await backend.storage.open(checks.collection_id(name, field))


def model_of(info: CollectionInfo, engine: Engine) -> LoadedModel:
    """The loaded model that a collection is bound to, under whatever name it is served now.

    Raises:
        ServiceError: FINGERPRINT_MISMATCH, no loaded package has the collection's fingerprint.
    """
    for model in engine.models.values():
        if model.fingerprint == info.fingerprint:
            return model
    loaded = ", ".join(f"{model.id} ({model.fingerprint[:19]}…)" for model in engine.models.values())
    raise ServiceError(
        Problem(
            Reason.FINGERPRINT_MISMATCH,
            f"collection {info.id!r} was made with model {info.model_id!r} of fingerprint {info.fingerprint[:19]}…, and this "
            f"server has loaded {loaded}; serve the package it was made with, or index into a new collection",
            metadata={"collection": info.id, "model": info.model_id, "model_fingerprint": info.fingerprint},
        )
    )


def describe(info: CollectionInfo) -> collection_pb2.Collection:
    """A collection as it travels."""
    described = collection_pb2.Collection(
        name=collection_name(info.id),
        model=model_name(info.model_id),
        model_fingerprint=info.fingerprint,
        dimension_count=info.dimension_count,
        storage=ENCODING_NUMBERS[info.storage],
        point_count=info.point_count,
    )
    described.create_time.FromDatetime(info.create_time)
    return described
