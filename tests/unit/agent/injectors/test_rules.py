"""A fault in the words of the tracer's command `add`."""

from __future__ import annotations

from typing import Any

import pytest

from chaosorca.agent.injectors.rules import rule_words
from chaosorca.model.fault import parse_fault
from chaosorca.model.syscall_table import syscall_numbers

X86 = syscall_numbers("x86_64")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"syscall": "openat", "error": "EACCES"}, "calls=257 error=13 first=1 step=1"),
        ({"syscall": "openat,read", "retval": 0}, "calls=257,0 retval=0 first=1 step=1"),
        ({"syscall": "read", "signal": "SIGUSR1", "when": "3"}, "calls=0 signal=10 first=3 last=3 step=1"),
        ({"syscall": "read", "delay_enter": "250us", "when": "2..9+2"}, "calls=0 enter_ns=250000 first=2 last=9 step=2"),
        ({"syscall": "read", "delay_exit": "1s", "when": "5+"}, "calls=0 exit_ns=1000000000 first=5 step=1"),
        ({"syscall": "read", "error": "EIO", "probability": 0.5}, f"calls=0 error=5 first=1 step=1 threshold={2**63}"),
        ({"syscall": "read", "error": "EIO", "probability": 1e-9}, "calls=0 error=5 first=1 step=1 threshold=18446744073"),
        ({"syscall": "read", "error": "EIO", "max_faults": 3}, "calls=0 error=5 first=1 step=1 budget=3"),
        ({"syscall": "read", "error": "EIO", "path": "/a:b"}, "calls=0/f0 error=5 first=1 step=1 path=2f613a62"),
        (
            {"syscall": "openat,statx,symlinkat,mmap", "error": "EIO", "path": "/é"},
            "calls=257/p1@0,332/p1@0!2,266/l2@1,9/f4 error=5 first=1 step=1 path=2fc3a9",
        ),
        ({"syscall": "read", "error": "EIO", "process": "a b"}, "calls=0 error=5 first=1 step=1 process=612062"),
        ({"syscall": "read", "error": "EIO", "placebo": True}, "calls=0 error=5 first=1 step=1 placebo=1"),
    ],
)
def test_a_fault_in_the_tracers_words(arguments: dict[str, Any], words: str) -> None:
    assert rule_words(7, 3, parse_fault("x86_64", **arguments), X86, 1500) == f"7 slot=3 deadline_ms=1500 {words}"


def test_all_system_calls_of_a_path_have_their_arguments() -> None:
    fault = parse_fault("x86_64", "%file,%desc", error="EIO", path="/x")
    assert all("/" in call for call in rule_words(1, 0, fault, X86, 1).split("calls=")[1].split()[0].split(","))
