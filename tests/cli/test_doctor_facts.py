"""What doctor reads from a machine laid out in a folder, and what it advises."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from octavo.cli import doctor
from octavo.engine import machine
from octavo.engine.machine import Cache

SOUND = {
    "versions": {"octavo": "0.1.0", "compiler": None},
    "processor": "A Processor",
    "kernels": {"isa": "avx512", "features": ["avx512_vnni"], "error": None},
    "cores": {"physical": 4, "affinity": [0, 1, 2, 3], "usable": 4, "numa_nodes": 1},
    "caches": [{"level": 3, "kind": "unified", "bytes": 2**25, "shared_by": 4}],
    "memory": {"limit_bytes": 2**33, "available_bytes": 2**32, "limited_by": "the machine", "huge_pages": "madvise"},
    "measured": {"read_gb_s": 20.0},
    "advice": [],
}


def write(root: Path, files: dict[str, str]) -> Path:
    """Lay out files by path."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_machine_facts_come_from_proc_and_sys(tmp_path):
    cpu = "sys/devices/system/cpu"
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Made Up 9000\nflags\t: avx2\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        f"{cpu}/cpu0/cache/index0/level": "1\n",
        f"{cpu}/cpu0/cache/index0/type": "Data\n",
        f"{cpu}/cpu0/cache/index0/size": "48K\n",
        f"{cpu}/cpu0/cache/index0/shared_cpu_list": "0,2\n",
        f"{cpu}/cpu0/cache/index1/level": "3\n",
        f"{cpu}/cpu0/cache/index1/type": "Unified\n",
        f"{cpu}/cpu0/cache/index1/size": "32M\n",
        f"{cpu}/cpu0/cache/index1/shared_cpu_list": "0-3,8-11\n",
        "sys/devices/system/node/node0/cpulist": "0-1",
        "sys/devices/system/node/node1/cpulist": "2-3",
    }
    files |= {f"{cpu}/cpu{i}/topology/thread_siblings_list": f"{i % 2},{i % 2 + 2}\n" for i in range(4)}
    root = write(tmp_path, files)
    assert machine.cpu_name(root) == "Made Up 9000"
    assert machine.cores(root) == 2
    assert machine.numa_nodes(root) == 2
    assert machine.caches(root) == [Cache(1, "data", 48 * 1024, 2), Cache(3, "unified", 2**25, 8)]
    assert machine.huge_pages(root) == "madvise"


def test_a_silent_system_gives_unknowns(tmp_path):
    assert machine.cpu_name(tmp_path) is None
    assert machine.cores(tmp_path) is None
    assert machine.numa_nodes(tmp_path) == 1
    assert machine.caches(tmp_path) == []
    assert machine.huge_pages(tmp_path) is None


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        ("kernels", {"isa": None, "error": "no such file"}, "do not load: no such file"),
        ("kernels", {"isa": "portable"}, "portable kernels are slow"),
        ("kernels", {"isa": "avx2"}, "AVX2 kernels are used"),
        ("cores", {"usable": 2}, "--threads 2"),
        ("cores", {"physical": 2}, "--threads 2"),
        ("cores", {"numa_nodes": 2}, "numactl"),
        ("memory", {"huge_pages": "never"}, "transparent_hugepage"),
        ("memory", {"available_bytes": 2**29}, "512 MiB"),
    ],
)
def test_each_trouble_has_one_piece_of_advice(section, change, said):
    assert doctor.advise(SOUND) == []
    found = copy.deepcopy(SOUND)
    found[section].update(change)
    advice = doctor.advise(found)
    assert len(advice) == 1 and said in advice[0]


def test_show_is_one_row_for_each_fact():
    rows = doctor.show(SOUND).splitlines()
    assert [row.split()[0] for row in rows] == [
        *("versions", "processor", "cores", "caches", "features", "kernels", "memory", "memory", "advice")
    ]
    assert "L3 32 MiB shared by 4" in rows[3] and "20.0 GB/s" in rows[7] and "nothing to change" in rows[8]


def test_doctor_runs_on_this_machine():
    done = subprocess.run(
        [sys.executable, "-m", "octavo", "doctor", "--json"], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout)
    assert set(found) == set(SOUND)
    assert found["cores"]["usable"] >= 1
    assert 0 < found["memory"]["available_bytes"] <= found["memory"]["limit_bytes"]
