"""Checks that several services share. Each adds what is wrong to a list, so that a caller learns of it all at once."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from whit.contract.errors import FieldViolation, Reason
from whit.contract.names import parse_collection_name, parse_model_name
from whit.server.errors import refusal

T = TypeVar("T")

ID_BYTE_COUNT = 256
_PAGE_SIZE = 100
_MAX_PAGE_SIZE = 1000


class Violations(list[FieldViolation]):
    """The bad fields of one request."""

    def add(self, field: str, description: str) -> None:
        """Notes a bad field."""
        self.append(FieldViolation(field, description))

    def read(self, field: str, parse: Callable[[], T], default: T) -> T:
        """What ``parse`` returns; if it raises ``ValueError``, its message is noted and the default returned."""
        try:
            return parse()
        except ValueError as error:
            self.add(field, str(error))
            return default

    def check(self, reason: Reason = Reason.INVALID_REQUEST) -> None:
        """Does nothing if no field is bad.

        Raises:
            ServiceError: INVALID_REQUEST with every violation.
        """
        if self:
            raise refusal(self, reason)


def model_id(name: str, field: str) -> str:
    """The id in ``models/{model}``.

    Raises:
        ServiceError: INVALID_REQUEST.
    """
    violations = Violations()
    found = violations.read(field, lambda: parse_model_name(name), "")
    violations.check()
    return found


def collection_id(name: str, field: str) -> str:
    """The id in ``collections/{collection}``.

    Raises:
        ServiceError: INVALID_REQUEST.
    """
    violations = Violations()
    found = violations.read(field, lambda: parse_collection_name(name), "")
    violations.check()
    return found


def batch_size(count: int, limit: int, field: str, what: str) -> None:
    """A batch must have 1 to ``limit`` items.

    Raises:
        ServiceError: INVALID_REQUEST.
    """
    if count == 0:
        raise refusal([FieldViolation(field, f"is empty; give 1 to {limit} {what}")])
    if count > limit:
        description = f"has {count} {what}, a request may have {limit} (batch_item_count); send several requests"
        raise refusal([FieldViolation(field, description)])


def id_problem(id_: str) -> str | None:
    """What is wrong with a point's id, or None."""
    if not id_:
        return f"is empty; give 1 to {ID_BYTE_COUNT} bytes of UTF-8"
    if len(id_) > ID_BYTE_COUNT or len(id_.encode()) > ID_BYTE_COUNT:
        return f"has {len(id_.encode())} bytes of UTF-8, it may have {ID_BYTE_COUNT}; use a shorter id, such as a hash"
    return None


def ids(given: Sequence[str], limit: int) -> list[str]:
    """The ids of a request that names points.

    Raises:
        ServiceError: INVALID_REQUEST.
    """
    batch_size(len(given), limit, "ids", "ids")
    violations = Violations()
    for row, id_ in enumerate(given):
        description = id_problem(id_)
        if description:
            violations.add(f"ids[{row}]", description)
    violations.check()
    return list(given)


def page(names: Sequence[T], key: Callable[[T], str], page_size: int, page_token: str) -> tuple[Sequence[T], str]:
    """One page of what is sorted by ``key``, and the token of the next (empty on the last).

    A token says after which key to go on, so entries that come or go in between shift no page.

    Raises:
        ServiceError: INVALID_REQUEST.
    """
    violations = Violations()
    if not 0 <= page_size <= _MAX_PAGE_SIZE:
        violations.add("page_size", f"must be 1 to {_MAX_PAGE_SIZE}, or 0 for {_PAGE_SIZE}; got {page_size}")
    after = violations.read("page_token", lambda: _read_token(page_token), "")
    violations.check()
    rest = [entry for entry in names if key(entry) > after]
    size = page_size or _PAGE_SIZE
    token = _write_token(key(rest[size - 1])) if len(rest) > size else ""
    return rest[:size], token


def _write_token(key: str) -> str:
    return base64.urlsafe_b64encode(b"after:" + key.encode()).decode()


def _read_token(token: str) -> str:
    if not token:
        return ""
    try:
        content = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        content = ""
    if not content.startswith("after:"):
        raise ValueError("must be a next_page_token of this server, or empty for the first page")
    return content.removeprefix("after:")
