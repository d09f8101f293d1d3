"""The ledger of the calls that only the tracers report, because the eBPF programs do not count or time these calls."""

from __future__ import annotations

import threading
from collections import Counter

from chaosorca.agent.histogram import Histogram


class Ledger:
    """The counts of all faults, by container. The threads that process the tracers' records add counts. The exporter reads them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the three tables
        self._calls: Counter[tuple[str, str, str]] = Counter()
        self._durations: dict[tuple[str, str], Histogram] = {}
        self._injected: Counter[tuple[str, str, str]] = Counter()

    def add_calls(self, container: str, syscall: str, error: str, count: int) -> None:
        """Add calls that never entered the kernel."""
        with self._lock:
            self._calls[container, syscall, error] += count

    def add_durations(self, container: str, syscall: str, durations: Histogram) -> None:
        """Add the durations of calls that the kernel does not time."""
        with self._lock:
            self._durations.setdefault((container, syscall), Histogram()).merge(durations)

    def add_injected(self, container: str, syscall: str, effect: str, count: int) -> None:
        """Add injected calls."""
        with self._lock:
            self._injected[container, syscall, effect] += count

    def calls(self) -> dict[tuple[str, str, str], int]:
        """Return the calls by container, system call and errno."""
        with self._lock:
            return dict(self._calls)

    def durations(self) -> dict[tuple[str, str], Histogram]:
        """Return the latency histograms by container and system call."""
        with self._lock:
            return {key: Histogram(list(value.slots), value.sum) for key, value in self._durations.items()}

    def injected(self) -> dict[tuple[str, str, str], int]:
        """Return the injected calls by container, system call and effect."""
        with self._lock:
            return dict(self._injected)

    def calls_of(self, container: str) -> Counter[str]:
        """Return the calls of a container that never entered the kernel, by system call."""
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
