"""What this CPU can do, as far as int8 numbers depend on it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

# The name that manifests use -> flags in /proc/cpuinfo.
_FLAGS = {
    "avx2": {"avx2", "fma"},
    "avx512": {"avx512bw"},
    "avx512-vnni": {"avx512_vnni"},
    "avx-vnni": {"avx_vnni"},
    "arm-dotprod": {"asimddp"},
}


@cache
def instruction_sets() -> frozenset[str]:
    """Names of the instruction sets of this CPU that matter here. Empty where /proc/cpuinfo cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    words = {word for line in text.splitlines() if line.startswith(("flags", "Features")) for word in line.split()}
    return frozenset(name for name, flags in _FLAGS.items() if flags <= words)


def cpu_name() -> str:
    """The model name, or the architecture where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
