"""Metrics show what the program experienced. They are compared with a program that counts and times its own calls."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from chaosorca.actions.monitoring import start_monitoring, stop_monitoring
from chaosorca.model.errno import errno_name
from tests.support.agent_state import scrape
from tests.support.observer import INJECTORS, Observers, Round, fault_on

pytestmark = pytest.mark.usefixtures("one_agent_for_all")


REPEATS = 40
FAULTS: list[dict[str, Any]] = [
    {"error": "EIO"},
    {"error": "EIO", "when": "2+2"},
    {"delay_enter": "20ms", "when": "1+4"},
    {"delay_exit": "20ms"},
    {"delay_enter": "10ms", "delay_exit": "10ms", "when": "3..30"},
    {"error": "EAGAIN", "delay_enter": "20ms"},
    {"retval": 9, "delay_exit": "20ms", "when": "1+2"},
    {"signal": "SIGURG", "when": "5+"},
    {"delay_enter": "20ms", "placebo": True},
]
ONLY_OURS: list[dict[str, Any]] = [
    {"delay_enter": "20ms", "probability": 0.3},
    {"error": "EIO", "delay_exit": "20ms", "max_faults": 1000},
]


@pytest.mark.parametrize(
    ("injector", "fault"),
    [(injector, fault) for injector in INJECTORS for fault in (FAULTS if injector != "strace" else FAULTS[1:4])]
    + [("uprobe", fault) for fault in ONLY_OURS],
    ids=str,
)
def test_counts_and_durations_are_the_programs_own(injector: str, fault: dict[str, Any], observers: Observers) -> None:
    observer = observers.get("dynamic")
    observer.prepare(Round(["getpriority"], REPEATS, threads=3, children=2))
    start_monitoring(container=observer.name, http=False, resources=False)
    try:
        with fault_on(observer, injector, syscall="getpriority", **fault) as running:
            workers = observer.run()
        figures = scrape()
    finally:
        stop_monitoring(container=observer.name)

    tally: Counter[str] = Counter()
    for worker in workers:
        for result, times in worker.tally.items():
            tally[errno_name(-result) if result < 0 else ""] += times
    assert sum(tally.values()) == REPEATS * len(workers)
    total = 'chaosorca_syscalls_total{container="%s",error="%s",syscall="getpriority"}'
    counted = {error: figures[total % (observer.name, error)] for error in tally}
    assert counted == dict(tally)
    assert sum(
        value for name, value in figures.items() if name.startswith("chaosorca_syscalls_total") and "getpriority" in name
    ) == (sum(tally.values()))

    duration = f'chaosorca_syscall_duration_seconds_%s{{container="{observer.name}",syscall="getpriority"}}'
    assert figures[duration % "count"] == sum(tally.values())
    took = sum(sum(worker.seconds) for worker in workers)
    # The program's own clock includes the way into the kernel and back, some microseconds for each traced call. A pause of the
    # machine may lie on this way. It is no longer than the longest delayed call.
    delay = sum(int(text.removesuffix("ms")) for name, text in fault.items() if name.startswith("delay")) / 1000
    overhead = 0.0005 * sum(tally.values()) + sum(max(0, max(worker.seconds) - delay) for worker in workers)
    assert took - overhead < figures[duration % "sum"] <= took

    injected = sum(running.injected.values())
    assert injected == sum(value for name, value in figures.items() if name.startswith("chaosorca_faults_injected_total"))
    if "error" in fault:
        assert injected == sum(times for error, times in tally.items() if error)
