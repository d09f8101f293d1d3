"""What `doctor` concludes from the answers of an engine and an agent."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from chaosorca.cli import cli
from chaosorca.engine import doctor
from chaosorca.exceptions import AgentError, EngineError
from chaosorca.model.finding import Finding, no, ok

INFO = {"ServerVersion": "20.10.24", "OperatingSystem": "Debian", "SecurityOptions": ["name=seccomp"], "CgroupVersion": "1"}
GOOD = [ok(name, "works") for name in ("control groups", "tracepoints", "socket filters", "uprobes", "ptrace")]


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that gives the findings for an agent's findings or error."""
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
        monkeypatch.setattr(doctor, "temporary_agent", visited)
        monkeypatch.setattr(doctor, "has_image", lambda _, name: name in (images or set()))
        monkeypatch.setattr(doctor, "image_created", lambda *_: datetime.now(UTC).isoformat())
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


@pytest.mark.parametrize(("ran", "says"), [(False, "was removed again"), (True, "is left unchanged")])
def test_the_finding_says_what_happened_to_the_agent(examined: Any, ran: bool, says: str) -> None:
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
def test_only_needed_checks_decide_the_verdict(examined: Any, name: str, works: bool) -> None:
    broken = [*(finding for finding in GOOD if finding.name != name), no(name, "is broken", "mend it")]
    findings = examined(broken)
    assert doctor.works(findings) is works
    assert by_name(findings)[name].mark == "no"
    assert (f"see {name}" in findings[-1].todo) is not works


def test_findings_of_the_agent_replace_those_of_the_engine(examined: Any) -> None:
    assert by_name(examined([*GOOD, no("AppArmor", "confines", "x")]))["AppArmor"].found == "confines"
    assert by_name(examined(GOOD))["AppArmor"].found == "is not on"


def test_a_missing_base_image_is_a_note(examined: Any) -> None:
    assert by_name(examined(GOOD))["base image"].mark == "note"


@pytest.mark.parametrize(
    ("hours", "mark", "age"),
    [
        (-1, "ok", "less than a day ago"),
        (0, "ok", "less than a day ago"),
        (23.9, "ok", "less than a day ago"),
        (24, "ok", "1 day ago"),
        (3 * 24 + 1, "ok", "3 days ago"),
        (90 * 24, "ok", "90 days ago"),
        (90 * 24 + 1, "note", "90 days ago"),
        (400 * 24, "note", "400 days ago"),
    ],
)
def test_an_old_image_is_to_be_rebuilt(hours: float, mark: str, age: str) -> None:
    now = 1_700_000_000 + hours * 3600
    finding = doctor.image_age("chaosorca-agent:1", "2023-11-14T22:13:20.000000000Z", now)
    todo = "rebuild it for security updates: docker rmi chaosorca-agent:1" if mark == "note" else ""
    assert finding == Finding(mark, "agent image", f"chaosorca-agent:1 was built {age}", todo)


def test_the_age_of_the_agent_image_is_a_finding(examined: Any) -> None:
    found = by_name(examined(GOOD))["agent image"].found
    assert found.startswith("chaosorca-agent:")
    assert found.endswith("was built less than a day ago")


@pytest.mark.parametrize("error", [AgentError("it did not become ready"), EngineError("image could not be built")])
def test_without_an_agent_it_does_not_work(examined: Any, error: Exception) -> None:
    findings = examined(error)
    assert by_name(findings)["agent"] == no("agent", str(error), "solve this first, because the agent injects and measures")
    assert not doctor.works(findings)
    assert findings[-1].todo == "see agent"


def test_without_an_engine_there_are_two_lines_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 1
    first, last = done.output.splitlines()
    assert first.startswith("no    Docker               no Docker Engine answers")
    assert last == "no    main job             faults and monitoring do not both work here: see Docker"
    answer = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert answer["ok"] is False
    assert [check["name"] for check in answer["checks"]] == ["Docker", "main job"]


def test_as_json(examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = examined(GOOD)
    monkeypatch.setattr(doctor, "examine", lambda _: findings)
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    assert done.exit_code == 0
    answer = json.loads(done.output)
    assert answer["ok"] is True
    assert [Finding(**check) for check in answer["checks"]] == findings
