"""Resource names, ``models/{model}`` and ``collections/{collection}`` (AIP-122)."""

from __future__ import annotations

import re

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_COLLECTION_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

COLLECTION_ID_RULE = "1 to 64 of a-z, 0-9, '-' and '_', and starts with a letter or digit"
MODEL_ID_RULE = "1 to 128 of letters, digits, '.', '-' and '_', and starts with a letter or digit"


def model_name(model_id: str) -> str:
    """The resource name of a model id: ``models/{model_id}``."""
    return f"models/{model_id}"


def collection_name(collection_id: str) -> str:
    """The resource name of a collection id: ``collections/{collection_id}``."""
    return f"collections/{collection_id}"


def is_model_id(model_id: str) -> bool:
    """Whether a model may have this id; ``MODEL_ID_RULE`` says it in words."""
    return _ID.fullmatch(model_id) is not None


def parse_model_name(name: str) -> str:
    """The model id in ``models/{model}``.

    Raises:
        ValueError: the name has another form; the message says which form it must have.
    """
    return _parse(name, "models", _ID, MODEL_ID_RULE)


def parse_collection_name(name: str) -> str:
    """The collection id in ``collections/{collection}``.

    Raises:
        ValueError: the name has another form; the message says which form it must have.
    """
    return _parse(name, "collections", _COLLECTION_ID, COLLECTION_ID_RULE)


def _parse(name: str, kind: str, pattern: re.Pattern[str], rule: str) -> str:
    prefix, _, resource_id = name.partition("/")
    if prefix != kind or not pattern.fullmatch(resource_id):
        raise ValueError(f"must be '{kind}/NAME' where NAME is {rule}; got {name[:80]!r}")
    return resource_id
