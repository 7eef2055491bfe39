"""How many cores this process may use: its affinity mask and its cgroup's CPU quota, whichever is less."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


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
    try:
        mounts = list(_cpu_mounts((proc / "mountinfo").read_text()))
        memberships = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return None
    for mount in mounts:
        for directory in _directories(mount, memberships):
            quota = _read_v2(directory) if mount.version == 2 else _read_v1(directory)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


class _Mount(NamedTuple):
    version: int
    root: str  # the cgroup that is mounted, "/" unless the process is in a container
    point: Path


def _cpu_mounts(mountinfo: str) -> Iterator[_Mount]:
    # A line: "36 35 98:0 ROOT POINT OPTIONS... - TYPE SOURCE SUPER_OPTIONS" (proc_pid_mountinfo(5)).
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        _, _, _, root, point, *_ = left.split()
        kind, *_, options = right.split()
        if kind == "cgroup2":
            yield _Mount(2, root, Path(point))
        elif kind == "cgroup" and "cpu" in options.split(","):
            yield _Mount(1, root, Path(point))


def _directories(mount: _Mount, memberships: list[str]) -> Iterator[Path]:
    """The process's cgroup directory below a mount, then its parents up to the mount itself."""
    for line in memberships:
        hierarchy, controllers, path = line.split(":", 2)
        if (hierarchy == "0") if mount.version == 2 else ("cpu" in controllers.split(",")):
            # In a container the path may be the host's; then what is mounted is the process's own cgroup.
            inner = path.removeprefix(mount.root.rstrip("/")) if path.startswith(mount.root) else "/"
            directory = mount.point / inner.lstrip("/")
            while directory != mount.point:
                yield directory
                directory = directory.parent
            yield mount.point


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
