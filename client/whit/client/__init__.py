"""The SDK: ``Client`` and ``AsyncClient`` talk to a whit server; numpy arrays and dataclasses in and out.

    from whit.client import Client

    with Client("127.0.0.1:7600") as whit:
        found = whit.embed(["a text", "another"], model="all-MiniLM-L6-v2")
        found.vectors  # numpy float32 [2, 384]

Errors are a tree below ``WhitError``; ``help(whit.client.WhitError)`` and ``whit.contract.errors.Reason`` list them.
"""

from whit.client._async import AsyncClient
from whit.client._errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    ItemErrors,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    WhitError,
)
from whit.client._retry import RetryPolicy
from whit.client._sync import Client
from whit.client._types import (
    Collection,
    DeleteResult,
    EmbedItem,
    EmbedResult,
    Hit,
    Limits,
    Memory,
    Model,
    ModelCosts,
    Point,
    SearchResult,
    ServerInfo,
    Timing,
    UpsertItem,
    UpsertResult,
    Vectors,
    Verification,
)
from whit.contract.errors import FieldViolation, Reason
from whit.contract.vectors import Encoding

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "Cancelled",
    "Client",
    "Collection",
    "DeadlineExceeded",
    "DeleteResult",
    "EmbedItem",
    "EmbedResult",
    "Encoding",
    "FailedPrecondition",
    "FieldViolation",
    "Hit",
    "InternalError",
    "InvalidRequest",
    "ItemErrors",
    "Limits",
    "Memory",
    "Model",
    "ModelCosts",
    "NotFound",
    "Point",
    "Reason",
    "ResourceExhausted",
    "RetryPolicy",
    "SearchResult",
    "ServerInfo",
    "Timing",
    "Unavailable",
    "Unimplemented",
    "UpsertItem",
    "UpsertResult",
    "Vectors",
    "Verification",
    "WhitError",
]
