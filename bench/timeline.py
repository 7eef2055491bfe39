"""Where the time of a lone call goes, from thread to thread: the same call in process, over bare gRPC, and to whit.

python -m bench.timeline [PACKAGE] [--rounds 10] [--out bench/results/timeline.json]

A library that is loaded before libc (``timeline.c``) notes when caller and server send, receive, wake up, and when the kernels begin
and end to use a second core. The calls are those of ``bench.unary``: a blocking caller, one server at a time, in turns with the same
call in process, so that caches are as cold as a caller's are. Bare gRPC is a ``grpc.aio`` server that makes the call in process and
answers with its vector: less a server cannot do. Needs Linux and two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import enum
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.machine import describe
from bench.reference import reference_package
from bench.server import running
from bench.unary import TEXT, blocking, ceiling, in_process
from whit.runtime import open_package

RECORD = np.dtype([("start", "<i8"), ("end", "<i8"), ("thread", "<i4"), ("kind", "<i4"), ("result", "<i8")])


class Kind(enum.IntEnum):
    """What a record is of, as in ``timeline.c``."""

    MARK = 1
    SEND = 2
    RECEIVE = 3
    WAKE = 4
    SPREAD = 5  # another thread begins, for the model
    GATHER = 6  # and has ended


_SOURCE = Path(__file__).with_suffix(".c")
_CALLS = 60  # of each contender in a round
# What comes after what in a call, each with the part of the time before it: whose records, of which kind.
_STEPS = (
    ("caller: Python and gRPC, until the request leaves", "caller", Kind.SEND),
    ("system: to a thread of the server's", "server", Kind.RECEIVE),
    ("server: gRPC's threads, until the event loop wakes up", "loop", Kind.WAKE),
    ("server: event loop, until the model runs", "loop", Kind.SPREAD),
    ("the model", "loop", Kind.GATHER),
    ("server: event loop, until the answer leaves", "server", Kind.SEND),
    ("system: to a thread of the caller's", "caller", Kind.RECEIVE),
    ("caller: gRPC's threads, until the caller wakes up", "main", Kind.WAKE),
    ("caller: gRPC and Python, until it has the vector", "main", Kind.MARK),
)
_IN_PROCESS = (
    ("until the model runs", "main", Kind.SPREAD),
    ("the model", "main", Kind.GATHER),
    ("until it has the vector", "main", Kind.MARK),
)
# Of these the end counts: waiting is over, or the work done.
_BY_END = (Kind.WAKE, Kind.GATHER)
_BY_RESULT = (Kind.SEND, Kind.RECEIVE, Kind.WAKE)  # which may come to nothing
LOCAL, END = 100, 101  # marks; a call to a server begins with the server's number


class Timeline:
    """The records of this process, the caller's, and of a server."""

    def __init__(self, prefix: str, server: int) -> None:
        caller, others = read(prefix, os.getpid()), read(prefix, server)
        self._records = {
            "caller": caller,
            "main": caller[caller["thread"] == os.getpid()],
            "server": others,
            "loop": others[others["thread"] == server],
        }

    def parts(self, start: int, steps: Sequence[tuple[str, str, int]]) -> list[float]:
        """Microseconds of each step of the call that began at ``start`` ns.

        Raises:
            LookupError: it did not go as the steps say.
        """
        times = [start]
        for _, whose, kind in steps:
            times.append(_first(self._records[whose], kind, times[-1]))
        return [(b - a) / 1e3 for a, b in itertools.pairwise(times)]

    def starts(self, number: int) -> list[int]:
        """When this process set marks of that number."""
        marks = self._records["main"]
        return [int(time) for time in marks["start"][(marks["kind"] == Kind.MARK) & (marks["result"] == number)]]


def _first(records: NDArray[np.void], kind: int, after: int) -> int:
    """When the first of that kind came about."""
    times = records["end" if kind in _BY_END else "start"]
    fits = (records["kind"] == kind) & (times > after)
    if kind in _BY_RESULT:
        fits &= records["result"] > 0
    if not fits.any():
        raise LookupError("nothing of the kind followed")
    return int(times[fits].min())


def read(prefix: str, process: int) -> NDArray[np.void]:
    """The records of a process, RECORD [n]."""
    records = np.fromfile(f"{prefix}.{process}", RECORD)
    return records[: np.count_nonzero(records["kind"])]


def medians(timeline: Timeline, number: int, steps: Sequence[tuple[str, str, int]]) -> dict[str, float]:
    """Of each step, over the calls that begin at marks of that number; and of the whole."""
    found = []
    for start in timeline.starts(number):
        with contextlib.suppress(LookupError):
            found.append(timeline.parts(start, steps))
    if not found:
        raise SystemExit(
            "no call ran on a second core; run this on two cores or more, with a package that the kernels run"
        )
    columns = np.array(found)
    names = [name for name, _, _ in steps]
    return dict(zip(names, np.median(columns, axis=0).round(1).tolist(), strict=True)) | {
        "all": round(float(np.median(columns.sum(axis=1))), 1)
    }


@contextlib.contextmanager
def contenders(package: Path) -> Iterator[dict[str, tuple[Callable[[], object], int]]]:
    """Of each server the call, and its process."""
    name = open_package(package).manifest.name
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = {
            "bare gRPC": stack.enter_context(ceiling(package)),
            "whit": stack.enter_context(running([package], Path(folder))),
        }
        yield {
            title: (stack.enter_context(blocking(server.address, name)), server.process.pid)
            for title, server in servers.items()
        }


def measure(package: Path, rounds: int, prefix: str, mark: Callable[[int], None]) -> dict[str, dict[str, float]]:
    """Microseconds by part, of the call in process and to each server."""
    local = in_process(package)
    for _ in range(20):
        local([TEXT])
    with contenders(package) as calls:
        for _ in range(rounds):
            for number, (call, _) in enumerate(calls.values()):
                for _ in range(_CALLS):
                    for begin, work in ((LOCAL, lambda: local([TEXT])), (number, call)):
                        mark(begin)
                        work()
                        mark(END)
        timelines = {title: Timeline(prefix, process) for title, (_, process) in calls.items()}
    first = next(iter(timelines.values()))
    return {"in process": medians(first, LOCAL, _IN_PROCESS)} | {
        title: medians(timeline, number, _STEPS) for number, (title, timeline) in enumerate(timelines.items())
    }


def compile_library(folder: Path) -> Path:
    """The library that notes."""
    library = folder / "timeline.so"
    flags = ("-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
    subprocess.run((sys.executable, "-m", "ziglang", "cc", *flags, "-o", str(library), str(_SOURCE)), check=True)
    return library


def print_table(found: dict[str, dict[str, float]]) -> None:
    """A row for each part, microseconds."""
    servers = [title for title in found if title != "in process"]
    print(f"{'microseconds, medians':<58}" + "".join(f"{title:>12}" for title in servers))
    for name in [*(name for name, _, _ in _STEPS), "all"]:
        print(f"{name:<58}" + "".join(f"{found[title][name]:>12,.0f}" for title in servers))
    inside = found["in process"]
    print(f"{'in process':<58}" + "".join(f"{inside['all']:>12,.0f}" for _ in servers))
    print(
        f"{'more than in process':<58}" + "".join(f"{found[title]['all'] - inside['all']:>12,.0f}" for title in servers)
    )
    print("in process, by part: " + ", ".join(f"{name} {value:,.0f}" for name, value in inside.items()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?", help="the reference model in int8, if none is given")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    if "TIMELINE" not in os.environ:  # then this process does not note yet, and must begin again
        with tempfile.TemporaryDirectory() as folder:
            noting = {"LD_PRELOAD": str(compile_library(Path(folder))), "TIMELINE": str(Path(folder, "records"))}
            command = (sys.executable, "-m", "bench.timeline", *(sys.argv[1:] if arguments is None else arguments))
            raise SystemExit(subprocess.run(command, env=os.environ | noting, check=False).returncode)
    library = ctypes.PyDLL(os.environ["LD_PRELOAD"])
    library.timeline_mark.argtypes = (ctypes.c_int64,)
    found = measure(
        given.package or reference_package("int8"), given.rounds, os.environ["TIMELINE"], library.timeline_mark
    )
    print_table(found)
    if given.out:
        given.out.write_text(json.dumps({"machine": describe(), **found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
