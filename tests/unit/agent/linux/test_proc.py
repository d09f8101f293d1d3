"""Reading /proc, on files."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.proc import Io

STATUS = "Name:\tnginx\nUmask:\t0022\nState:\t{state}\nTgid:\t10\nPid:\t10\nPPid:\t1\nTracerPid:\t{tracer}\nUid:\t0\t0\t0\t0\n"
IO = "rchar: 9\nwchar: 9\nsyscr: 8\nsyscw: 9\nread_bytes: {read}\nwrite_bytes: {written}\ncancelled_write_bytes: 7\n"
DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1000000      10    0    0    0     0          0         0  1000000      10    0    0    0     0       0          0
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A proc file system with process 10, which has the threads 10, 11 and a zombie, 12."""
    for tid, state, tracer in ((10, "S (sleeping)", 0), (11, "t (tracing stop)", 77), (12, "Z (zombie)", 0)):
        thread = tmp_path / "10" / "task" / str(tid)
        thread.mkdir(parents=True)
        (thread / "status").write_text(STATUS.format(state=state, tracer=tracer))
        (thread / "io").write_text(IO.format(read=tid * 100, written=tid))
    (tmp_path / "10" / "io").write_text(IO.format(read=5000, written=600))
    (tmp_path / "10" / "comm").write_text("nginx\n")
    (tmp_path / "10" / "task" / "10" / "children").write_text("21 22 ")
    (tmp_path / "10" / "task" / "11" / "children").write_text("")
    (tmp_path / "10" / "net").mkdir()
    (tmp_path / "10" / "net" / "dev").write_text(DEV)
    return tmp_path


@pytest.mark.parametrize(("pid", "threads"), [(10, [10, 11, 12]), (99, [])])
def test_an_ended_process_has_no_threads(proc: Path, pid: int, threads: list[int]) -> None:
    assert procfs.threads(proc, pid) == threads


@pytest.mark.parametrize(
    ("pid", "tid", "tracer"),
    [(10, 10, 0), (10, 11, 77), (10, 12, None), (10, 13, None), (99, 99, None)],
)
def test_zombies_and_ended_threads_have_no_tracer(proc: Path, pid: int, tid: int, tracer: int | None) -> None:
    assert procfs.tracer_of(proc, pid, tid) == tracer


@pytest.mark.parametrize(
    ("state", "tracer"),
    [("R (running)", 5), ("D (disk sleep)", 5), ("T (stopped)", 5), ("Z (zombie)", None), ("X (dead)", None), ("I (idle)", 5)],
)
def test_dead_threads_have_no_tracer(proc: Path, state: str, tracer: int | None) -> None:
    (proc / "10" / "task" / "10" / "status").write_text(STATUS.format(state=state, tracer=5))
    assert procfs.tracer_of(proc, 10, 10) == tracer


def test_a_name_that_looks_like_a_field_is_ignored(proc: Path) -> None:
    text = STATUS.format(state="S (sleeping)", tracer=0).replace("nginx", "TracerPid:\\n9")
    (proc / "10" / "task" / "10" / "status").write_text(text)
    assert procfs.tracer_of(proc, 10, 10) == 0


def test_a_name_that_is_not_utf8_is_read(proc: Path) -> None:
    (proc / "10" / "comm").write_bytes(b"a\xffb\n")
    assert procfs.command_name(proc, 10) == "a\ufffdb"


@pytest.mark.parametrize(("pid", "name"), [(10, "nginx"), (99, "")])
def test_the_command_name_of_an_ended_process_is_empty(proc: Path, pid: int, name: str) -> None:
    assert procfs.command_name(proc, pid) == name


@pytest.mark.parametrize(("pid", "children"), [(10, [21, 22]), (99, [])])
def test_children_are_listed(proc: Path, pid: int, children: list[int]) -> None:
    assert procfs.children(proc, pid) == children


@pytest.mark.parametrize(("pid", "io"), [(10, Io(2100, 21, 16, 18)), (99, Io())])
def test_io_of_threads_leaves_out_ended_threads(proc: Path, pid: int, io: Io) -> None:
    assert procfs.thread_io(proc, pid) == io


@pytest.mark.parametrize(("pid", "io"), [(10, Io(5000, 600, 8, 9)), (99, Io())])
def test_io_of_a_process_is_its_own_figure(proc: Path, pid: int, io: Io) -> None:
    assert procfs.process_io(proc, pid) == io


def test_io_adds_up() -> None:
    assert sum([Io(1, 2, 3, 4), Io(10, 20, 30, 40)], Io()) == Io(11, 22, 33, 44)
    assert Io(1, 20, 3, 40) | Io(10, 2, 30, 4) == Io(10, 20, 30, 40)


@pytest.mark.parametrize(
    ("lines", "received", "transmitted"),
    [
        ([], 0, 0),
        (
            ["  eth0:    1234      12    0    0    0     0          0         0     5678      34    0    0    0   0   0   0"],
            1234,
            5678,
        ),
        (["eth0:4000000000 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0"], 4_000_000_000, 9),
        (["  eth0: 1 0 0 0 0 0 0 0 10 0 0 0 0 0 0 0", "eth1.5@if7: 2 0 0 0 0 0 0 0 20 0 0 0 0 0 0 0"], 3, 30),
        ([" lo2: 5 0 0 0 0 0 0 0 6 0 0 0 0 0 0 0"], 5, 6),
    ],
)
def test_network_bytes_are_those_of_all_devices_but_loopback(proc: Path, lines: list[str], received: int, transmitted: int) -> None:
    (proc / "10" / "net" / "dev").write_text(DEV + "".join(f"{line}\n" for line in lines))
    assert procfs.network_bytes(proc, 10) == (received, transmitted)


def test_network_bytes_of_an_ended_process_are_an_error(proc: Path) -> None:
    with pytest.raises(FileNotFoundError):
        procfs.network_bytes(proc, 99)


def test_a_namespace_is_the_inode_of_its_file(proc: Path) -> None:
    (proc / "10" / "ns").mkdir()
    (proc / "10" / "ns" / "net").write_text("")
    assert procfs.namespace(proc, 10, "net") == (proc / "10" / "ns" / "net").stat().st_ino


def test_an_io_uring_is_found_among_the_descriptors(tmp_path: Path) -> None:
    for pid, targets in ((1, ["/dev/null", "anon_inode:[io_uring]"]), (2, ["/dev/null", "socket:[7]"]), (3, [])):
        (tmp_path / str(pid) / "fd").mkdir(parents=True)
        for number, target in enumerate(targets):
            (tmp_path / str(pid) / "fd" / str(number)).symlink_to(target)
    assert [procfs.uses_io_uring(tmp_path, pid) for pid in (1, 2, 3, 4)] == [True, False, False, False]


@pytest.mark.parametrize(("text", "letter"), [("State:\tT (stopped)\n", "T"), ("State:\tS (sleeping)\n", "S"), (None, "")])
def test_the_state_of_a_process(text: str | None, letter: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "5" / "task" / "5").mkdir(parents=True)
        (tmp_path / "5" / "task" / "5" / "status").write_text(f"Name:\tx\n{text}")
    assert procfs.state_of(tmp_path, 5) == letter


@pytest.mark.parametrize(
    ("mask", "signal", "blocked"),
    [
        ("0000000000400000", 23, True),
        ("0000000000400000", 22, False),
        ("fffffffe7ffbfeff", 23, True),
        ("0000000000000000", 23, False),
    ],
)
def test_a_blocked_signal_is_found_in_the_mask(mask: str, signal: int, blocked: bool, tmp_path: Path) -> None:
    (tmp_path / "5" / "task" / "6").mkdir(parents=True)
    (tmp_path / "5" / "task" / "6" / "status").write_text(f"Name:\tx\nSigBlk:\t{mask}\n")
    assert (signal in procfs.signals(tmp_path, 5, 6, "SigBlk")) is blocked
    assert procfs.signals(tmp_path, 5, 6, "SigCgt") == procfs.signals(tmp_path, 5, 7, "SigBlk") == set()
