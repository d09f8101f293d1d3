"""The control groups of a container: directories, processes and figures, for version 1, version 2, and both (hybrid).

The formats are described in cgroups(7), proc_pid_mountinfo(5), and the kernel's documents cgroup-v1/cpuacct,
cgroup-v1/blkio-controller and cgroup-v2.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from chaosorca.agent.linux.proc import Io

ROOT_ID = 1
"""The id of the unified hierarchy's root. The hierarchy contains the processes of the whole host."""
_CONTROLLERS = {"cpu", "cpuacct", "memory", "pids", "blkio", "freezer", "devices"}
_DEVICES = Path("/sys/dev/block")
_LINKS_OF_A_LEAF = 2  # the directory's name and its "."; a file system that does not count these links reports 1


@dataclass(frozen=True)
class Cgroup:
    """A control group.

    Attributes:
        v1: the directory in each hierarchy of version 1, by controller.
        unified: the directory in the unified hierarchy, None if there is none.
    """

    v1: dict[str, Path]
    unified: Path | None

    def exists(self) -> bool:
        """Return whether the control group exists."""
        return any(path.is_dir() for path in self._roots())

    def ids(self) -> list[int]:
        """Return the inodes of all directories in the tree. `bpf_get_current_cgroup_id()` returns these ids."""
        found = []
        for path in _tree(self.unified) if self.unified else []:
            with contextlib.suppress(OSError):  # removed meanwhile
                found.append(path.stat().st_ino)
        return found

    def identity(self) -> int:
        """Return the inode of the directory. A later control group at the same path has another inode.

        Raises:
            OSError: the control group does not exist.
        """
        return next(path.stat().st_ino for path in self._roots())

    def pids(self) -> list[int]:
        """Return the processes of all control groups in the tree."""
        root = next(iter(self._roots()), None)
        found: set[int] = set()
        for path in _tree(root) if root else []:
            try:
                found.update(int(word) for word in (path / "cgroup.procs").read_text().split())
            except OSError:
                continue  # removed meanwhile, or of type `threaded`
        return sorted(found - {0})

    def cpu_seconds(self) -> float:
        """Return the processor time used, in seconds.

        Raises:
            OSError: the control group does not count it.
        """
        if "cpuacct" in self.v1:
            return int((self.v1["cpuacct"] / "cpuacct.usage").read_text()) / 1e9
        usage = re.search(r"^usage_usec (\d+)$", (self._unified() / "cpu.stat").read_text(), re.MULTILINE)
        if usage is None:
            raise FileNotFoundError(f"{self._unified()}/cpu.stat has no usage_usec")
        return int(usage[1]) / 1e6

    def memory_bytes(self) -> int:
        """Return the memory in use in bytes, page cache included.

        Raises:
            OSError: the control group does not count it.
        """
        if "memory" in self.v1:
            return int((self.v1["memory"] / "memory.usage_in_bytes").read_text())
        return int((self._unified() / "memory.current").read_text())

    def io_file(self) -> str:
        """Return the name of the source of storage figures: `blkio` or `io.stat`."""
        return "blkio" if "blkio" in self.v1 else "io.stat"

    def io(self) -> Io:
        """Return the bytes read from and written to devices, and the number of requests.

        A device on top of other devices, such as an LVM volume, is left out, since the other devices count the same requests.

        Raises:
            OSError: the control group does not count them.
        """
        counted = _blkio(self.v1["blkio"]) if "blkio" in self.v1 else _io_stat((self._unified() / "io.stat").read_text())
        return sum((io for device, io in counted.items() if not _is_stacked(_DEVICES / device)), Io())

    def _unified(self) -> Path:
        if self.unified is None:
            raise FileNotFoundError("there is no unified control group")
        return self.unified

    def _roots(self) -> list[Path]:
        return ([self.unified] if self.unified else []) + list(self.v1.values())


def cgroup_of(proc: Path, pid: int, host: Path, owner: str = "") -> Cgroup:
    """Find the control group of a process.

    Arguments:
        proc: a proc file system that shows the host's processes.
        pid: the process.
        host: the mount point of the host's /sys/fs/cgroup. A container's own mount shows only the container's part.
        owner: the container's id. A directory whose path lacks the id is left out, since it also contains other processes.

    Raises:
        FileNotFoundError: the process does not exist.
        ValueError: the process has no control group of its own.
    """
    mounts = _mounts((proc / "self" / "mountinfo").read_text(), host)
    v1: dict[str, Path] = {}
    unified: Path | None = None
    for line in (proc / str(pid) / "cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if path == "/" or owner not in path:
            continue
        for controller in controllers.split(","):
            if controller in mounts:
                directory = mounts[controller] / path.lstrip("/")
                if controller == "":
                    unified = directory
                elif controller in _CONTROLLERS:
                    v1[controller] = directory
    if unified is None and not v1:
        raise ValueError(f"process {pid} is in no control group of its own")
    return Cgroup(v1, unified)


def _mounts(mountinfo: str, below: Path) -> dict[str, Path]:
    """Return the mount points of version 1 by controller. The mount point of the unified hierarchy has an empty name."""
    found: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _source, options) = before.split(), after.split(" ", 2)
        if kind in ("cgroup", "cgroup2") and Path(fields[4]).is_relative_to(below):
            for name in [""] if kind == "cgroup2" else options.split(","):
                found.setdefault(name, Path(fields[4]))
    return found


def _blkio(group: Path) -> dict[str, Io]:
    """Return the I/O by device (`8:0`), from lines such as `8:0 Read 4096`."""
    counted: dict[str, Io] = {}
    for file, places in (("io_service_bytes", {"Read": 0, "Write": 1}), ("io_serviced", {"Read": 2, "Write": 3})):
        path = group / f"blkio.throttle.{file}_recursive"
        text = (path if path.exists() else group / f"blkio.throttle.{file}").read_text()  # older kernels lack the recursive figures
        for device, kind, value in (words for words in map(str.split, text.splitlines()) if len(words) == 3):
            if kind in places:
                figures = [0, 0, 0, 0]
                figures[places[kind]] = int(value)
                counted[device] = counted.get(device, Io()) + Io(*figures)
    return counted


def _io_stat(text: str) -> dict[str, Io]:
    """Return the I/O by device, from lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0`. Fields can be missing."""
    counted = {}
    for device, *words in filter(None, map(str.split, text.splitlines())):
        found = dict(word.split("=", 1) for word in words if "=" in word)
        counted[device] = Io(*(int(found.get(name, 0)) for name in ("rbytes", "wbytes", "rios", "wios")))
    return counted


def _is_stacked(device: Path) -> bool:
    try:
        return any((device / "slaves").iterdir())
    except OSError:
        return False


def _tree(root: Path) -> list[Path]:
    """Return a directory and its subdirectories. A directory whose link count shows no subdirectories is not read."""
    found = [root] if root.is_dir() else []
    for path in found:
        with contextlib.suppress(OSError):  # removed meanwhile
            if path.stat().st_nlink == _LINKS_OF_A_LEAF:
                continue
            with os.scandir(path) as entries:
                found += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return found
