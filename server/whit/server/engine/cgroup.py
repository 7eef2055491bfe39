"""Where the limits of this process's cgroup are written, in either version and in containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Directory(NamedTuple):
    """A directory with the files of a controller: ``version`` 1 or 2 says which files."""

    version: int
    path: Path


def directories(proc: Path, controller: str) -> Iterator[Directory]:
    """The directories of the process's cgroup and of those above it, from the inside out.

    Args:
        proc: the process's directory in procfs; where there is none (not Linux), nothing comes out.
        controller: as cgroup v1 calls it, such as ``cpu``; v2 has all controllers in one tree.
    """
    try:
        mounts = list(_mounts((proc / "mountinfo").read_text(), controller))
        memberships = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return
    for mount in mounts:
        for path in _upwards(mount, memberships, controller):
            yield Directory(mount.version, path)


class _Mount(NamedTuple):
    version: int
    root: str  # the cgroup that is mounted, "/" unless the process is in a container
    point: Path


def _mounts(mountinfo: str, controller: str) -> Iterator[_Mount]:
    # A line: "36 35 98:0 ROOT POINT OPTIONS... - TYPE SOURCE SUPER_OPTIONS" (proc_pid_mountinfo(5)).
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        _, _, _, root, point, *_ = left.split()
        kind, *_, options = right.split()
        if kind == "cgroup2":
            yield _Mount(2, root, Path(point))
        elif kind == "cgroup" and controller in options.split(","):
            yield _Mount(1, root, Path(point))


def _upwards(mount: _Mount, memberships: list[str], controller: str) -> Iterator[Path]:
    """The process's cgroup directory below a mount, then its parents up to the mount itself."""
    for line in memberships:
        hierarchy, controllers, path = line.split(":", 2)
        if (hierarchy == "0") if mount.version == 2 else (controller in controllers.split(",")):
            # In a container the path may be the host's; then what is mounted is the process's own cgroup.
            inner = path.removeprefix(mount.root.rstrip("/")) if path.startswith(mount.root) else "/"
            directory = mount.point / inner.lstrip("/")
            while directory != mount.point:
                yield directory
                directory = directory.parent
            yield mount.point
