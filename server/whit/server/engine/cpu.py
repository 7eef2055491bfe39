"""How many cores this process may use: its affinity mask and its cgroup's CPU quota, whichever is less."""

from __future__ import annotations

import os
from pathlib import Path

from whit.server.engine import cgroup


def usable_core_count(proc: Path = Path("/proc/self")) -> int:
    """Whole cores that this process may keep busy, at least 1.

    A quota of 2.5 cores counts as 2: a third worker would only be throttled half of the time. ``proc`` is the process's
    directory in procfs; without one (not Linux) only the affinity or the number of cores counts.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(proc)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def cpu_quota(proc: Path) -> float | None:
    """The smallest CPU quota, in cores, of the process's cgroup and those above it; None if there is no limit."""
    quotas: list[float] = []
    for directory in cgroup.directories(proc, "cpu"):
        quota = _read_v2(directory.path) if directory.version == 2 else _read_v1(directory.path)
        if quota is not None:
            quotas.append(quota)
    return min(quotas, default=None)


def _read_v2(directory: Path) -> float | None:
    try:
        quota, period = (directory / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _read_v1(directory: Path) -> float | None:
    try:
        quota = int((directory / "cpu.cfs_quota_us").read_text())
        period = int((directory / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
