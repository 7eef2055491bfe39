"""What the services work with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from whit.server.config import Config
from whit.server.engine import Engine
from whit.server.service.storage import Storage

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backend:
    """Everything that a service needs, made once at start.

    Attributes:
        threads: for conversions too long for the event loop.
        start_time: ``time.monotonic()`` when the server began to serve.
    """

    config: Config
    engine: Engine
    storage: Storage
    worker_count: int
    threads: ThreadPoolExecutor
    start_time: float = field(default_factory=time.monotonic)

    async def run(self, is_long: bool, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs ``work`` in a thread if it is long; a short one takes less time than the trip there and back."""
        if not is_long:
            return work(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self.threads, lambda: work(*args, **kwargs))
