"""From the options of a method to those of a protobuf request. Pure.

What no server could take is a ``ValueError`` at once; what depends on the server (a role, a dimension count) is for it to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from whit.client._convert import ENCODING_TO_WIRE
from whit.contract.names import collection_name, model_name
from whit.contract.vectors import Encoding
from whit.v1 import embedding_pb2, point_pb2, vector_pb2

_OVERFLOW = {
    "error": embedding_pb2.OVERFLOW_POLICY_ERROR,
    "truncate": embedding_pb2.OVERFLOW_POLICY_TRUNCATE,
}


def encodings(encoding: str | Sequence[str]) -> tuple[Encoding, ...]:
    """The encodings that a name or a sequence of names means.

    Raises:
        ValueError: an unknown name, a name twice, or none.
    """
    names = (encoding,) if isinstance(encoding, str) else tuple(encoding)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"encoding must be one or more different names, got {encoding!r}; choose {_choices(Encoding)}")
    return tuple(_encoding(name, "encoding") for name in names)


def _encoding(name: str, argument: str) -> Encoding:
    try:
        return Encoding(name)
    except ValueError:
        raise ValueError(f"{argument} must be {_choices(Encoding)}; got {name!r}") from None


def _choices(names: Iterable[str]) -> str:
    *most, last = (repr(str(name)) for name in names)
    return f"{', '.join(most)} or {last}"


def overflow(policy: str) -> embedding_pb2.OverflowPolicy.ValueType:
    """The policy of that name.

    Raises:
        ValueError: there is none.
    """
    found = _OVERFLOW.get(policy)
    if found is None:
        raise ValueError(f"on_overflow must be {_choices(_OVERFLOW)}; got {policy!r}")
    return found


def raises(on_error: str) -> bool:
    """Whether failed items are to be raised.

    Raises:
        ValueError: ``on_error`` is neither ``"raise"`` nor ``"return"``.
    """
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error must be 'raise' or 'return'; got {on_error!r}")
    return on_error == "raise"


def positive(value: int | None, argument: str) -> int:
    """``value``, or 0 (the wire's "not given") for None.

    Raises:
        ValueError: it is less than 1, which the wire could not tell from "not given", or more than the wire can carry.
    """
    if value is not None and not 1 <= value < 2**31:
        raise ValueError(f"{argument} must be 1 or more and below 2**31, or left out; got {value}")
    return value or 0


def embed_options(
    *,
    model: str,
    role: str | None,
    instruction: str | None,
    dimension_count: int | None,
    encoding: str | Sequence[str],
    on_overflow: str,
    normalize: bool,
    layer_count: int | None,
) -> embedding_pb2.EmbedOptions:
    """The options of an embedding call.

    Raises:
        ValueError: both role and instruction, or a value that means nothing.
    """
    if role is not None and instruction is not None:
        raise ValueError("give role or instruction, not both: each is what is put before the text")
    # An empty one is sent too, for the server to judge; an unset one is not.
    prompt = {name: text for name, text in (("role", role), ("instruction", instruction)) if text is not None}
    return embedding_pb2.EmbedOptions(
        model=model_name(model),
        **prompt,
        dimension_count=positive(dimension_count, "dimension_count"),
        encodings=[ENCODING_TO_WIRE[name] for name in encodings(encoding)],
        on_overflow=overflow(on_overflow),
        normalize=normalize,
        layer_count=positive(layer_count, "layer_count"),
    )


def storage(name: str) -> vector_pb2.VectorEncoding.ValueType:
    """The encoding in which a collection stores vectors.

    Raises:
        ValueError: unknown name. Those that the server cannot store are for it to refuse.
    """
    return ENCODING_TO_WIRE[_encoding(name, "storage")]


def search_options(
    collection: str,
    *,
    limit: int,
    score_threshold: float | None,
    exact: bool,
    with_payload: bool,
    role: str | None,
    on_overflow: str,
) -> point_pb2.SearchOptions:
    """The options of a search.

    Raises:
        ValueError: a value that means nothing.
    """
    return point_pb2.SearchOptions(
        collection=collection_name(collection),
        limit=positive(limit, "limit"),
        score_threshold=score_threshold,
        without_payload=not with_payload,
        role=role or "",
        on_overflow=overflow(on_overflow),
        exact=exact,
    )
