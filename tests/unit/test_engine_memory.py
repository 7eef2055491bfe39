"""The memory governor over cgroups that are files on disk: what it reads, when pressure begins and ends, what it refuses."""

import asyncio
import ctypes
import logging
import mmap
import platform
from pathlib import Path

import pytest

from whit.contract.errors import Reason
from whit.server.engine import memory as module
from whit.server.engine.memory import Memory, MemoryGovernor, Pressure, read_memory

MIB = 1 << 20
V2 = "30 23 0:26 / {point} rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "33 23 0:30 / {point} rw shared:9 - cgroup cgroup rw,memory\n"


class Cgroup:
    """A process in the cgroup /a/b of a tree on disk, on a machine with 8 GiB of which 6 are free."""

    def __init__(self, folder, line, membership):
        self.point, self.proc, self.meminfo = folder / "cgroup", folder / "proc", folder / "meminfo"
        self.proc.mkdir()
        (self.point / "a" / "b").mkdir(parents=True)
        (self.proc / "mountinfo").write_text(line.format(point=self.point))
        (self.proc / "cgroup").write_text(membership)
        self.meminfo.write_text(f"MemTotal: {8 << 20} kB\nMemFree: 1 kB\nMemAvailable: {6 << 20} kB\n")

    def write(self, **files):
        for name, text in files.items():
            (self.point / name.replace("__", "/").replace("_dot_", ".")).write_text(f"{text}\n")

    def read(self):
        return read_memory(self.proc, self.meminfo)


@pytest.fixture
def v2(tmp_path):
    return Cgroup(tmp_path, V2, "0::/a/b\n")


@pytest.fixture
def v1(tmp_path):
    return Cgroup(tmp_path, V1, "4:cpu:/elsewhere\n5:memory:/a/b\n")


def test_without_a_limit_the_machine_is_what_counts(v2):
    v2.write(a__b__memory_dot_max="max", a__b__memory_dot_high="max", a__b__memory_dot_current=5 << 30)
    assert v2.read() == Memory(8 << 30, 2 << 30)


def test_v2_counts_what_cannot_be_dropped_against_the_lower_of_max_and_high(v2):
    v2.write(a__b__memory_dot_max=512 * MIB, a__b__memory_dot_high=400 * MIB, a__b__memory_dot_current=300 * MIB)
    assert v2.read() == Memory(400 * MIB, 300 * MIB)
    v2.write(a__b__memory_dot_stat=f"anon 1\ninactive_file {120 * MIB}\nactive_file 5")
    assert v2.read() == Memory(400 * MIB, 180 * MIB)


def test_v2_a_cgroup_above_with_less_room_counts(v2):
    v2.write(a__b__memory_dot_max=512 * MIB, a__b__memory_dot_current=100 * MIB)
    v2.write(a__memory_dot_max=900 * MIB, a__memory_dot_current=850 * MIB)
    assert v2.read() == Memory(900 * MIB, 850 * MIB)


def test_v1(v1):
    v1.write(a__b__memory_dot_limit_in_bytes=300 * MIB, a__b__memory_dot_usage_in_bytes=200 * MIB)
    v1.write(a__b__memory_dot_stat=f"inactive_file 7\ntotal_inactive_file {50 * MIB}")
    v1.write(memory_dot_limit_in_bytes=9223372036854771712, memory_dot_usage_in_bytes=7 << 30)
    assert v1.read() == Memory(300 * MIB, 150 * MIB)


def test_damaged_files_are_no_limit(v2):
    v2.write(a__b__memory_dot_max="nonsense", a__b__memory_dot_current="")
    assert v2.read() == Memory(8 << 30, 2 << 30)
    v2.meminfo.write_text("MemTotal\nodd line of some length\n")
    assert v2.read() is None


def test_a_system_without_procfs_is_not_watched(tmp_path):
    assert read_memory(tmp_path / "none", tmp_path / "none") is None
    governor = MemoryGovernor(lambda: None)
    assert not governor.look()
    assert (governor.pressure, governor.memory) == (Pressure.NONE, None)


def governed(limit_mib):
    """A governor, and a list whose only entry says how many MiB are used."""
    used = [0]
    return MemoryGovernor(lambda: Memory(limit_mib * MIB, used[0] * MIB)), used


def pressures(governor, used, course):
    found = []
    for mib in course:
        used[0] = mib
        governor.look()
        found.append(governor.pressure.value)
    return found


def test_pressure_comes_in_two_steps_and_goes_only_with_room_to_spare(caplog):
    governor, used = governed(1000)  # high below 150 MiB of room, critical below 70
    with caplog.at_level(logging.INFO):
        course = [500, 849, 851, 929, 931, 915, 905, 851, 810, 800, 500]
        assert pressures(governor, used, course) == [0, 0, 1, 1, 2, 2, 1, 1, 1, 0, 0]
    shown = [record.getMessage() for record in caplog.records]
    assert [message.split(":")[0] for message in shown] == ["memory is short"] * 3 + ["there is memory again"]
    assert caplog.records[0].fields == {"used_bytes": 851 * MIB, "limit_bytes": 1000 * MIB}


def test_a_large_machine_is_not_short_of_memory_with_gigabytes_to_spare():
    governor, used = governed(1 << 20)
    assert pressures(governor, used, [(1 << 20) - 2000, (1 << 20) - 250, (1 << 20) - 100]) == [0, 1, 2]


def test_micro_batches_get_smaller_and_as_large_as_before():
    governor, used = governed(1000)
    budgets = []
    for mib in (0, 900, 990, 0):
        used[0] = mib
        governor.look()
        budgets.append(governor.budget(512))
    assert budgets == [512, 256, 64, 512]
    used[0] = 990
    governor.look()
    assert governor.budget(1) == 1


def test_refuses_what_cannot_wait_and_says_when_to_come_back():
    governor, used = governed(1000)

    async def refusal(mib):
        used[0] = mib
        governor.look()
        return await governor.refusal(wait=False)

    async def course():
        return [await refusal(mib) for mib in (100, 900, 950, 100)]

    none, high, critical, again = asyncio.run(course())
    assert none is high is again is None
    assert critical.reason is Reason.MEMORY_LOW
    assert critical.status_code.name == "RESOURCE_EXHAUSTED"
    assert critical.retry_after_s > 0
    assert "950 of at most 1000 MiB" in critical.message
    assert governor.refused_count == 1


def test_patient_work_is_held_back_until_there_is_room_and_refused_if_there_is_none(monkeypatch):
    governor, used = governed(1000)

    async def course():
        used[0] = 990
        governor.look()
        held = asyncio.create_task(governor.refusal(wait=True))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not held.done()
        used[0] = 100
        governor.look()
        assert await held is None
        used[0] = 990
        governor.look()
        monkeypatch.setattr(module, "_HOLD_S", 0.0)
        return await governor.refusal(wait=True)

    assert asyncio.run(course()).reason is Reason.MEMORY_LOW
    assert governor.refused_count == 1


def test_watches_while_its_block_runs_and_tells_of_changes_only(monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL_S", 0.0)
    course = iter([100, 100, 950, 950, 100])
    told, done = [], asyncio.Event()

    def read():
        mib = next(course, None)
        if mib is None:
            done.set()
        return Memory(1000 * MIB, (mib or 100) * MIB)

    async def watch():
        governor = MemoryGovernor(read)
        async with governor.watching(told.append):
            await done.wait()

    asyncio.run(watch())
    assert told == [Pressure.CRITICAL, Pressure.NONE]


def test_what_is_free_is_given_back_before_more_is_refused(monkeypatch):
    """A server near its limit kept what it had freed, and refused for ever."""
    monkeypatch.setattr(module, "_INTERVAL_S", 0.0)
    used, told, relieved = [950], [], asyncio.Event()

    def release():
        used[0] = 100

    def tell(pressure):
        told.append(pressure)
        if pressure is Pressure.NONE:
            relieved.set()

    async def watch():
        governor = MemoryGovernor(lambda: Memory(1000 * MIB, used[0] * MIB), release)
        async with governor.watching(tell):
            await asyncio.wait_for(relieved.wait(), 10)

    asyncio.run(watch())
    assert told == [Pressure.CRITICAL, Pressure.NONE]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to give memory back")
def test_memory_that_was_freed_goes_back_to_the_system():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    blocks = [
        libc.malloc(ctypes.c_size_t(MIB // 16)) for _ in range(64 * 16)
    ]  # each too small for a mapping of its own
    for block in blocks:
        ctypes.memset(block, 1, MIB // 16)
    for block in blocks[:-1]:  # the last one holds the heap up
        libc.free(ctypes.c_void_p(block))
    before = resident()

    module.release_free()

    assert before - resident() > 32 * MIB
    libc.free(ctypes.c_void_p(blocks[-1]))
