"""What system calls are called; that they are counted is tested on real containers."""

from __future__ import annotations

import pytest

from chaosorca.agent.monitors.syscalls import SyscallMonitor


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (20, "writev"),
        (1 << 31 | 20, "compat:20"),
        (1 << 31, "compat:0"),
        (1 << 30 | 20, "x32:20"),
        (1 << 31 | 1 << 30, "compat:1073741824"),
        (100_000, "unknown:100000"),
    ],
)
def test_calls_of_other_interfaces_have_their_own_numbers(number: int, name: str) -> None:
    assert SyscallMonitor("x86_64")._name(number) == name
