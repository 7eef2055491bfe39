import os

import pytest

from whit.server.engine import cpu

V2 = "30 23 0:26 {root} {point} rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "33 23 0:30 {root} {point} rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
OTHERS = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 23 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


@pytest.fixture
def proc(tmp_path):
    directory = tmp_path / "proc"
    directory.mkdir()
    return directory


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def mount(proc, line, point, *, root="/", membership):
    write(proc / "mountinfo", OTHERS + line.format(root=root, point=point))
    write(proc / "cgroup", membership)
    point.mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ({"cpu.max": "100000 100000", "a/b/cpu.max": "400000 100000"}, 1.0),
        ({"a/b/cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_quota_v2_is_the_smallest_up_the_tree(proc, tmp_path, files, expected):
    point = tmp_path / "cgroup"
    mount(proc, V2, point, membership="0::/a/b\n")
    for name, text in files.items():
        write(point / name, text)
    assert cpu.cpu_quota(proc) == expected


def test_quota_v1(proc, tmp_path):
    point = tmp_path / "cpu"
    mount(proc, V1, point, membership="5:memory:/elsewhere\n4:cpu,cpuacct:/a\n")
    write(point / "a" / "cpu.cfs_quota_us", "250000\n")
    write(point / "a" / "cpu.cfs_period_us", "100000\n")
    assert cpu.cpu_quota(proc) == 2.5
    write(point / "a" / "cpu.cfs_quota_us", "-1\n")
    assert cpu.cpu_quota(proc) is None


def test_quota_in_a_container_where_its_own_cgroup_is_the_mount(proc, tmp_path):
    point = tmp_path / "cpu"
    mount(proc, V1, point, root="/docker/abc", membership="4:cpu,cpuacct:/docker/abc\n")
    write(point / "cpu.cfs_quota_us", "300000")
    write(point / "cpu.cfs_period_us", "100000")
    assert cpu.cpu_quota(proc) == 3.0


def test_usable_cores_are_bounded_by_affinity_and_quota(proc, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5}, raising=False)
    assert cpu.usable_core_count(proc) == 4  # no procfs there
    point = tmp_path / "cgroup"
    mount(proc, V2, point, membership="0::/\n")
    for quota, cores in (("50000", 1), ("250000", 2), ("900000", 4)):
        write(point / "cpu.max", f"{quota} 100000")
        assert cpu.usable_core_count(proc) == cores
