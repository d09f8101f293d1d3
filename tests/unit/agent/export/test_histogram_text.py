"""Histograms in Prometheus's text format."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from chaosorca.agent.export.endpoint import in_text
from chaosorca.agent.export.families import families
from tests.support.exposition import full_snapshot, histogram, text_of


def parsed(written: str) -> dict[str, tuple[str, str, dict[Any, float]]]:
    """Return the families of a text by name, whatever their order."""
    return {
        family.name: (
            family.type,
            family.documentation,
            {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples},
        )
        for family in text_string_to_metric_families(written)
    }


def test_the_text_equals_that_of_the_library() -> None:
    snapshot = full_snapshot()
    snapshot.syscall_durations["we\\b", 'read"\n'] = histogram(1e-7, 0.25, 100.0)
    ours, library = in_text(list(families(snapshot))).decode(), text_of(families(snapshot))
    assert parsed(ours) == parsed(library)
