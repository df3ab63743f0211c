"""Memory and cores as machines and containers of several kinds lay them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from octavo.engine.limits import cores, memory_limit, resident_bytes

GIB = 2**30


class Machine:
    """A /proc and a /sys in a folder. 16 GiB, 12 of them available."""

    def __init__(self, root: Path, cgroup: str, mounts: list[tuple[str, str, str, str]]) -> None:
        self.root, self.proc = root, root / "proc"
        self.write("proc/meminfo", "MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 12582912 kB\n")
        self.write("proc/self/cgroup", cgroup)
        lines = [
            f"30 20 0:{number} {top} {root / point} rw,nosuid shared:5 - {kind} none rw,{options}"
            for number, (kind, top, point, options) in enumerate(mounts)
        ]
        self.write("proc/self/mountinfo", "\n".join(["22 1 8:1 / / rw - ext4 /dev/sda rw", *lines]))

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


V2 = [("cgroup2", "/", "sys/fs/cgroup", "nsdelegate")]
V1 = [("cgroup", "/", "sys/fs/cgroup/memory", "memory"), ("cgroup", "/", "sys/fs/cgroup/cpu", "cpu,cpuacct")]


def test_a_machine_without_groups(tmp_path):
    limit = memory_limit(Machine(tmp_path, "", []).proc)
    assert (limit.total_bytes, limit.available_bytes, limit.source) == (16 * GIB, 12 * GIB, "the machine")


def test_the_tightest_of_nested_groups_binds(tmp_path):
    machine = Machine(tmp_path, "0::/slice/pod/box\n", V2)
    top = "sys/fs/cgroup/slice"
    machine.write(f"{top}/memory.max", f"{8 * GIB}\n")
    machine.write(f"{top}/memory.current", f"{7 * GIB}\n")
    machine.write(f"{top}/memory.stat", f"anon 5\ninactive_file {GIB}\n")
    machine.write(f"{top}/pod/memory.max", f"{4 * GIB}\n")
    machine.write(f"{top}/pod/memory.current", f"{GIB}\n")
    machine.write(f"{top}/pod/box/memory.max", "max\n")
    machine.write(f"{top}/pod/box/memory.current", f"{GIB}\n")
    limit = memory_limit(machine.proc)
    assert (limit.total_bytes, limit.available_bytes) == (8 * GIB, 2 * GIB)  # the slice: 8 less 7, and a cache of 1
    assert limit.source.endswith("/slice")


def test_version_1(tmp_path):
    machine = Machine(tmp_path, "5:cpu,cpuacct:/box\n4:memory:/box\n", V1)
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    machine.write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", f"{3 * GIB}\n")
    machine.write("sys/fs/cgroup/memory/box/memory.usage_in_bytes", f"{2 * GIB}\n")
    machine.write("sys/fs/cgroup/memory/box/memory.stat", f"total_inactive_file {GIB // 2}\n")
    limit = memory_limit(machine.proc)
    assert (limit.total_bytes, limit.available_bytes) == (3 * GIB, 3 * GIB // 2)


def test_a_container_whose_mount_shows_its_own_group_only(tmp_path):
    machine = Machine(tmp_path, "4:memory:/docker/abc\n", [("cgroup", "/docker/abc", "sys/fs/cgroup/memory", "memory")])
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{GIB}\n")
    machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n")
    assert memory_limit(machine.proc).available_bytes == GIB


def test_a_path_that_the_mount_does_not_show_falls_back_to_its_root(tmp_path):
    machine = Machine(tmp_path, "0::/not/here\n", V2)
    machine.write("sys/fs/cgroup/memory.max", f"{GIB}\n")
    machine.write("sys/fs/cgroup/memory.current", f"{2 * GIB}\n")
    assert memory_limit(machine.proc).available_bytes == 0


@pytest.mark.parametrize(("quota", "wanted"), [("max 100000", None), ("50000 100000", 1), ("100000 100000", 1)])
def test_cores_under_a_quota(tmp_path, quota, wanted):
    machine = Machine(tmp_path, "0::/box\n", V2)
    machine.write("sys/fs/cgroup/box/cpu.max", quota + "\n")
    assert cores(machine.proc) == (wanted or len(os.sched_getaffinity(0)))


def test_cores_under_a_version_1_quota(tmp_path):
    machine = Machine(tmp_path, "5:cpu,cpuacct:/box\n", V1)
    machine.write("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000")
    machine.write("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "-1")
    assert cores(machine.proc) == len(os.sched_getaffinity(0))
    machine.write("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "100000")
    assert cores(machine.proc) == 1


def test_this_machine():
    limit = memory_limit()
    assert 0 < limit.available_bytes <= limit.total_bytes
    assert 1 <= cores() <= os.cpu_count()
    assert 2**20 < resident_bytes() < limit.total_bytes
