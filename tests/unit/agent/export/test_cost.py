"""The cost of the agent, on files and on this process."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from chaosorca.agent.export.cost import Cost, own_cost
from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.targets.target import own_cgroup

PAGE = os.sysconf("SC_PAGESIZE")


def test_all_processes_of_the_control_group_are_counted(tmp_path: Path) -> None:
    group = tmp_path / "group"
    group.mkdir()
    (group / "cgroup.procs").write_text("7\n8\n9\n")
    (group / "cpu.stat").write_text("usage_usec 2500000\n")
    for pid, resident in ((7, 100), (8, 20)):  # 9 has ended
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "statm").write_text(f"5000 {resident} 30 1 0 40 0\n")
    assert own_cost(Cgroup({}, group), 7, tmp_path / "proc") == Cost(2.5, 120 * PAGE)


@pytest.mark.parametrize("has_group", [False, True])
def test_without_figures_of_a_control_group_the_process_is_measured(has_group: bool, tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    own = Cgroup({"pids": tmp_path}, None) if has_group else None
    before = own_cost(own, os.getpid())
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    after = own_cost(own, os.getpid())
    assert 0.04 < after.cpu_seconds - before.cpu_seconds < 1
    assert after.resident_bytes > 10e6


def test_resident_memory_is_that_of_the_status_file() -> None:
    status = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
    assert procfs.resident_bytes(Path("/proc"), os.getpid()) == pytest.approx(resident, rel=0.1)
    assert procfs.resident_bytes(Path("/proc"), 2**22 + 1) == 0


def test_a_process_without_a_control_group_has_none(tmp_path: Path) -> None:
    assert own_cgroup(tmp_path) is None
