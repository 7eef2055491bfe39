"""Splits what the user gives into batches that the server accepts, item by item, without holding more than one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Generic, NamedTuple, TypeVar

from whit.client._errors import WhitError, from_problem
from whit.contract.errors import FieldViolation, Problem, Reason

Item = TypeVar("Item")


class Entry(NamedTuple):
    """One item in the form it is sent in: ``byte_count`` bounds what it takes in a message; a batch has one ``kind``."""

    value: Any
    byte_count: int
    kind: object = None


@dataclass(slots=True)
class Batch:
    """Consecutive items of the user's.

    Attributes:
        field: what the user calls the items.
        start: place of the first one in what the user gave.
        kept: what is sent.
        refused: row in this batch -> why that item cannot be sent.
    """

    field: str
    start: int
    kept: list[Any] = dataclass_field(default_factory=list)
    refused: dict[int, WhitError] = dataclass_field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.kept) + len(self.refused)

    @property
    def rows(self) -> list[int]:
        """Row in this batch of each item that is sent."""
        return [row for row in range(len(self)) if row not in self.refused]

    def halves(self) -> tuple[Batch, Batch]:
        """The two halves of what is sent (two items or more), each with the refused items beside it."""
        middle = self.rows[len(self.kept) // 2]
        before = {row: error for row, error in self.refused.items() if row < middle}
        after = {row - middle: error for row, error in self.refused.items() if row > middle}
        kept = middle - len(before)
        return (
            Batch(self.field, self.start, self.kept[:kept], before),
            Batch(self.field, self.start + middle, self.kept[kept:], after),
        )

    def place(self, index: int) -> int:
        """Place, in what the user gave, of the item that is sent as number ``index``."""
        return self.start + (self.rows[index] if self.refused and index < len(self.kept) else index)


class Batcher(Generic[Item]):
    """Takes items one at a time and gives batches of at most ``item_count`` items and ``byte_count`` bytes.

    Args:
        prepare: makes an item, given with its place, ready to send. A ``WhitError`` that it raises is the item's own error.
        field: name of the items in error messages, such as ``texts``.
    """

    def __init__(
        self, prepare: Callable[[Item, int], Entry], *, item_count: int, byte_count: int, field: str = "texts"
    ) -> None:
        self._prepare, self._field = prepare, field
        self._item_count, self._byte_count = max(1, item_count), byte_count
        self._batch, self._bytes = Batch(field, 0), 0
        self._kind: object = None

    def add(self, item: Item) -> Batch | None:
        """Takes an item; returns a batch if one is complete, with this item or before it."""
        place = self._batch.start + len(self._batch)
        done = None
        try:
            entry = self._prepare(item, place)
            if entry.byte_count > self._byte_count:
                raise too_large(f"{self._field}[{place}]", entry.byte_count, self._byte_count)
        except WhitError as error:
            self._batch.refused[len(self._batch)] = error
        else:
            if self._batch.kept and (self._bytes + entry.byte_count > self._byte_count or entry.kind != self._kind):
                done = self.flush()
            self._batch.kept.append(entry.value)
            self._bytes += entry.byte_count
            self._kind = entry.kind
        return self.flush() if len(self._batch) >= self._item_count else done

    def flush(self) -> Batch | None:
        """The items taken since the last batch, if there are any."""
        done = self._batch
        if not len(done):
            return None
        self._batch, self._bytes = Batch(done.field, done.start + len(done)), 0
        return done

    def split(self, items: Iterable[Item]) -> Iterator[Batch]:
        """All batches of ``items``; one empty batch if there are none, for the server to refuse."""
        empty = True
        for item in items:
            empty = False
            if (batch := self.add(item)) is not None:
                yield batch
        last = Batch(self._field, 0) if empty else self.flush()
        if last is not None:
            yield last


def refused(reason: Reason, field: str, description: str, **metadata: str) -> WhitError:
    """The error of an item that is not sent, in the form and words of the server's."""
    return from_problem(Problem(reason, f"{field}: {description}", (FieldViolation(field, description),), metadata))


def too_large(field: str, byte_count: int, limit: int) -> WhitError:
    """The error of an item that no message could hold."""
    return refused(
        Reason.TEXT_TOO_LONG,
        field,
        f"has {byte_count} bytes, a message of this server holds {limit} (message_byte_count); send it in shorter pieces",
    )
