"""Turns the records that tracers write (native/report.h) into the calls, ended faults and warnings of a session."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from pathlib import Path

from chaosorca.agent.histogram import histogram_of
from chaosorca.agent.injectors.session import Calls, OnCalls
from chaosorca.agent.linux import proc as procfs
from chaosorca.model.errno import errno_name

RECORD = struct.Struct("=IIiiqQQII")
"""`struct record`."""

CALL, DONE, REFUSED, ENDED, FOREIGN, LOST, EXEC = range(1, 8)
"""`enum record_kind`."""

_SPENT = 1
_EFFECT_BITS = {1: "delay_enter", 2: "error", 4: "retval", 8: "signal", 16: "delay_exit"}
_REPLACED, _RETURNED = 0x100, 0x200


class Records:
    """Turns the records of a session's tracers into calls, ended faults and warnings."""

    def __init__(self, names: dict[int, str], on_calls: OnCalls, on_event: Callable[[int, int, int], None]) -> None:
        """
        Arguments:
            names: the names of system calls by number.
            on_calls: receives the calls that a fault was injected into.
            on_event: receives the kind, rule and thread of each record that is no call. This object processes the record first.
        """
        self._names = names
        self._on_calls = on_calls
        self._on_event = on_event
        self.ended: dict[int, str] = {}
        """The faults that have ended by themselves, each with the reason."""

        self._foreign: set[int] = set()
        # Guards `_lost`. Each tracer has its own thread, which reads its records.
        self._lock = threading.Lock()
        self._lost = 0

    def take_calls(self, key: int, nr: int, value: int, flags: int, took: list[int]) -> None:
        """Process calls with the same outcome; see `on_calls` of `Tracer`."""
        effects = tuple(name for bit, name in _EFFECT_BITS.items() if flags & bit)
        replaced = bool(flags & _REPLACED)
        self._on_calls(
            Calls(
                key=key,
                syscall=self._names.get(nr, f"unknown:{nr}"),
                error=errno_name(-value) if -4096 < value < 0 else "",
                effects=effects,
                replaced=replaced,
                timed=replaced or not {"delay_enter", "delay_exit"}.isdisjoint(effects),
                returned=bool(flags & _RETURNED),
                count=len(took),
                durations=histogram_of(took),
            )
        )

    def take_event(self, kind: int, key: int, thread: int, value: int) -> None:
        """Process a record that is neither a call nor an answer; see `on_event` of `Tracer`."""
        if kind == ENDED:
            self.ended[key] = "its budget was spent" if value == _SPENT else "its duration was over"
        elif kind == FOREIGN:
            self._foreign.add(thread)
        elif kind == LOST:
            with self._lock:
                self._lost += value
        self._on_event(kind, key, thread)

    def warnings(self, proc: Path) -> list[str]:
        """Return one warning for each thread whose calls cannot be injected, and one warning if records are missing.

        Arguments:
            proc: the proc file system. Threads that have ended are not listed there, so they get no warning.
        """
        result = [
            f"thread {tid} ({procfs.command_name(proc, tid)}) makes 32-bit system calls, which are not injected"
            for tid in sorted(self._foreign)
            if procfs.command_name(proc, tid)
        ]
        if self._lost:
            result.append(f"{self._lost} injected calls are missing from the figures: the agent did not read them in time")
        return result
