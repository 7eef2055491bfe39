"""Signals as a user's terminal has them, or as ``nohup`` and shells that run something in the background do."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def handled(number: signal.Signals, handler: Callable[..., object] | signal.Handlers) -> Iterator[None]:
    """What comes of a signal while the block runs, here and, if it is ignored, in processes that are started meanwhile."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
