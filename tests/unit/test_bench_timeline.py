"""The timeline of a lone call: what the library notes, and how the steps of a call are found in it."""

import os
import subprocess
import sys

import numpy as np
import pytest

from bench import timeline
from bench.timeline import Kind, Timeline, medians

SERVER = 7
STEPS = (
    ("until the request leaves", "caller", Kind.SEND),
    ("until the event loop wakes up", "loop", Kind.WAKE),
    ("the model", "loop", Kind.GATHER),
    ("until the answer is here", "main", Kind.MARK),
)


@pytest.fixture
def recorded(tmp_path):
    """A function that makes a timeline of records (process, thread, kind, start and end in microseconds, result)."""

    def make(*records):
        for process in (os.getpid(), SERVER):
            rows = [
                (start * 1000, end * 1000, thread, kind, result)
                for of, thread, kind, start, end, result in records
                if of == process
            ]
            np.array([*rows, (0,) * 5], timeline.RECORD).tofile(tmp_path / f"records.{process}")
        return Timeline(str(tmp_path / "records"), SERVER)

    return make


def call(start, *, wakes_up=True):
    """Records of one call: a look at the events that finds none and a thread of the server's that is not the loop count for nothing."""
    caller, poller = os.getpid(), 99
    return [
        (caller, caller, Kind.MARK, start, start, 3),
        (caller, 12, Kind.SEND, start + 10, start + 12, 100),
        (SERVER, SERVER, Kind.WAKE, start + 11, start + 13, 0),
        (SERVER, poller, Kind.WAKE, start - 50, start + 15, 1),
        (SERVER, SERVER, Kind.WAKE, start - 40, start + 30, int(wakes_up)),
        (SERVER, SERVER, Kind.GATHER, start + 60, start + 90, 0),
        (caller, caller, Kind.MARK, start + 100, start + 100, timeline.END),
    ]


def test_each_step_begins_where_the_one_before_ended(recorded):
    found = recorded(*call(1000))
    assert found.starts(3) == [1_000_000]
    assert found.parts(1_000_000, STEPS) == [10, 20, 60, 10]


def test_a_call_that_went_another_way_counts_for_nothing(recorded):
    found = recorded(*call(1000), *call(2000, wakes_up=False))
    with pytest.raises(LookupError):
        found.parts(2_000_000, STEPS)
    assert medians(found, 3, STEPS) == dict(zip([name for name, _, _ in STEPS], [10, 20, 60, 10], strict=True)) | {
        "all": 100
    }


@pytest.mark.skipif(sys.platform != "linux", reason="loads a library before libc")
def test_the_library_notes_what_a_process_does(tmp_path):
    pytest.importorskip("ziglang")
    program = (
        "import socket, threading\n"
        "a, b = socket.socketpair()\n"
        "a.sendmsg([b'four'])\n"
        "b.recvmsg(9)\n"
        "thread = threading.Thread(target=int)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    noting = {"LD_PRELOAD": str(timeline.compile_library(tmp_path)), "TIMELINE": str(tmp_path / "records")}
    with subprocess.Popen((sys.executable, "-c", program), env=os.environ | noting) as process:
        assert process.wait(30) == 0
    records = timeline.read(noting["TIMELINE"], process.pid)
    kinds = [kind for kind in records["kind"] if kind in (Kind.SEND, Kind.RECEIVE, Kind.SPREAD)]
    assert kinds == [Kind.SEND, Kind.RECEIVE, Kind.SPREAD]
    assert records["result"][:2].tolist() == [4, 4]
    assert (records["end"] >= records["start"]).all()
