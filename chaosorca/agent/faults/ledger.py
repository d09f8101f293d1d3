"""What the tracers say that programs experienced: the calls that the kernel's own count leaves out, or times wrongly."""

from __future__ import annotations

import threading
from collections import Counter

from chaosorca.agent.histogram import Histogram


class Ledger:
    """Counts of all faults, by container; written by the tracers' threads, read by the exporter."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[tuple[str, str, str]] = Counter()
        self._durations: dict[tuple[str, str], Histogram] = {}
        self._injected: Counter[tuple[str, str, str]] = Counter()

    def called(self, container: str, syscall: str, error: str, count: int) -> None:
        """Calls that the kernel did not count."""
        with self._lock:
            self._calls[container, syscall, error] += count

    def took(self, container: str, syscall: str, durations: Histogram) -> None:
        """The durations of calls that the kernel did not time."""
        with self._lock:
            self._durations.setdefault((container, syscall), Histogram()).merge(durations)

    def injected(self, container: str, syscall: str, effect: str, count: int) -> None:
        """Calls that were tampered with."""
        with self._lock:
            self._injected[container, syscall, effect] += count

    def calls(self) -> dict[tuple[str, str, str], int]:
        """Calls by container, system call and errno."""
        with self._lock:
            return dict(self._calls)

    def durations(self) -> dict[tuple[str, str], Histogram]:
        """Latency histograms by container and system call."""
        with self._lock:
            return {key: Histogram(list(value.slots), value.sum) for key, value in self._durations.items()}

    def injections(self) -> dict[tuple[str, str, str], int]:
        """Calls tampered with, by container, system call and effect."""
        with self._lock:
            return dict(self._injected)

    def called_by(self, container: str) -> Counter[str]:
        """Calls of a container that the kernel did not count, by system call."""
        found: Counter[str] = Counter()
        for (name, syscall, _error), count in self.calls().items():
            if name == container:
                found[syscall] += count
        return found

    def forget(self, container: str) -> None:
        """Drop all counts of a container."""
        with self._lock:
            self._calls = Counter({key: value for key, value in self._calls.items() if key[0] != container})
            self._durations = {key: value for key, value in self._durations.items() if key[0] != container}
            self._injected = Counter({key: value for key, value in self._injected.items() if key[0] != container})
