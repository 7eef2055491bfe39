"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], limit_s: float = 30.0) -> None:
    """Returns as soon as ``condition`` is true; AssertionError if it is not within ``limit_s``."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"the condition did not come true in {limit_s} s"
        time.sleep(0.01)
