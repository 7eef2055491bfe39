"""What the pure generators of ``_plans`` and ``_streams`` ask a client to do.

A plan yields steps and is sent their outcome; a ``WhitError`` is thrown into it. All decisions are in the plans, all
input and output in ``_sync`` and ``_async``, so the two clients cannot differ in what they decide.
"""

from __future__ import annotations

import enum
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from whit.client._methods import Method

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Invoke:
    """Call a unary method and send back its response.

    ``timeout_s`` is what is left of ``limit_s``, the time that the user gave for the whole call; None: no limit.
    """

    method: Method[Any, Any]
    request: Message
    timeout_s: float | None
    limit_s: float | None


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait; nothing is sent back."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Open:
    """Begin a call of a streaming method, in place of the one before, if any."""

    method: Method[Any, Any]


@dataclass(frozen=True, slots=True)
class Send:
    """Put a message on the stream; returns at once, the transport takes it when it can."""

    message: Message


@dataclass(frozen=True, slots=True)
class Receive:
    """Send back the next message of the stream, or END if the server ended it; None: wait for ever."""

    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand a result to the user, and come back when the user wants the next."""

    result: Any


class Signal(enum.Enum):
    """Steps without arguments, and the end of a sequence."""

    PULL = "the next item of the user's iterable, or END"
    READY = "whether a message has come that Receive would return at once"
    HALF_CLOSE = "no more messages will be sent"
    END = "nothing more comes"


PULL: Final = Signal.PULL
READY: Final = Signal.READY
HALF_CLOSE: Final = Signal.HALF_CLOSE
END: Final = Signal.END

Plan = Generator[Invoke | Sleep, Any, T]
"""A unary call, with its batches and retries; returns its result."""

StreamStep = Invoke | Sleep | Open | Send | Receive | Emit | Signal
StreamPlan = Generator[StreamStep, Any, None]
"""A stream from its first item to its last result."""
