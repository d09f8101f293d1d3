"""Figures from the files of whole hosts: version 1 as recorded on a real host, version 2 as in the kernel's documents.

The recorded container had written 4 MiB past the cache, and read them back in blocks of 256 KiB. The device had a throttling rule,
without which blkio would have counted nothing. Version 2 has two disks, and a device (253:0) on top of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chaosorca.agent.linux import cgroups
from chaosorca.agent.linux.cgroups import Cgroup, cgroup_of
from chaosorca.agent.linux.proc import Io
from chaosorca.agent.monitors.io_source import IoSource
from chaosorca.agent.monitors.resources import ResourceMonitor, Resources
from chaosorca.agent.targets.target import Target

TREES = Path(__file__).parent / "trees"
V1_ID = "4162b644eb6dc72611767c6cd84247cf5a2769bdb273ba3cf3e9d5c684e17cf0"
V2_ID = "0b8c4de0a3b5f0b0e4f6d8ce5d3c1f7a9e2b6c4d8f0a1e3c5b7d9f1a3c5e7092"
V1, V2 = ("v1", 19999, V1_ID), ("v2", 4242, V2_ID)
V2_IO = Io(91_889_664, 613_781_504, 9_142, 1_605)


def found(tree: Path, pid: int, owner: str) -> Cgroup:
    """Return the control group of a process in a tree, whose mounts are at /host/cgroup."""
    host = tree / "cgroup"
    mountinfo = tree / "proc" / "self" / "mountinfo"
    mountinfo.write_text(mountinfo.read_text().replace(" /host/cgroup", f" {host}"))
    return cgroup_of(tree / "proc", pid, host, owner)


@pytest.fixture
def copy(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Cgroup]:
    """A copy of a tree, and the container's control group in it."""
    version, pid, owner = request.param
    shutil.copytree(TREES / version, tmp_path / version)
    return tmp_path / version, found(tmp_path / version, pid, owner)


@pytest.fixture(autouse=True)
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Devices as in /sys/dev/block: 253:0 is on top of 8:0 and 8:16."""
    block = tmp_path / "block"
    for device in ("8:0", "8:16", "253:0"):
        (block / device / "slaves").mkdir(parents=True)
    for below in ("sda", "sdb"):
        (block / "253:0" / "slaves" / below).mkdir()
    monkeypatch.setattr(cgroups, "_DEVICES", block)
    return block


@pytest.mark.parametrize(
    ("copy", "directories", "unified", "pids", "file"),
    [
        (
            V1,
            {"blkio", "cpuacct", "memory", "pids", "cpu", "devices", "freezer"},
            f"unified/docker/{V1_ID}",
            [19999, 20035],
            "blkio",
        ),
        (V2, set(), f"system.slice/docker-{V2_ID}.scope", [4242, 4243], "io.stat"),
    ],
    indirect=["copy"],
    ids=["v1", "v2"],
)
def test_the_control_group_of_a_container(
    copy: tuple[Path, Cgroup], directories: set[str], unified: str, pids: list[int], file: str
) -> None:
    tree, group = copy
    assert set(group.v1) == directories
    assert group.unified == tree / "cgroup" / unified
    assert (group.pids(), group.exists(), group.io_file()) == (pids, True, file)


@pytest.mark.parametrize(
    ("copy", "source", "resources"),
    [
        (V1, "blkio", Resources(0.027990302, 2_433_024, 736, 0, Io(4_199_424, 4_194_304, 21, 8), "blkio")),
        (V1, "/proc/PID/io", Resources(0.027990302, 2_433_024, 736, 0, Io(417_792, 8_192, 42, 7), "/proc/PID/io")),
        (V2, "io.stat", Resources(1.834567, 52_428_800, 736, 0, V2_IO, "io.stat")),
        (V2, "/proc/PID/io", Resources(1.834567, 52_428_800, 736, 0, Io(4_096, 8_192, 70, 60), "/proc/PID/io")),
    ],
    indirect=["copy"],
)
def test_the_figures_of_a_container(copy: tuple[Path, Cgroup], source: str, resources: Resources) -> None:
    tree, group = copy
    monitor = ResourceMonitor(lambda: {"web": Io()}, tree / "proc", lambda: IoSource(source, ""))
    assert monitor.read([Target("web", "0123", group, proc=tree / "proc")]) == {"web": resources}


@pytest.mark.parametrize(
    ("copy", "ended", "io"),
    [
        (V1, {}, Io(5_460_992, 4_202_496, 99, 33)),
        (V1, {"web": Io(5_043_200, 4_194_304, 57, 26)}, Io(5_460_992, 4_202_496, 99, 33)),
        (V1, {"web": Io()}, Io(417_792, 8_192, 42, 7)),
    ],
    indirect=["copy"],
    ids=["the process's own", "from the kernel", "nothing ended"],
)
def test_io_of_ended_children_is_in_the_figures(copy: tuple[Path, Cgroup], ended: dict[str, Io], io: Io) -> None:
    tree, group = copy
    monitor = ResourceMonitor(lambda: ended, tree / "proc", lambda: IoSource("/proc/PID/io", ""))
    assert monitor.read([Target("web", "0123", group, proc=tree / "proc")])["web"].io == io


@pytest.mark.parametrize("copy", [V2], indirect=True)
def test_a_device_on_top_of_others_is_not_counted_twice(copy: tuple[Path, Cgroup], devices: Path) -> None:
    assert copy[1].io() == V2_IO
    shutil.rmtree(devices / "253:0")
    assert copy[1].io() == V2_IO + V2_IO


@pytest.mark.parametrize("copy", [V1], indirect=True)
def test_without_recursive_figures_those_of_the_group_are_read(copy: tuple[Path, Cgroup]) -> None:
    blkio = copy[1].v1["blkio"]
    for name in ("io_service_bytes", "io_serviced"):
        (blkio / f"blkio.throttle.{name}_recursive").unlink()
    assert copy[1].io() == Io(4_199_424, 4_194_304, 21, 8)
    (blkio / "blkio.throttle.io_serviced").unlink()
    with pytest.raises(OSError, match="io_serviced"):
        copy[1].io()


@pytest.mark.parametrize(
    ("text", "io"),
    [
        ("", Io()),
        ("8:0 \n", Io()),
        ("8:0\n8:16 rbytes=1 wbytes=2 rios=3 wios=4\n", Io(1, 2, 3, 4)),
        ("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 wbytes=20 rbytes=10 rios=30 wios=40\n", Io(11, 22, 33, 44)),
        ("8:0 rbytes=1 wbytes=2 rios=3 wios=4 use_delay=0 delay_nsec=0 depth=max\n", Io(1, 2, 3, 4)),
    ],
)
def test_io_stat(text: str, io: Io, tmp_path: Path) -> None:
    (tmp_path / "io.stat").write_text(text)
    assert Cgroup({}, tmp_path).io() == io


@pytest.mark.parametrize(
    ("size", "serviced", "io"),
    [
        ("Total 0\n", "Total 0\n", Io()),
        (
            "8:0 Read 10\n8:0 Write 20\n8:0 Sync 30\n8:0 Total 30\nTotal 30\n",
            "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
            Io(10, 20, 1, 2),
        ),
        ("8:0 Read 10\n7:0 Read 5\nTotal 15\n", "8:0 Read 1\n7:0 Read 2\n7:0 Discard 9\nTotal 3\n", Io(15, 0, 3, 0)),
    ],
)
def test_blkio(size: str, serviced: str, io: Io, tmp_path: Path) -> None:
    (tmp_path / "blkio.throttle.io_service_bytes_recursive").write_text(size)
    (tmp_path / "blkio.throttle.io_serviced_recursive").write_text(serviced)
    assert Cgroup({"blkio": tmp_path}, None).io() == io
