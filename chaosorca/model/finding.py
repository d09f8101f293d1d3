"""What an examination of a host has found: one line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

MARKS = ("ok", "note", "no")


@dataclass(frozen=True)
class Finding:
    """Attributes:
    mark: `ok`; `note` for what is to be known; `no` for what cannot be done here.
    name: what was looked at.
    found: what was found.
    todo: what to do about it; never empty for a `no`.
    """

    mark: str
    name: str
    found: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.mark:<5} {self.name:<20} {self.found}" + (f": {self.todo}" if self.todo else "")

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON."""
        return asdict(self)


def ok(name: str, found: str) -> Finding:
    """A finding that all is well."""
    return Finding("ok", name, found)


def note(name: str, found: str, todo: str = "") -> Finding:
    """A finding that is to be known."""
    return Finding("note", name, found, todo)


def no(name: str, found: str, todo: str) -> Finding:
    """A finding that something cannot be done."""
    return Finding("no", name, found, todo)


def merged(*several: Iterable[Finding]) -> list[Finding]:
    """All findings in their order; the last one of a name takes the place of the others."""
    by_name: dict[str, Finding] = {}
    for findings in several:
        by_name.update({finding.name: finding for finding in findings})
    return list(by_name.values())
