"""The methods of ``whit.v1`` that the clients call, with their message types, for channels of either kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from whit.v1 import collection_pb2, embedding_pb2, model_pb2, point_pb2, server_pb2

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Request, Response]):
    """One RPC. ``repeatable``: doing it twice gives the same answer, so it may be tried again after a broken connection."""

    service: str
    name: str
    request: type[Request]
    response: type[Response]
    repeatable: bool = True

    @property
    def path(self) -> str:
        """The path of the method in HTTP/2."""
        return f"/whit.v1.{self.service}/{self.name}"

    @property
    def is_stream(self) -> bool:
        """Whether both sides send a stream of messages; if not, one each."""
        return self.name.startswith("Stream")

    @property
    def serialize(self) -> Callable[[Request], bytes]:
        """Request to bytes."""
        return self.request.SerializeToString

    @property
    def parse(self) -> Callable[[bytes], Response]:
        """Bytes to response."""
        return self.response.FromString


GET_SERVER_INFO = Method(
    "ServerService", "GetServerInfo", server_pb2.GetServerInfoRequest, server_pb2.GetServerInfoResponse
)

LIST_MODELS = Method("ModelService", "ListModels", model_pb2.ListModelsRequest, model_pb2.ListModelsResponse)
GET_MODEL = Method("ModelService", "GetModel", model_pb2.GetModelRequest, model_pb2.GetModelResponse)
VERIFY_MODEL = Method("ModelService", "VerifyModel", model_pb2.VerifyModelRequest, model_pb2.VerifyModelResponse)

EMBED = Method("EmbeddingService", "Embed", embedding_pb2.EmbedRequest, embedding_pb2.EmbedResponse)
STREAM_EMBED = Method(
    "EmbeddingService", "StreamEmbed", embedding_pb2.StreamEmbedRequest, embedding_pb2.StreamEmbedResponse
)

CREATE_COLLECTION = Method(
    "CollectionService",
    "CreateCollection",
    collection_pb2.CreateCollectionRequest,
    collection_pb2.CreateCollectionResponse,
    repeatable=False,
)
LIST_COLLECTIONS = Method(
    "CollectionService",
    "ListCollections",
    collection_pb2.ListCollectionsRequest,
    collection_pb2.ListCollectionsResponse,
)
GET_COLLECTION = Method(
    "CollectionService", "GetCollection", collection_pb2.GetCollectionRequest, collection_pb2.GetCollectionResponse
)
DELETE_COLLECTION = Method(
    "CollectionService",
    "DeleteCollection",
    collection_pb2.DeleteCollectionRequest,
    collection_pb2.DeleteCollectionResponse,
    repeatable=False,
)

UPSERT = Method("PointService", "Upsert", point_pb2.UpsertRequest, point_pb2.UpsertResponse)
STREAM_UPSERT = Method("PointService", "StreamUpsert", point_pb2.StreamUpsertRequest, point_pb2.StreamUpsertResponse)
GET = Method("PointService", "Get", point_pb2.GetRequest, point_pb2.GetResponse)
DELETE = Method("PointService", "Delete", point_pb2.DeleteRequest, point_pb2.DeleteResponse, repeatable=False)
COUNT = Method("PointService", "Count", point_pb2.CountRequest, point_pb2.CountResponse)
SEARCH = Method("PointService", "Search", point_pb2.SearchRequest, point_pb2.SearchResponse)
STREAM_SEARCH = Method("PointService", "StreamSearch", point_pb2.StreamSearchRequest, point_pb2.StreamSearchResponse)
