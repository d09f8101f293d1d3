"""Findings of an examination."""

from __future__ import annotations

from chaosorca.model.finding import merged, no, note, ok


def test_a_finding_is_one_line() -> None:
    assert str(ok("Docker", "is there")) == "ok    Docker               is there"
    assert str(no("ptrace", "is denied", "allow it")) == "no    ptrace               is denied: allow it"
    assert str(note("pause", "freezes")) == "note  pause                freezes"
    assert merged([ok("a", "1"), ok("b", "1")], [ok("a", "2")]) == [ok("a", "2"), ok("b", "1")]
