"""When the program is loaded, and how probes are attached; the kernel's part is tested on real containers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent import timeouts
from chaosorca.agent.code.binaries import FileCode
from chaosorca.agent.code.sites import Site
from chaosorca.agent.ebpf import uprobes
from chaosorca.agent.injectors import arming
from chaosorca.agent.injectors.arming import Arming
from chaosorca.agent.injectors.cookie import cookie_of
from chaosorca.model.errors import AgentError


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(AgentError, match="on x86-64 only, and this is aarch64"):
        Arming().prepare()


def test_an_engine_in_a_container_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(AgentError, match="the engine runs in a container itself"):
        Arming(tmp_path).prepare()


class Loaded:
    """A program that records how it was loaded, and where it has probes."""

    def __init__(self, name: str, attach_types: dict[str, int]) -> None:
        self.loaded_as = (name, attach_types)
        self.closed = False
        self.probes: dict[int, tuple[str, int, int]] = {}
        self.refused: int | None = None

    def fd(self, function: str) -> int:
        return 3

    def close(self) -> None:
        self.closed = True

    def attach_uprobe(self, function: str, path: str, offset: int, cookie: int, at_return: bool) -> int:
        if offset == self.refused:
            raise OSError(95, "Operation not supported")
        self.probes[offset] = (path, offset, cookie)
        return offset

    def detach(self, link: int) -> None:
        del self.probes[link]


class Kernel:
    """A kernel that loads programs, with or without uprobe_multi."""

    def __init__(self) -> None:
        self.loaded: list[Loaded] = []
        self.supports_uprobe_multi = False

    def load(self, name: str, layouts: object, constants: dict[str, int], attach_types: dict[str, int]) -> Loaded:
        self.loaded.append(Loaded(name, attach_types))
        return self.loaded[-1]

    @property
    def program(self) -> Loaded:
        """The program that was loaded last."""
        return self.loaded[-1]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel that every `Arming` of a test loads its program into."""
    one = Kernel()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(arming, "Program", one.load)
    monkeypatch.setattr(
        arming, "member_offsets", lambda btf, wanted: {one: dict.fromkeys(members, 8) for one, members in wanted.items()}
    )
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"")
    monkeypatch.setattr(uprobes, "supports_uprobe_multi", lambda fd: one.supports_uprobe_multi)
    monkeypatch.setattr("chaosorca.agent.linux.proc.command_name", lambda proc, pid: "kthreadd")
    return one


def prepared(**options: Any) -> Arming:
    one = Arming(**options)
    one.prepare()
    one.prepare()
    return one


@pytest.mark.parametrize(
    ("many", "options", "loaded"),
    [
        (True, {}, [({"at_site": 48}, False)]),
        (False, {}, [({"at_site": 48}, True), ({}, False)]),
        (True, {"one_by_one": True}, [({}, False)]),
    ],
)
def test_probes_are_attached_one_by_one_where_uprobe_multi_is_missing(
    kernel: Kernel, many: bool, options: dict[str, bool], loaded: list[tuple[dict[str, int], bool]]
) -> None:
    kernel.supports_uprobe_multi = many
    prepared(**options)
    assert [(one.loaded_as, one.closed) for one in kernel.loaded] == [(("arm", types), closed) for types, closed in loaded]


SITES = [Site(at, 5, 257, None) for at in (10, 20, 30)]
PLACES = [(site.offset, cookie_of(site)) for site in SITES]


def test_probes_one_by_one_are_detached_together(kernel: Kernel) -> None:
    close = prepared()._prepared.attach("at_site", Path("/lib"), PLACES)
    assert list(kernel.program.probes.values()) == [("/lib", *place) for place in PLACES]
    close()
    assert kernel.program.probes == {}


def test_no_probe_stays_if_one_is_refused(kernel: Kernel) -> None:
    one = prepared()
    kernel.program.refused = 30
    with pytest.raises(OSError, match="Operation not supported"):
        one._prepared.attach("at_site", Path("/lib"), PLACES)
    assert kernel.program.probes == {}


def test_probes_of_a_trial_are_detached_if_one_is_refused(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    one = prepared()
    monkeypatch.setattr(timeouts, "PROBES_CLOSED_AFTER", 0.0)
    code = {Path("/a"): FileCode((SITES[0],), ""), Path("/b"): FileCode((SITES[2],), "")}
    monkeypatch.setattr(one._binaries, "files", lambda pids: [(path, (1, number)) for number, path in enumerate(code)])
    monkeypatch.setattr(one._binaries, "code", lambda path, file: code[path])
    kernel.program.refused = SITES[2].offset
    with pytest.raises(AgentError, match="no uprobe could be attached to /b"):
        one.try_out([10], [257])
    end = time.monotonic() + 20
    while kernel.program.probes and time.monotonic() < end:
        time.sleep(0.005)
    assert kernel.program.probes == {}


def test_a_file_is_probed_after_a_process_that_ended_too_early(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    one = prepared()
    ended, alive = Path("/10/program"), Path("/11/program")

    def code(path: Path, file: Any) -> FileCode:
        if path == ended:
            raise FileNotFoundError(2, "No such file or directory")
        return FileCode((SITES[0],), "")

    monkeypatch.setattr(one._binaries, "files", lambda pids: [(ended if 10 in pids else alive, (1, 1))])
    monkeypatch.setattr(one._binaries, "code", code)
    one.probe(1, [10], [257])
    assert kernel.program.probes == {}
    one.probe(1, [11], [257])
    assert list(kernel.program.probes) == [SITES[0].offset]
