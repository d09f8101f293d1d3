"""The result of one check of `doctor`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

MARKS = ("ok", "note", "no")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        mark: `ok`, `note` (a limitation or a hint) or `no` (something does not work on this host).
        name: what was checked.
        found: what was found.
        todo: what to do about a limitation. A finding with the mark `no` always has this text.
    """

    mark: str
    name: str
    found: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.mark:<5} {self.name:<20} {self.found}" + (f": {self.todo}" if self.todo else "")

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON."""
        return asdict(self)


def ok(name: str, found: str) -> Finding:
    """Return the finding of a check that passed."""
    return Finding("ok", name, found)


def note(name: str, found: str, todo: str = "") -> Finding:
    """Return a finding with a limitation or a hint."""
    return Finding("note", name, found, todo)


def no(name: str, found: str, todo: str) -> Finding:
    """Return a finding that something does not work on this host."""
    return Finding("no", name, found, todo)


def merged(*several: Iterable[Finding]) -> list[Finding]:
    """Return all findings in order. A later finding replaces an earlier one that has the same name."""
    by_name: dict[str, Finding] = {}
    for findings in several:
        by_name.update({finding.name: finding for finding in findings})
    return list(by_name.values())
