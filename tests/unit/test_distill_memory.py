"""What training has freed goes back to the system."""

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

from whit.export.distill.memory import release_freed_memory

MEGABYTE = 1 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_what_lies_free_between_what_is_in_use_is_given_back() -> None:
    pieces = [np.ones(64 * 1024, np.uint8) for _ in range(100 * MEGABYTE // (64 * 1024))]
    kept = pieces[::8]
    del pieces
    before = resident()

    release_freed_memory()

    assert before - resident() > 50 * MEGABYTE
    assert all(piece.all() for piece in kept)
