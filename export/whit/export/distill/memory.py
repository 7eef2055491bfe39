"""Memory that training has freed, back to the system."""

from __future__ import annotations

import ctypes
import sys


def release_freed_memory() -> None:
    """Gives the free parts of the heap back to the system, where the C library is glibc; elsewhere does nothing.

    Hardly two batches have the same shape, and glibc keeps what lies free between what is in use: after 450 steps a student
    of 4.3 million parameters held 3.6 GB, of which it used 0.6; with this, every ten steps, it never held more than 1.6.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
