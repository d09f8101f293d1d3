"""The counts that come from tracers."""

from __future__ import annotations

from chaosorca.agent.faults.ledger import Ledger
from chaosorca.agent.histogram import histogram_of


def test_a_forgotten_container_loses_only_its_own_counts() -> None:
    ledger = Ledger()
    for container in ("web", "web", "db"):
        ledger.add_calls(container, "openat", "EACCES", 1)
        ledger.add_injected(container, "openat", "error", 1)
        ledger.add_durations(container, "openat", histogram_of([500_000_000]))
    ledger.add_calls("web", "openat", "", 1)
    assert ledger.calls() == {("web", "openat", "EACCES"): 2, ("db", "openat", "EACCES"): 1, ("web", "openat", ""): 1}
    assert ledger.injected() == {("web", "openat", "error"): 2, ("db", "openat", "error"): 1}
    assert {key: (sum(value.slots), value.sum) for key, value in ledger.durations().items()} == {
        ("web", "openat"): (2, 1.0),
        ("db", "openat"): (1, 0.5),
    }
    ledger.forget("web")
    assert ledger.calls() == {("db", "openat", "EACCES"): 1}
    assert ledger.injected() == {("db", "openat", "error"): 1}
    assert list(ledger.durations()) == [("db", "openat")]


def test_figures_that_were_returned_do_not_change() -> None:
    ledger = Ledger()
    ledger.add_calls("web", "read", "", 1)
    ledger.add_durations("web", "read", histogram_of([1_000_000_000]))
    calls, durations = ledger.calls(), ledger.durations()
    ledger.add_calls("web", "read", "", 1)
    ledger.add_durations("web", "read", histogram_of([1_000_000_000]))
    assert calls == {("web", "read", ""): 1}
    assert durations["web", "read"].sum == 1.0
