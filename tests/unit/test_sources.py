"""Which faults belong to a container."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from chaosorca import sources
from chaosorca.exceptions import ContainerError
from tests.support.records import fault_record

FAULTS = [
    fault_record(id="1", container="web", container_id="aaa"),
    fault_record(id="2", container="db", container_id="bbb"),
    fault_record(id="3", container="web", container_id="ccc"),
]


@pytest.mark.parametrize(
    ("asked", "found", "expected"),
    [
        ("web", ("web", "ccc"), ["1", "3"]),  # re-created after the first fault
        ("ccc", ("web", "ccc"), ["1", "3"]),
        ("web", ("web", "ddd"), ["1", "3"]),  # re-created once more
        ("db", ("db", "bbb"), ["2"]),
        ("new-name", ("new-name", "bbb"), ["2"]),
        ("other", ("other", "eee"), []),
    ],
)
def test_faults_belong_to_a_containers_id_and_to_its_name(
    asked: str, found: tuple[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "connect", lambda configuration: None)
    monkeypatch.setattr(sources, "find_agent", lambda client: SimpleNamespace(faults=lambda: FAULTS))
    monkeypatch.setattr(sources, "name_and_id", lambda client, reference, known: found)
    assert [one.id for one in sources.faults_on(asked, None)] == expected


def test_an_unknown_container_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "connect", lambda configuration: None)
    monkeypatch.setattr(sources, "find_agent", lambda client: None)
    monkeypatch.setattr(sources, "name_and_id", lambda client, reference, known: None)
    with pytest.raises(ContainerError, match=r"^container 'web' does not exist, and no fault was started on it$"):
        sources.faults_on("web", None)
