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


NO_EFFECT = "a call should have failed with EXDEV, but its result was success"


class Broken:
    """Monitors and faults of a host where nothing works."""

    def attach(self, own: Target) -> None:
        raise AgentError("the kernel refuses the program")

    def detach(self, name: str) -> None:
        """Nothing is monitored."""

    def no_tls(self) -> str:
        raise AgentError("the kernel refuses the program")

    @contextlib.contextmanager
    def trial(self, *_: Any) -> Iterator[None]:
        raise PermissionError(1, "Operation not permitted")
        yield

    def choose(self, *_: Any) -> tuple[str, str]:
        return "ptrace", "this kernel has no type information"


class Ineffective(Broken):
    """Monitors and faults that raise no error and have no effect."""

    def attach(self, own: Target) -> None:
        """Monitor nothing."""

    def no_tls(self) -> str:
        return "HTTPS is not monitored: this kernel has no type information (BTF)"

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
                "tracepoints": "the kernel refuses the program",
                "socket filters": "the kernel refuses the program",
                "HTTPS": "the kernel refuses the program",
                "uprobes": "Operation not permitted",
                "ptrace": "Operation not permitted",
                "strace": "Operation not permitted",
                "injector auto": "chooses ptrace, which does not work here ([Errno 1] Operation not permitted)",
            },
        ),
        (
            Ineffective,
            {
                "tracepoints": "only 0 of 1000 system calls were counted",
                "socket filters": "an HTTP request to the agent and its answer were not seen",
                "HTTPS": "HTTPS is not monitored: this kernel has no type information (BTF)",
                "uprobes": NO_EFFECT,
                "ptrace": NO_EFFECT,
                "strace": NO_EFFECT,
                "injector auto": f"chooses ptrace, which does not work here ({NO_EFFECT})",
            },
        ),
    ],
)
def test_each_trial_finds_what_does_not_work(
    kind: Any, says: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chaosorca.agent.timeouts.DOCTOR_REQUEST_SEEN_WITHIN", 0.2)
    server = serve(0, Snapshot)
    try:
        parts: Any = [kind() for _ in range(3)]
        source = IoSource("/proc/PID/io", "why")
        doctor = Doctor("x86_64", *parts, lambda: source, lambda: "no socket", server.server_address[1], tmp_path)  # type: ignore[call-arg]
        findings = by_name(doctor.examine(Target("chaosorca-agent", "", Cgroup({}, tmp_path))))
    finally:
        server.shutdown()
        server.server_close()
    assert {name: findings[name].found for name in says} == says
    assert all(findings[name].mark == "no" and findings[name].todo for name in says)
    assert findings["storage figures"].found == "come from /proc/PID/io: why"
    assert (findings["engine's socket"].mark, findings["docker pause"].mark) == ("note", "note")
    assert {finding.mark for finding in findings.values()} <= set(MARKS)


class Working(Ineffective):
    """Monitors and faults of a host where everything works."""

    def __init__(self, why: str = "") -> None:
        self.why = why

    def choose(self, *_: Any) -> tuple[str, str]:
        return ("ptrace", self.why) if self.why else ("uprobe", "")

    def no_tls(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("why", "says"),
    [
        ("", "chooses uprobe here, or ptrace for faults that uprobes cannot inject, and reports that; it never chooses strace"),
        ("this kernel has no type information", "chooses ptrace here: this kernel has no type information"),
    ],
)
def test_the_finding_of_auto_names_the_injector(why: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doctor, "_inject", lambda self, injector, own: "works")
    doctor = Doctor("x86_64", Ineffective(), Ineffective(), Working(why), lambda: IoSource("x", "y"), lambda: "", 1, tmp_path)  # type: ignore[arg-type]
    findings = by_name(doctor.examine(Target("chaosorca-agent", "", Cgroup({}, tmp_path))))
    assert findings["injector auto"] == ok("injector auto", says)
    assert findings["uprobes"] == ok("uprobes", "works")


@pytest.mark.parametrize(
    ("version", "finding"),
    [
        (2, ok("HTTPS", "is monitored where a program uses OpenSSL's libssl: the kernel accepts the eBPF program")),
        (
            1,
            no(
                "HTTPS",
                "HTTPS is not monitored: there are no unified control groups",
                "see capabilities and lockdown above; it needs x86-64, BTF and the unified control groups",
            ),
        ),
    ],
)
def test_https_needs_unified_control_groups(
    version: int, finding: Finding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Doctor, "_inject", lambda self, injector, own: "works")
    own = Cgroup({}, tmp_path) if version == 2 else Cgroup({"memory": tmp_path}, None)
    doctor = Doctor("x86_64", Ineffective(), Working(), Working(), lambda: IoSource("x", "y"), lambda: "", 1, tmp_path)  # type: ignore[arg-type]
    assert by_name(doctor.examine(Target("chaosorca-agent", "", own)))["HTTPS"] == finding


def test_trials_need_a_control_group_of_the_agent(tmp_path: Path) -> None:
    doctor = Doctor("x86_64", Broken(), Broken(), Broken(), lambda: IoSource("x", "y"), lambda: "", 1, tmp_path)  # type: ignore[arg-type]
    findings = by_name(doctor.examine(None))
    assert findings["control groups"].mark == "no"
    for name in ("tracepoints", "socket filters", "HTTPS", "uprobes", "ptrace", "strace", "injector auto"):
        assert findings[name] == no(name, "cannot be tried without a control group of the agent's own", "see control groups above")
    assert findings["engine's socket"].mark == "ok"
