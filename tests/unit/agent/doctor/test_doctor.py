"""What doctor makes of what it is told: by an engine and an agent that answer as the test says, and by a broken host."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from chaosorca.agent.doctor.doctor import Doctor
from chaosorca.agent.export.families import serve
from chaosorca.agent.export.snapshot import Snapshot
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.monitors.http import HttpFigures
from chaosorca.agent.monitors.io_source import IoSource
from chaosorca.agent.targets.target import Target
from chaosorca.cli import cli
from chaosorca.engine import doctor
from chaosorca.exceptions import AgentError, EngineError
from chaosorca.model.finding import MARKS, Finding, merged, no, note, ok

INFO = {"ServerVersion": "20.10.24", "OperatingSystem": "Debian", "SecurityOptions": ["name=seccomp"], "CgroupVersion": "1"}
GOOD = [ok(name, "works") for name in ("control groups", "tracepoints", "socket filters", "uprobes", "ptrace")]


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have an agent find something, or be no agent, and return what doctor says."""
    client = SimpleNamespace(info=lambda: INFO, version=lambda: {"ApiVersion": "1.41"})

    def examine(found: list[Finding] | Exception, ran: bool = False, images: set[str] | None = None) -> list[Finding]:
        @contextlib.contextmanager
        def visited(*_: Any) -> Iterator[Any]:
            if isinstance(found, Exception):
                raise found
            yield SimpleNamespace(
                ask=lambda operation: [finding.to_json() for finding in found] if operation == "examine" else None
            )

        monkeypatch.setattr(doctor, "connect", lambda _: client)
        monkeypatch.setattr(doctor, "socket_path", lambda _: "/var/run/docker.sock")
        monkeypatch.setattr(doctor, "find_agent", lambda _: SimpleNamespace() if ran else None)
        monkeypatch.setattr(doctor, "visited_agent", visited)
        monkeypatch.setattr(doctor, "has_image", lambda _, name: name in (images or set()))
        return doctor.examine({})

    return examine


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.name for finding in findings}) == len(findings)
    return {finding.name: finding for finding in findings}


def test_all_is_well(examined: Any) -> None:
    findings = examined(GOOD, images={"debian:bookworm-slim"})
    assert {finding.mark for finding in findings} == {"ok"}
    assert (findings[0].name, findings[-1].name) == ("Docker", "main job")
    assert doctor.works(findings)


@pytest.mark.parametrize(("ran", "says"), [(False, "is gone again"), (True, "is left as it is")])
def test_what_becomes_of_the_agent_is_told(examined: Any, ran: bool, says: str) -> None:
    assert says in by_name(examined(GOOD, ran=ran))["agent"].found


@pytest.mark.parametrize(
    ("name", "works"),
    [
        ("tracepoints", False),
        ("socket filters", False),
        ("ptrace", False),
        ("control groups", False),
        ("uprobes", True),
        ("x", True),
    ],
)
def test_what_is_needed_decides_and_nothing_else(examined: Any, name: str, works: bool) -> None:
    broken = [*(finding for finding in GOOD if finding.name != name), no(name, "is broken", "mend it")]
    findings = examined(broken)
    assert doctor.works(findings) is works
    assert by_name(findings)[name].mark == "no"
    assert (f"see {name}" in findings[-1].todo) is not works


def test_what_the_agent_finds_takes_the_place_of_what_the_engine_says(examined: Any) -> None:
    assert by_name(examined([*GOOD, no("AppArmor", "confines", "x")]))["AppArmor"].found == "confines"
    assert by_name(examined(GOOD))["AppArmor"].found == "is not on"


def test_a_base_image_that_is_not_there_is_told(examined: Any) -> None:
    assert by_name(examined(GOOD))["base image"].mark == "note"


@pytest.mark.parametrize("error", [AgentError("it did not get ready"), EngineError("image could not be built")])
def test_without_an_agent_it_does_not_work(examined: Any, error: Exception) -> None:
    findings = examined(error)
    assert by_name(findings)["agent"] == no("agent", str(error), "it is what injects and measures: see to that first")
    assert not doctor.works(findings)
    assert findings[-1].todo == "see agent"


def test_without_an_engine_it_is_told_in_a_line_each_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 1
    first, last = done.output.splitlines()
    assert first.startswith("no    Docker               no Docker Engine answers")
    assert last == "no    main job             faults and monitoring do not both work here: see Docker"
    told = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert told["ok"] is False
    assert [check["name"] for check in told["checks"]] == ["Docker", "main job"]


def test_as_json(examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = examined(GOOD)
    monkeypatch.setattr(doctor, "examine", lambda _: findings)
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    assert done.exit_code == 0
    told = json.loads(done.output)
    assert told["ok"] is True
    assert [Finding(**check) for check in told["checks"]] == findings


def test_a_finding_is_one_line() -> None:
    assert str(ok("Docker", "is there")) == "ok    Docker               is there"
    assert str(no("ptrace", "is denied", "allow it")) == "no    ptrace               is denied: allow it"
    assert str(note("pause", "freezes")) == "note  pause                freezes"
    assert merged([ok("a", "1"), ok("b", "1")], [ok("a", "2")]) == [ok("a", "2"), ok("b", "1")]


class Broken:
    """Monitors and faults of a host where nothing works."""

    def attach(self, own: Target) -> None:
        raise AgentError("the kernel does not take the program")

    def detach(self, name: str) -> None:
        """Nothing is watched."""

    def no_tls(self) -> str:
        raise AgentError("the kernel does not take the program")

    @contextlib.contextmanager
    def tried(self, *_: Any) -> Iterator[None]:
        raise PermissionError(1, "Operation not permitted")
        yield

    def choice(self, *_: Any) -> tuple[str, str]:
        return "ptrace", "this kernel has no type information"


class Deaf(Broken):
    """Those of a host where all seems to work, and nothing comes of it."""

    def attach(self, own: Target) -> None:
        """Watch nothing."""

    def no_tls(self) -> str:
        return "HTTPS is not followed: this kernel has no type information (BTF)"

    def counts(self) -> dict[Any, int]:
        return {}

    def figures(self) -> HttpFigures:
        return HttpFigures({}, {}, {}, {}, {}, 0)

    @contextlib.contextmanager
    def tried(self, *_: Any) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (
            Broken,
            {
                "tracepoints": "the kernel does not take the program",
                "socket filters": "the kernel does not take the program",
                "HTTPS": "the kernel does not take the program",
                "uprobes": "Operation not permitted",
                "ptrace": "Operation not permitted",
                "strace": "Operation not permitted",
                "injector auto": "takes ptrace, by which nothing comes of it ([Errno 1] Operation not permitted)",
            },
        ),
        (
            Deaf,
            {
                "tracepoints": "0 of 1000 system calls were counted",
                "socket filters": "a request to the agent, and its answer, were not seen",
                "HTTPS": "HTTPS is not followed: this kernel has no type information (BTF)",
                "uprobes": "a call that was to fail with EXDEV ended with done",
                "ptrace": "a call that was to fail with EXDEV ended with done",
                "strace": "a call that was to fail with EXDEV ended with done",
                "injector auto": "takes ptrace, by which nothing comes of it (a call that was to fail with EXDEV ended with done)",
            },
        ),
    ],
)
def test_what_does_not_work_is_found_by_doing_it(
    kind: Any, says: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaosorca.agent.doctor.doctor._SEEN_WITHIN", 0.2)
    server = serve(0, Snapshot)
    try:
        parts = [kind() for _ in range(3)]
        source = IoSource("/proc/PID/io", "why")
        examining = Doctor("x86_64", *parts, lambda: source, lambda: "no socket", server.server_address[1], tmp_path)
        findings = by_name(examining.examine(Target("chaosorca-agent", "", Cgroup({}, tmp_path))))
    finally:
        server.shutdown()
        server.server_close()
    assert {name: findings[name].found for name in says} == says
    assert all(findings[name].mark == "no" and findings[name].todo for name in says)
    assert findings["storage figures"].found == "come from /proc/PID/io: why"
    assert (findings["engine's socket"].mark, findings["docker pause"].mark) == ("note", "note")
    assert {finding.mark for finding in findings.values()} <= set(MARKS)


class Working(Deaf):
    """Those of a host where a call fails as it should, as far as its process tells."""

    def __init__(self, why: str = "") -> None:
        self.why = why

    def choice(self, *_: Any) -> tuple[str, str]:
        return ("ptrace", self.why) if self.why else ("uprobe", "")

    def no_tls(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("why", "says"),
    [
        ("", "takes uprobe here, or ptrace for what uprobes cannot do, which the result says; strace only if it is asked for"),
        ("this kernel has no type information", "takes ptrace here: this kernel has no type information"),
    ],
)
def test_the_choice_of_auto_is_told(why: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doctor, "_inject", lambda self, injector, own: "works")
    examining = Doctor("x86_64", Deaf(), Deaf(), Working(why), lambda: IoSource("x", "y"), lambda: "", 1, tmp_path)
    findings = by_name(examining.examine(Target("chaosorca-agent", "", Cgroup({}, tmp_path))))
    assert findings["injector auto"] == ok("injector auto", says)
    assert findings["uprobes"] == ok("uprobes", "works")


@pytest.mark.parametrize(
    ("version", "finding"),
    [
        (2, ok("HTTPS", "is followed where a program uses OpenSSL's libssl: the kernel takes the program for it")),
        (
            1,
            no(
                "HTTPS",
                "HTTPS is not followed: there are no unified control groups",
                "look at capabilities and lockdown above; it needs x86-64, BTF and the unified control groups",
            ),
        ),
    ],
)
def test_https_needs_unified_control_groups(
    version: int, finding: Finding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Doctor, "_inject", lambda self, injector, own: "works")
    own = Cgroup({}, tmp_path) if version == 2 else Cgroup({"memory": tmp_path}, None)
    examining = Doctor("x86_64", Deaf(), Working(), Working(), lambda: IoSource("x", "y"), lambda: "", 1, tmp_path)
    assert by_name(examining.examine(Target("chaosorca-agent", "", own)))["HTTPS"] == finding


def test_an_agent_without_a_control_group_says_no_to_all_that_needs_one(tmp_path: Path) -> None:
    examining = Doctor("x86_64", Broken(), Broken(), Broken(), lambda: IoSource("x", "y"), lambda: "", 1, tmp_path)
    findings = by_name(examining.examine(None))
    assert findings["control groups"].mark == "no"
    for name in ("tracepoints", "socket filters", "HTTPS", "uprobes", "ptrace", "strace", "injector auto"):
        assert findings[name] == no(
            name, "cannot be tried without a control group of the agent's own", "see to the control groups above first"
        )
    assert findings["engine's socket"].mark == "ok"
