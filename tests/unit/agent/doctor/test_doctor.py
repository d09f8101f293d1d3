"""What the agent's part of `doctor` finds on a host where nothing works, and on one where all does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent.doctor.doctor import Doctor
from chaosorca.agent.export.endpoint import serve
from chaosorca.agent.export.snapshot import Snapshot
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.monitors.http import HttpFigures
from chaosorca.agent.monitors.io_source import IoSource
from chaosorca.agent.targets.target import Target
from chaosorca.exceptions import AgentError
from chaosorca.model.finding import MARKS, Finding, no, ok


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.name for finding in findings}) == len(findings)
    return {finding.name: finding for finding in findings}


class Broken:
    """Monitors and faults of a host where nothing works."""

    def attach(self, own: Target) -> None:
        raise AgentError("the kernel does not take the program")

    def detach(self, name: str) -> None:
        """Nothing is watched."""

    def no_tls(self) -> str:
        raise AgentError("the kernel does not take the program")

    @contextlib.contextmanager
    def trial(self, *_: Any) -> Iterator[None]:
        raise PermissionError(1, "Operation not permitted")
        yield

    def choose(self, *_: Any) -> tuple[str, str]:
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
    def trial(self, *_: Any) -> Iterator[None]:
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
        parts: Any = [kind() for _ in range(3)]
        source = IoSource("/proc/PID/io", "why")
        examining = Doctor("x86_64", *parts, lambda: source, lambda: "no socket", server.server_address[1], tmp_path)  # type: ignore[call-arg]
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

    def choose(self, *_: Any) -> tuple[str, str]:
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
    examining = Doctor("x86_64", Deaf(), Deaf(), Working(why), lambda: IoSource("x", "y"), lambda: "", 1, tmp_path)  # type: ignore[arg-type]
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
    examining = Doctor("x86_64", Deaf(), Working(), Working(), lambda: IoSource("x", "y"), lambda: "", 1, tmp_path)  # type: ignore[arg-type]
    assert by_name(examining.examine(Target("chaosorca-agent", "", own)))["HTTPS"] == finding


def test_an_agent_without_a_control_group_says_no_to_all_that_needs_one(tmp_path: Path) -> None:
    examining = Doctor("x86_64", Broken(), Broken(), Broken(), lambda: IoSource("x", "y"), lambda: "", 1, tmp_path)  # type: ignore[arg-type]
    findings = by_name(examining.examine(None))
    assert findings["control groups"].mark == "no"
    for name in ("tracepoints", "socket filters", "HTTPS", "uprobes", "ptrace", "strace", "injector auto"):
        assert findings[name] == no(
            name, "cannot be tried without a control group of the agent's own", "see to the control groups above first"
        )
    assert findings["engine's socket"].mark == "ok"
