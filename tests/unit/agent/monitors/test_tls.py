"""Probes on TLS libraries: each file has one set of probes while a process of a target uses it."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.fakes import FakeMap

pytest.importorskip("capstone")

from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.monitors import tls
from chaosorca.agent.monitors.tls import TlsProbes
from chaosorca.model.errors import AgentError

LIBRARY = "/usr/lib/libssl.so.3"


class Kernel:
    """A program without a kernel."""

    def __init__(self) -> None:
        self.maps = {name: FakeMap() for name in ("tls_cgroups", "secured", "unprobed", "processes", "calls")}

    def __getitem__(self, name: str) -> FakeMap:
        return self.maps[name]

    def run(self, function: str, context: bytes) -> bytes:
        assert function == "sweep_tls"
        return tls.SWEEP.pack(0, 0, 9)


class Target:
    """A container that is its own control group."""

    def __init__(self, *pids: int, cgroups: tuple[int, ...] = (7,)) -> None:
        self.running, self.groups = list(pids), list(cgroups)
        self.cgroup: Any = self

    def pids(self) -> list[int]:
        return self.running

    def ids(self) -> list[int]:
        return self.groups


@pytest.fixture
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TlsProbes:
    """Probes that only record the content of files to which they were `attached`, and from which they were detached (`closed`)."""
    one = TlsProbes(tmp_path)
    one._uprobes = SimpleNamespace(program=Kernel())  # type: ignore[assignment]
    one._poller = object()  # type: ignore[assignment]  # tests poll
    one.attached, one.closed = [], []  # type: ignore[attr-defined]

    def attach(path: Path) -> Any:
        if path.read_text() == "odd":
            raise ValueError("not an ELF file of 64 bits")
        one.attached.append(path.read_text())  # type: ignore[attr-defined]
        return lambda: one.closed.append(path.read_text())  # type: ignore[attr-defined]

    monkeypatch.setattr(one, "_attach", attach)
    return one


def process(proc: Path, pid: int, pages: int, *files: tuple[str, Path]) -> None:
    """Create a process that has mapped files."""
    folder = proc / str(pid) / "map_files"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (name, content) in enumerate(files):
        status = content.stat()
        lines.append(f"0{number + 1}000-0{number + 2}000 r-xp 00000000 00:{pid:02x} {status.st_ino} {name}")
        (folder / f"{number + 1}000-{number + 2}000").unlink(missing_ok=True)
        (folder / f"{number + 1}000-{number + 2}000").symlink_to(content)
    (proc / str(pid) / "maps").write_text("\n".join([*lines, "08000-09000 r-xp 0 00:00 0 [vdso]", ""]))
    (proc / str(pid) / "statm").write_text(f"{pages} 10 5 1 0 9 0\n")


def file(folder: Path, content: str) -> Path:
    """Create a file that is named after its content."""
    path = folder / f"file-{content}"
    path.write_text(content)
    return path


def poll(probes: TlsProbes) -> None:
    """Poll once."""
    for number in list(probes._targets):
        probes._update(number)


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_a_file_that_containers_share_has_one_set_of_probes(probes: Any, tmp_path: Path) -> None:
    shared, own = file(tmp_path, "shared"), file(tmp_path, "own")
    process(tmp_path, 10, 100, (LIBRARY, shared), ("/bin/nginx", own))
    process(tmp_path, 20, 100, (LIBRARY, shared))  # the same file on another device
    process(tmp_path, 30, 100, ("/opt/libssl.so.1.1", own))
    probes.attach(1, Target(10))
    probes.attach(2, Target(20, 30, cgroups=(8, 9, 1)))
    assert probes.attached == ["shared", "own"]
    assert probes._program["tls_cgroups"].content == {7: 1, 8: 2, 9: 2}, "1 is the root control group"
    probes.detach(1)
    assert probes.closed == []
    probes._program["secured"].content = {(99, 20, 2): 0, (99, 20, 3): 0}
    probes.detach(2)
    wait_for(lambda: sorted(probes.closed) == ["own", "shared"])
    assert probes._program["tls_cgroups"].content == {}
    assert list(probes._program["secured"].content) == [(99, 20, 3)]


def test_a_process_that_grows_is_searched_for_libraries_again(probes: Any, tmp_path: Path) -> None:
    target, late = Target(10), file(tmp_path, "late")
    process(tmp_path, 10, 100)
    probes.attach(1, target)
    process(tmp_path, 10, 100, (LIBRARY, late))
    poll(probes)
    assert probes.attached == [], "a process that has not grown is not read"
    process(tmp_path, 10, 150, (LIBRARY, late))
    poll(probes)
    assert probes.attached == ["late"]
    target.running, target.groups = [11], [70]  # a restart
    process(tmp_path, 11, 150, (LIBRARY, late))
    poll(probes)
    assert (probes.attached, probes.closed) == (["late"], [])
    assert probes._program["tls_cgroups"].content == {70: 1}


def test_installed_libraries_are_probed_before_a_process_loads_them(probes: Any, tmp_path: Path) -> None:
    target = Target(10)
    process(tmp_path, 10, 100)
    folder = tmp_path / "10" / "root" / "usr" / "lib" / "x86_64-linux-gnu"
    folder.mkdir(parents=True)
    (folder / "libssl.so.3").write_text("installed")
    (folder / "libssl.so").symlink_to("/elsewhere/libssl.so.3")
    (folder / "libz.so.1").write_text("other")
    probes.attach(1, target)
    assert probes.attached == ["installed"]
    process(tmp_path, 10, 150, (LIBRARY, folder / "libssl.so.3"))
    poll(probes)
    target.running = [11]  # a restart with another root directory
    process(tmp_path, 11, 100)
    poll(probes)
    assert probes.attached == ["installed"]
    wait_for(lambda: probes.closed == ["installed"])


def test_installed_libraries_are_not_probed_after_the_containers_end(probes: Any, tmp_path: Path) -> None:
    target = Target(10)
    process(tmp_path, 10, 100)
    folder = tmp_path / "10" / "root" / "usr" / "lib"
    folder.mkdir(parents=True)
    (folder / "libssl.so.3").write_text("installed")
    probes.attach(1, target)
    target.running = []  # as for a container that is starting
    poll(probes)
    assert probes.closed == []
    target.groups = []
    poll(probes)
    wait_for(lambda: probes.closed == ["installed"])
    target.running, target.groups = [10], [8]
    poll(probes)
    assert probes.attached == ["installed", "installed"]


def test_a_library_that_cannot_be_probed_is_reported_while_in_use(probes: Any, tmp_path: Path) -> None:
    target = Target(10)
    process(tmp_path, 10, 100, (LIBRARY, file(tmp_path, "odd")))
    probes.attach(1, target)
    poll(probes)
    problem = f"HTTPS by {LIBRARY} is not monitored: the library cannot be probed: not an ELF file of 64 bits"
    assert (probes.problems(1), probes.problems(2)) == ([problem], [])
    target.running = []
    poll(probes)
    assert probes.problems(1) == []


def test_a_full_map_is_reported_until_there_is_room(probes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = probes._program["tls_cgroups"]

    def put(key: Any, value: Any) -> None:
        if len(groups.content) == 2:
            raise AgentError("the kernel's map 'tls_cgroups' is full")
        groups.content[key] = value

    monkeypatch.setattr(groups, "put", put)
    target = Target(10, cgroups=(7, 8, 9))
    probes.attach(1, target)
    assert probes.problems(1) == ["HTTPS is not monitored completely: the kernel's map 'tls_cgroups' is full"]
    target.groups = [7, 8]
    poll(probes)
    assert (groups.content, probes.problems(1)) == ({7: 1, 8: 1}, [])
    target.groups = [8, 9]
    poll(probes)
    assert (groups.content, probes.problems(1)) == ({8: 1, 9: 1}, [])
    probes.detach(1)
    assert groups.content == {}


def test_missing_unified_control_groups_are_reported(probes: Any, tmp_path: Path) -> None:
    process(tmp_path, 10, 100)
    target = Target(10, cgroups=())
    probes.attach(1, target)
    problem = "HTTPS is not monitored: the container has no control group of its own in the unified hierarchy"
    assert probes.problems(1) == [problem]
    target.running = []  # the container has ended
    poll(probes)
    assert probes.problems(1) == []


def test_unprobed_processes_are_listed_by_name(probes: Any) -> None:
    names = {(1, 10): b"docker", (1, 11): b"docker", (1, 13): b"curl", (2, 12): b"java"}
    probes._program["unprobed"].content = {key: name.ljust(16, b"\0") for key, name in names.items()}
    assert (probes.unprobed(1), probes.unprobed(2), probes.unprobed(3)) == (["curl", "docker"], ["java"], [])


def test_nothing_is_monitored_before_the_program_is_loaded() -> None:
    probes = TlsProbes()
    probes.attach(1, Target(10))  # type: ignore[arg-type]
    probes.detach(1)
    assert (probes.problems(1), probes.unprobed(1), probes.sweep(b"")) == ([], [], 0)


def test_the_reason_is_returned_where_the_program_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert TlsProbes().prepare(None) == "HTTPS is monitored on x86-64 only, and this host is aarch64"  # type: ignore[arg-type]


def test_code_files_and_size_of_a_process(tmp_path: Path) -> None:
    process(tmp_path, 10, 100, ("/opt/with space", file(tmp_path, "a")))
    (one,) = procfs.code_files(tmp_path, 10)
    assert (one.name, one.path) == ("/opt/with space", tmp_path / "10" / "map_files" / "1000-2000")
    assert procfs.virtual_pages(tmp_path, 10) == 100
    assert (procfs.code_files(tmp_path, 11), procfs.virtual_pages(tmp_path, 11)) == ([], 0)


def test_the_entries_of_each_map_are_counted(probes: TlsProbes) -> None:
    assert TlsProbes().entries() == {}
    probes.attach(3, Target(cgroups=(7, 8)))  # type: ignore[arg-type]
    assert probes._program is not None
    probes._program["unprobed"].put((3, 9), b"java")
    assert probes.entries() == {"tls_cgroups": 2, "processes": 0, "unprobed": 1, "calls": 0}
