"""From the options of a method to those of a protobuf request. Pure.

What no server could take is a ``ValueError`` at once; what depends on the server (a role, a dimension count) is for it to judge.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from whit.client._metadata import utf8
from whit.contract import names
from whit.contract.vectors import Encoding
from whit.contract.wire import ENCODING_NUMBERS
from whit.v1 import embedding_pb2, point_pb2, vector_pb2

_KEPT_COUNT = 64
_OVERFLOW = {
    "error": embedding_pb2.OVERFLOW_POLICY_ERROR,
    "truncate": embedding_pb2.OVERFLOW_POLICY_TRUNCATE,
}


def model_name(name: str) -> str:
    """The resource name of a model.

    Raises:
        TypeError: no str. An f-string would make a name of anything.
        ValueError: no Unicode text.
    """
    return names.model_name(text(name, "the name of a model"))


def collection_name(name: str) -> str:
    """The resource name of a collection; raises as ``model_name`` does."""
    return names.collection_name(text(name, "the name of a collection"))


def text(value: str, argument: str) -> str:
    """``value``, unless it cannot be sent as text.

    Raises:
        TypeError: no str.
        ValueError: half a surrogate pair in it.
    """
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be str, got {type(value).__name__}")
    return utf8(value, argument)


def role_name(name: str | None) -> str:
    """The role, or "" (the wire's "not given") for None; raises as ``text`` does."""
    return "" if name is None else text(name, "role")


def switch(value: bool, argument: str) -> bool:
    """``value``, unless it only has a truth value: ``"no"`` would be True.

    Raises:
        TypeError: neither True nor False.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{argument} must be True or False, got {value!r}")
    return bool(value)


def encodings(encoding: str | Sequence[str]) -> tuple[Encoding, ...]:
    """The encodings that a name or a sequence of names means.

    Raises:
        TypeError: neither.
        ValueError: an unknown name, a name twice, or none.
    """
    if not isinstance(encoding, Iterable):
        raise TypeError(f"encoding must be a name or several, got {encoding!r}; choose {_choices(Encoding)}")
    found = [_encoding(name, "encoding") for name in ([encoding] if isinstance(encoding, str) else encoding)]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"encoding must be one or more different names, got {encoding!r}; choose {_choices(Encoding)}")
    return tuple(found)


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
    if not isinstance(policy, str) or policy not in _OVERFLOW:
        raise ValueError(f"on_overflow must be {_choices(_OVERFLOW)}; got {policy!r}")
    return _OVERFLOW[policy]


def raises(on_error: str) -> bool:
    """Whether failed items are to be raised.

    Raises:
        ValueError: ``on_error`` is neither ``"raise"`` nor ``"return"``.
    """
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error must be 'raise' or 'return'; got {on_error!r}")
    return on_error == "raise"


def whole(value: int, argument: str) -> int:
    """``value`` as an int.

    Raises:
        TypeError: no whole number, such as 2.0, "2" or True.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{argument} must be a whole number (int), got {value!r}")
    return operator.index(value)


def positive(value: int | None, argument: str) -> int:
    """``value``, or 0 (the wire's "not given") for None.

    Raises:
        TypeError: no whole number.
        ValueError: it is less than 1, which the wire could not tell from "not given", or more than the wire can carry.
    """
    number = 0 if value is None else whole(value, argument)
    if value is not None and not 1 <= number < 2**31:
        raise ValueError(f"{argument} must be 1 or more and below 2**31, or left out; got {value}")
    return number


def embed_options(**options: Any) -> embedding_pb2.EmbedOptions:
    """The options of an embedding call, as a message that is not to be changed: equal ones are made once.

    Raises:
        TypeError: a value of another type.
        ValueError: both role and instruction, or a value that means nothing.
    """
    try:
        return _kept_options(**options)
    except TypeError:  # a list of encodings cannot be looked up
        return _embed_options(**options)


def _embed_options(
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
    if role is not None and instruction is not None:
        raise ValueError("give role or instruction, not both: each is what is put before the text")
    # An empty one is sent too, for the server to judge; an unset one is not.
    prompt = {
        name: text(value, name) for name, value in (("role", role), ("instruction", instruction)) if value is not None
    }
    return embedding_pb2.EmbedOptions(
        model=model_name(model),
        **prompt,
        dimension_count=positive(dimension_count, "dimension_count"),
        encodings=[ENCODING_NUMBERS[name] for name in encodings(encoding)],
        on_overflow=overflow(on_overflow),
        normalize=switch(normalize, "normalize"),
        layer_count=positive(layer_count, "layer_count"),
    )


_kept_options = lru_cache(_KEPT_COUNT, typed=True)(_embed_options)


def storage(name: str) -> vector_pb2.VectorEncoding.ValueType:
    """The encoding in which a collection stores vectors.

    Raises:
        ValueError: unknown name. Those that the server cannot store are for it to refuse.
    """
    return ENCODING_NUMBERS[_encoding(name, "storage")]


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
        TypeError: a value of another type.
        ValueError: a value that means nothing.
    """
    if not isinstance(score_threshold, int | float | np.integer | np.floating | None):
        raise TypeError(f"score_threshold must be a number from -1 to 1, or None; got {score_threshold!r}")
    return point_pb2.SearchOptions(
        collection=collection_name(collection),
        limit=positive(limit, "limit"),
        score_threshold=score_threshold,
        without_payload=not switch(with_payload, "with_payload"),
        role=role_name(role),
        on_overflow=overflow(on_overflow),
        exact=switch(exact, "exact"),
    )
