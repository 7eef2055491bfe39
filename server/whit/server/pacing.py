"""An event loop that takes what happens in groups while calls are refused in crowds.

Under overload the machine has no time to spare, and a call that is refused costs more in waking up than in work: it comes,
is read and is answered in steps, and for each of them the event loop takes a core from the kernels and finds its caches full
of their data. Some milliseconds of patience let the steps of several calls be taken at once.
"""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable

# So many refusals in so long are a crowd. It takes that long to be believed that it is over.
_CROWD_COUNT = 8
_CROWD_S = 0.5

# From one look at what has happened to the next. Short beside what calls wait in a queue that is full.
_PAUSE_S = 0.005


class PacedSelector(selectors.DefaultSelector):
    """Waits a little between two looks at what has happened, for as long as ``refused`` is called often."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__()
        self._clock, self._sleep = clock, sleep
        self._refusal_times: deque[float] = deque(maxlen=_CROWD_COUNT)
        self._looked_at = clock()

    def refused(self) -> None:
        """Notes that a call was refused since there is too much to do. From the loop's thread."""
        self._refusal_times.append(self._clock())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What has happened, as every selector's; within ``timeout`` seconds, None for no limit."""
        if timeout is None or timeout > 0:
            pause_s = self._pause_s()
            if timeout is not None:
                pause_s = min(pause_s, timeout)
                timeout -= pause_s
            if pause_s > 0:
                self._sleep(pause_s)
        found = super().select(timeout)
        self._looked_at = self._clock()
        return found

    def _pause_s(self) -> float:
        now = self._clock()
        is_crowd = len(self._refusal_times) == _CROWD_COUNT and now - self._refusal_times[0] < _CROWD_S
        return max(0.0, self._looked_at + _PAUSE_S - now) if is_crowd else 0.0
