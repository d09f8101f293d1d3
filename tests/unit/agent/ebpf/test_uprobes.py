"""Attaching programs to instructions, with programs that only remember what they were attached to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent.ebpf import uprobes
from chaosorca.agent.ebpf.uprobes import UPROBE_MULTI, Uprobes, supports_uprobe_multi

PLACES = [(0x10, 1), (0x20, 2), (0x30, 3)]


class FakeProgram:
    """A program that refuses one offset, and remembers the others until they are detached."""

    def __init__(self, types: Mapping[str, int], refused: int = 0) -> None:
        self.types, self.refused = types, refused
        self.attached: dict[int, tuple[Any, ...]] = {}
        self.closed = False

    def fd(self, function: str) -> int:
        return 5

    def close(self) -> None:
        self.closed = True

    def attach_uprobe(self, function: str, path: str, offset: int, cookie: int, at_return: bool) -> int:
        if offset == self.refused:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        self.attached[offset] = (function, path, cookie, at_return)
        return offset

    def detach(self, link: int) -> None:
        del self.attached[link]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Uprobes, list[FakeProgram]]]:
    """Return a function that loads a program on a kernel with or without uprobe_multi."""

    def load_it(multi: bool, refused: int = 0, **options: bool) -> tuple[Uprobes, list[FakeProgram]]:
        loaded: list[FakeProgram] = []

        def program(types: Mapping[str, int]) -> Any:
            loaded.append(FakeProgram(types, refused))
            return loaded[-1]

        monkeypatch.setattr(uprobes, "supports_uprobe_multi", lambda fd: multi)
        return Uprobes(program, ["at_site"], **options), loaded

    return load_it


def test_a_kernel_without_uprobe_multi_gets_the_program_again(load: Any) -> None:
    one, loaded = load(False)
    assert [(program.types, program.closed) for program in loaded] == [({"at_site": UPROBE_MULTI}, True), ({}, False)]
    assert (one.at_once, one.program) == (False, loaded[1])


def test_the_program_is_loaded_once_for_single_probes(load: Any) -> None:
    _one, loaded = load(True, one_by_one=True)
    assert [(program.types, program.closed) for program in loaded] == [({}, False)]


def test_single_probes_are_detached_together(load: Any) -> None:
    one, (_, program) = load(False)
    detach = one.attach("at_site", Path("/lib"), PLACES, at_return=True)
    assert program.attached == {offset: ("at_site", "/lib", cookie, True) for offset, cookie in PLACES}
    detach()
    assert program.attached == {}


def test_no_probe_stays_where_one_is_refused(load: Any) -> None:
    one, (_, program) = load(False, refused=0x30)
    with pytest.raises(OSError, match="Operation not supported"):
        one.attach("at_site", Path("/lib"), PLACES)
    assert program.attached == {}


def test_one_link_holds_all_probes_of_a_file(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = load(True)
    calls: list[Any] = []
    link = os.open("/dev/null", os.O_RDONLY)
    monkeypatch.setattr(uprobes, "attach_uprobes", lambda *arguments: calls.append(arguments) or link)
    one.attach("at_site", Path("/lib"), PLACES)()
    assert calls == [(5, "/lib", [0x10, 0x20, 0x30], [1, 2, 3], False)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(link)


@pytest.mark.parametrize(("number", "supported"), [(errno.EBADF, True), (errno.EINVAL, False), (errno.EPERM, False)])
def test_the_error_for_a_directory_shows_the_support(number: int, supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(uprobes, "attach_uprobes", refuse)
    assert supports_uprobe_multi(5) is supported
