"""Faults as users write them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import Fault, parse_fault

X86 = "x86_64"


@pytest.mark.parametrize(
    ("arguments", "text", "effects"),
    [
        ({"syscall": "openat", "error": "EACCES"}, "openat:error=EACCES", ("error",)),
        ({"syscall": "openat", "error": "eacces"}, "openat:error=EACCES", ("error",)),
        ({"syscall": "recvfrom", "error": "EWOULDBLOCK"}, "recvfrom:error=EAGAIN", ("error",)),
        ({"syscall": "read", "delay_enter": "100ms"}, "read:delay_enter=100ms", ("delay_enter",)),
        ({"syscall": "read", "delay_enter": "0.1s"}, "read:delay_enter=100ms", ("delay_enter",)),
        ({"syscall": "read", "delay_exit": "250us"}, "read:delay_exit=250us", ("delay_exit",)),
        (
            {"syscall": "read", "delay_exit": "1s", "delay_enter": "1000us"},
            "read:delay_enter=1ms:delay_exit=1s",
            ("delay_enter", "delay_exit"),
        ),
        (
            {"syscall": "openat,read", "error": "EACCES", "delay_enter": "100ms", "when": "2+"},
            "openat,read:error=EACCES:delay_enter=100ms:when=2+",
            ("delay_enter", "error"),
        ),
        (
            {"syscall": "write", "error": "ENOSPC", "delay_enter": "1ms", "delay_exit": "2ms", "when": "02..09+2"},
            "write:error=ENOSPC:delay_enter=1ms:delay_exit=2ms:when=2..9+2",
            ("delay_enter", "error", "delay_exit"),
        ),
        ({"syscall": "write", "error": "EIO", "when": 3}, "write:error=EIO:when=3", ("error",)),
        ({"syscall": " openat , read ", "error": "EIO"}, "openat,read:error=EIO", ("error",)),
        ({"syscall": "read,openat", "error": "EIO"}, "read,openat:error=EIO", ("error",)),
        ({"syscall": "openat,openat", "error": "EIO"}, "openat:error=EIO", ("error",)),
        ({"syscall": "openat,read,openat, read", "error": "EIO"}, "openat,read:error=EIO", ("error",)),
        ({"syscall": "openat", "error": "EIO", "duration": "5s"}, "openat:error=EIO", ("error",)),
        ({"syscall": "cachestat", "error": "EIO"}, "cachestat:error=EIO", ("error",)),
    ],
)
def test_a_valid_fault_has_one_text_and_survives_json(arguments: dict[str, Any], text: str, effects: tuple[str, ...]) -> None:
    fault = parse_fault(X86, **arguments)
    assert (fault.text, fault.effects) == (text, effects)
    assert Fault.from_json(json.loads(json.dumps(fault.to_json()))) == fault


def test_a_fault_lasts_ten_minutes_by_default() -> None:
    assert parse_fault(X86, "openat", "EIO").duration == 600_000_000
    assert parse_fault(X86, "openat", "EIO", duration="90s").duration == 90_000_000


def test_a_fault_as_json_has_exactly_the_agents_fields() -> None:
    assert parse_fault(X86, "openat", "EACCES", delay_exit="1ms").to_json() == {
        "syscalls": ["openat"],
        "error": "EACCES",
        "retval": None,
        "signal": None,
        "delay_enter": None,
        "delay_exit": 1_000,
        "when": None,
        "probability": 1.0,
        "max_faults": 0,
        "path": None,
        "process": None,
        "duration": 600_000_000,
        "placebo": False,
        "abort_when": None,
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # no effect
        ({"syscall": "openat"}, "the fault on 'openat' has no effect: give one of delay_enter, error, retval, signal, delay_exit"),
        ({"syscall": "openat,read"}, "the fault on 'openat,read' has no effect"),
        ({"syscall": "openat", "when": "3"}, "has no effect"),
        ({"syscall": "openat", "error": ""}, "has no effect"),
        # no system call
        *[
            ({"syscall": syscall, "error": "EIO"}, f"syscall {syscall!r} names no system call")
            for syscall in (
                "",
                " ",
                ",",
                ",,",
                "openat,",
                ",openat",
                "openat,,read",
                "openat, ,read",
                None,
                257,
                True,
                [],
                ["openat"],
            )
        ],
        # one that does not exist
        ({"syscall": "opennat", "error": "EIO"}, "system call 'opennat' does not exist on x86_64: did you mean 'openat'"),
        ({"syscall": "read,opennat", "error": "EIO"}, "system call 'opennat' does not exist"),
        ({"syscall": "sendfile64", "error": "EIO"}, "system call 'sendfile64' does not exist on x86_64: did you mean 'sendfile'"),
        ({"syscall": "openat read", "error": "EIO"}, "system call 'openat read' does not exist"),
        ({"syscall": "openat;read", "error": "EIO"}, "system call 'openat;read' does not exist"),
        ({"syscall": "openat:error=EIO", "error": "EIO"}, "system call 'openat:error=EIO' does not exist"),
        ({"syscall": "OPENAT", "error": "EIO"}, "system call 'OPENAT' does not exist"),
        ({"syscall": "257", "error": "EIO"}, "system call '257' does not exist"),
        ({"syscall": "-1", "error": "EIO"}, "system call '-1' does not exist"),
        ({"syscall": "!openat", "error": "EIO"}, "system call '!openat' does not exist"),
        ({"syscall": "?openat", "error": "EIO"}, "system call '?openat' does not exist"),
        ({"syscall": "/^open", "error": "EIO"}, "system call '/^open' does not exist"),
        ({"syscall": "openat@64", "error": "EIO"}, "system call 'openat@64' does not exist"),
        ({"syscall": "all", "error": "EIO"}, "system call 'all' does not exist"),
        ({"syscall": "none", "error": "EIO"}, "system call 'none' does not exist"),
        ({"syscall": "file", "error": "EIO"}, "system call 'file' does not exist"),
        # classes and families
        *[
            ({"syscall": syscall, "error": "EIO"}, says)
            for syscall, says in (("%fiel", "did you mean 'file'"), ("read,%", "class '%'"), ("*", "matches no system call"))
        ],
        # errors
        ({"syscall": "openat", "error": "EACESS"}, "error 'EACESS' is not a Linux errno: did you mean 'EACCES'"),
        ({"syscall": "openat", "error": "13"}, "error '13' is not a Linux errno"),
        ({"syscall": "openat", "error": "-13"}, "error '-13' is not a Linux errno"),
        ({"syscall": "openat", "error": "EACCES:when=3"}, "is not a Linux errno"),
        ({"syscall": "openat", "error": "EACCES,EIO"}, "is not a Linux errno"),
        ({"syscall": "openat", "error": 13}, "error 13"),
        ({"syscall": "openat", "error": True}, "error True"),
        ({"syscall": "openat", "error": ["EIO"]}, "error ['EIO']"),
        # delays and the duration
        *[
            ({"syscall": "openat", "error": "EIO", name: value}, f"{name} {value!r} has no unit")
            for name in ("delay_enter", "delay_exit", "duration")
            for value in (100, 0, 0.1, "100", "100.0", True)
        ],
        *[
            ({"syscall": "openat", "error": "EIO", name: value}, f"{name} {value!r} is not a duration")
            for name in ("delay_enter", "delay_exit", "duration")
            for value in ("", "soon", "-1s", "1S", "1 s", "100msec", "1ns", list[str](), dict[str, str]())
        ],
        *[
            ({"syscall": "openat", "error": "EIO", name: "0s"}, f"{name} '0s' is zero")
            for name in ("delay_enter", "delay_exit", "duration")
        ],
        ({"syscall": "openat", "error": "EIO", "delay_enter": "0.1us"}, "finer than a microsecond"),
        ({"syscall": "openat", "error": "EIO", "duration": "9000h"}, "longer than a year"),
        ({"syscall": "openat", "error": "EIO", "duration": None}, "duration None is not a duration"),
        # when
        *[
            ({"syscall": "openat", "error": "EIO", "when": when}, "when ")
            for when in (
                *("", " ", "0", "0+", "-1", "1+0", "3..2", "1..", "..3", "1..3+", "65536", "1+65536", "+", "a", "1 +2", "1++2"),
                *("1...3", "1,3", "1-3", 0, -1, 65536, 1.5, 3.0, True, False, list[int](), [3], dict[str, str]()),
            )
        ],
    ],
)
def test_an_invalid_fault_is_refused_with_its_reason(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(says)):
        parse_fault(X86, **arguments)


@pytest.mark.parametrize(
    ("arch", "syscall", "says"),
    [
        ("aarch64", "open", "programs there call 'openat' instead"),
        ("aarch64", "openat,stat", "programs there call 'newfstatat' instead"),
        ("aarch64", "epoll_wait", "exists on x86_64 but not on aarch64"),
    ],
)
def test_a_system_call_of_another_architecture_is_refused(arch: str, syscall: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(says)):
        parse_fault(arch, syscall, "EIO")
