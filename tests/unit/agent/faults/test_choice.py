"""Which injector a fault gets."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent.faults.choice import Choice
from chaosorca.model.errors import AgentError
from chaosorca.model.fault import Fault, parse_fault

NO_GROUP = "the container has no control group of its own in the unified hierarchy, which identifies it"


class Arming:
    """Uprobes that the test can have refused."""

    def __init__(self, unprepared: str = "", cannot: str = "", refused: str = "") -> None:
        self._unprepared, self._cannot, self._refused = unprepared, cannot, refused

    def prepare(self) -> None:
        if self._unprepared:
            raise AgentError(self._unprepared)

    def cannot(self, pids: list[int]) -> str:
        return self._cannot

    def try_out(self, pids: list[int], numbers: list[int]) -> None:
        if self._refused:
            raise AgentError(self._refused)


class Unmonitored:
    """A monitoring without any container."""

    def marks(self) -> int | None:
        return None


def choice(**arming: str) -> Choice:
    return Choice("x86_64", Arming(**arming), Unmonitored())  # type: ignore[arg-type]


def read() -> Fault:
    return parse_fault("x86_64", "read", error="EIO")


def in_group() -> list[int]:
    return [7]


@pytest.mark.parametrize("injector", ["auto", "uprobe"])
def test_uprobes_are_the_first_choice(injector: str) -> None:
    assert choice().choose(injector, read(), [10], in_group) == ("uprobe", "")


@pytest.mark.parametrize("injector", ["ptrace", "strace"])
def test_a_named_injector_is_taken_as_it_is(injector: str) -> None:
    assert choice(unprepared="no BTF").choose(injector, read(), [10], list) == (injector, "")


@pytest.mark.parametrize(
    ("arming", "cgroups", "why"),
    [
        ({"unprepared": "this kernel has no BTF"}, in_group, "this kernel has no BTF"),
        ({"cannot": "/bin/odd cannot be read"}, in_group, "/bin/odd cannot be read"),
        ({"refused": "no probe could be attached"}, in_group, "no probe could be attached"),
        ({}, list, NO_GROUP),
    ],
)
def test_auto_takes_ptrace_and_says_why(arming: dict[str, str], cgroups: Any, why: str) -> None:
    chosen, reason = choice(**arming).choose("auto", read(), [10], cgroups)
    assert chosen == "ptrace"
    assert reason == f"it is injected by ptrace, which stops every system call, and not by uprobes: {why}"


def test_auto_takes_ptrace_for_a_fault_that_uprobes_cannot_do() -> None:
    chosen, reason = choice().choose("auto", parse_fault("x86_64", "clone", error="EAGAIN"), [10], in_group)
    assert (chosen, "it cannot do a fault on clone" in reason) == ("ptrace", True)


@pytest.mark.parametrize(
    ("arming", "cgroups", "why"),
    [({"unprepared": "no BTF"}, in_group, "no BTF"), ({"refused": "refused"}, in_group, "refused"), ({}, list, NO_GROUP)],
)
def test_uprobe_is_refused_with_the_reason(arming: dict[str, str], cgroups: Any, why: str) -> None:
    with pytest.raises(AgentError, match=why):
        choice(**arming).choose("uprobe", read(), [10], cgroups)


def test_auto_falls_back_where_the_session_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def open_session(injector: str, *_: Any) -> Any:
        if injector == "uprobe":
            raise AgentError("the map is full")
        opened.append(injector)
        return injector

    one = choice()
    monkeypatch.setattr(one, "open", open_session)
    session, why = one.begin("auto", read(), [10], lambda calls: None, in_group)
    assert (session, opened, why.endswith(": the map is full")) == ("ptrace", ["ptrace"], True)
    with pytest.raises(AgentError, match="the map is full"):
        one.begin("uprobe", read(), [10], lambda calls: None, in_group)


def test_every_fault_has_a_key_of_its_own() -> None:
    one = choice()
    assert one.next_key() != one.next_key()


def test_code_is_read_ahead_in_the_background(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read_pids: list[list[int]] = []
    one = choice()
    monkeypatch.setattr(one._arming, "cannot", lambda pids: read_pids.append(pids) or "")

    class Target:
        def pids(self) -> list[int]:
            return [10, 11]

    one.read_ahead(Target())  # type: ignore[arg-type]
    for _ in range(500):
        if read_pids:
            break
        time.sleep(0.01)
    assert read_pids == [[10, 11]]
