"""Identities of files, while their metadata and their content change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chaosorca.agent.linux import identities
from chaosorca.agent.linux.identities import Identities


def test_a_probed_file_keeps_its_identity_when_its_metadata_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"code")
    found = Identities()

    def is_another(change: Callable[[], object], has_probes: bool) -> bool:
        before = found.of(program, lambda identity: has_probes)
        time.sleep(0.01)
        change()
        return found.of(program, lambda identity: identity == before and has_probes) != before

    monkeypatch.setattr(identities, "_has_stable_inodes", lambda device: False)
    assert is_another(lambda: program.chmod(0o711), has_probes=True), "the overlay may have copied it"
    monkeypatch.setattr(identities, "_has_stable_inodes", lambda device: True)
    assert not is_another(lambda: program.chmod(0o700), has_probes=True)
    assert not is_another(lambda: os.link(program, tmp_path / "other"), has_probes=True)
    assert is_another(lambda: program.chmod(0o755), has_probes=False)
    assert is_another(lambda: program.write_bytes(b"other code"), has_probes=True)
