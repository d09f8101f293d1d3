"""The choice of the source of storage figures, on files of control groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.monitors.io_source import PROC, choose_io_source, write_and_read_past_cache, write_through_cache

MIB = 1 << 20


class Group:
    """A control group whose figures grow by a share of what is written and read."""

    def __init__(self, root: Path, version: int, counts: tuple[float, float], later: float = 0.0) -> None:
        self.root, self.version, self.counts, self.later = root, version, counts, later
        self.read = self.written = 5.0
        self.steps: list[str] = []
        self.cgroup = Cgroup({"blkio": root}, None) if version == 1 else Cgroup({}, root)
        self.show()

    def show(self) -> None:
        if self.version == 1:
            text = f"8:0 Read {self.read:.0f}\n8:0 Write {self.written:.0f}\nTotal 0\n"
            for name in ("io_service_bytes", "io_serviced"):
                (self.root / f"blkio.throttle.{name}_recursive").write_text(text)
        else:
            (self.root / "io.stat").write_text(f"8:0 rbytes={self.read:.0f} wbytes={self.written:.0f} rios=1 wios=1\n")

    def write_and_read(self, size: int) -> None:
        self.steps.append("past the cache")
        self.read, self.written = self.read + size * self.counts[0], self.written + size * self.counts[1]
        self.show()

    def write_later(self, size: int) -> None:
        self.steps.append("through the cache")
        self.written += size * self.later
        self.show()


@pytest.mark.parametrize(
    ("version", "counts", "later", "name", "why"),
    [
        (2, (1, 1), 0, "io.stat", "it counted all that the agent wrote and read"),
        (2, (1, 1.1), 0, "io.stat", "it counted"),
        (2, (0, 0), 0, PROC, "io.stat counted 0 and 0 of 1048576 bytes that the agent wrote and read"),
        (2, (0, 1), 0, PROC, "io.stat counted 1048576 and 0"),
        (2, (1, 0), 0, PROC, "io.stat counted 0 and 1048576"),
        (2, (0.5, 0.5), 0, PROC, "io.stat counted 524288 and 524288"),
        (1, (0, 0), 1, PROC, "blkio counted 0 and 0"),
        (1, (1, 1), 0, PROC, "blkio does not count what the kernel writes back later"),
        (1, (1, 1), 1, "blkio", "it counted"),
    ],
)
def test_a_control_group_is_the_source_where_it_counts(
    version: int, counts: tuple[float, float], later: float, name: str, why: str, tmp_path: Path
) -> None:
    group = Group(tmp_path, version, counts, later)
    chosen = choose_io_source(group.cgroup, group.write_and_read, group.write_later)
    assert chosen.name == name
    assert why in chosen.why


@pytest.mark.parametrize(("version", "steps"), [(1, ["past the cache", "through the cache"]), (2, ["past the cache"])])
def test_write_back_is_checked_only_for_version_1(version: int, steps: list[str], tmp_path: Path) -> None:
    group = Group(tmp_path, version, (1, 1), 1)
    choose_io_source(group.cgroup, group.write_and_read, group.write_later)
    assert group.steps == steps


def test_processes_are_the_source_without_a_control_group_or_files(tmp_path: Path) -> None:
    def never(size: int) -> None:
        raise AssertionError

    assert choose_io_source(None, never).name == PROC
    assert choose_io_source(Cgroup({}, tmp_path), never).why.startswith("io.stat cannot be checked: ")
    assert choose_io_source(Cgroup({"blkio": tmp_path}, None), never).why.startswith("blkio cannot be checked: ")


def test_a_full_disk_is_not_an_error(tmp_path: Path) -> None:
    def full(size: int) -> None:
        raise OSError(28, "No space left on device")

    chosen = choose_io_source(Group(tmp_path, 2, (1, 1)).cgroup, full)
    assert (chosen.name, chosen.why) == (PROC, "io.stat cannot be checked: [Errno 28] No space left on device")


@pytest.mark.parametrize("do", [write_and_read_past_cache, write_through_cache])
def test_the_kernel_counts_the_write_and_no_file_remains(do: Callable[[int, Path], None], tmp_path: Path) -> None:
    def written() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))

    before = written()
    do(MIB, tmp_path)
    assert written() - before >= MIB
    assert list(tmp_path.iterdir()) == []
