"""The memory that a process may still take is the least that any limit leaves."""

import resource
import subprocess
import sys

import pytest
from recede.datasets.memory import free_memory

GB = 2**30


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


MACHINE = {"proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemAvailable: {30 * 2**20} kB\n"}
UNLIMITED = "Max data size             unlimited            unlimited            bytes     \n"
SECOND = {
    "proc/self/cgroup": "0::/jobs/mine\n",
    "sys/fs/cgroup/jobs/mine/memory.max": "max\n",
    "sys/fs/cgroup/jobs/mine/memory.current": "5\n",
    "sys/fs/cgroup/jobs/memory.max": f"{8 * GB}\n",
    "sys/fs/cgroup/jobs/memory.current": f"{6 * GB}\n",
    "sys/fs/cgroup/jobs/memory.stat": f"anon {GB}\nactive_file {GB}\ninactive_file {3 * GB}\n",
}
FIRST = {
    "proc/self/cgroup": "5:cpu:/job\n4:cpuset,memory:/of/the/host\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{2 * GB}\n",
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {GB}\ntotal_active_file 0\n",
}
LIMITED = {
    "proc/self/status": f"Name:\tpython\nVmSize:\t{9 * 2**20} kB\nVmData:\t{2**20} kB\n",
    "proc/self/limits": f"Limit   Soft Limit\nMax data size   {3 * GB}   unlimited   bytes\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MACHINE, 30 * GB),
        (MACHINE | {"proc/self/limits": UNLIMITED, "proc/self/status": LIMITED["proc/self/status"]}, 30 * GB),
        (MACHINE | SECOND, 6 * GB),
        (MACHINE | FIRST, 3 * GB),
        (MACHINE | LIMITED, 2 * GB),
        (MACHINE | LIMITED | {"proc/self/limits": f"Max address space   {GB}   unlimited\n"}, 0),
        (MACHINE | FIRST | LIMITED, 2 * GB),
    ],
)
def test_the_least_limit_counts(tmp_path, files, expected):
    write(tmp_path, files)
    assert free_memory(tmp_path) == expected


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA"), reason="this system cannot limit the memory of a process")
def test_a_limit_of_this_process_counts():
    program = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**30, -1))\n"
    program += "from recede.datasets.memory import free_memory; print(free_memory())"
    printed = subprocess.run([sys.executable, "-P", "-c", program], check=True, capture_output=True, text=True).stdout
    assert 2**29 < int(printed) < 2**30
