"""Look-up of containers, with a fake client."""

from __future__ import annotations

import re
from typing import Any

import docker.errors
import pytest
import requests

from chaosorca.engine.containers import Container, find_container, name_and_id, select_containers, selected_ids
from chaosorca.exceptions import ContainerError, EngineError, InvalidArgument

ID = "0123456789abcdef" * 4
RUNNING = {"Status": "running", "Running": True, "Paused": False, "Restarting": False, "Pid": 4242}


class FakeContainer:
    def __init__(
        self, name: str, state: dict[str, Any] | None = None, labels: dict[str, str] | None = None, network: str = "bridge"
    ) -> None:
        self.name = name
        self.id = ID
        self.attrs: dict[str, Any] = {
            "Name": f"/{name}",
            "Id": ID,
            "State": {**RUNNING, **(state or {})},
            "Config": {"Labels": labels},
            "HostConfig": {"NetworkMode": network},
        }


class FakeClient:
    """A fake Docker client that can look up containers."""

    def __init__(self, *containers: FakeContainer, error: Exception | None = None) -> None:
        self._all = containers
        self._error = error
        self.containers = self
        self.listed: list[dict[str, Any]] = []

    def get(self, reference: str) -> FakeContainer:
        if self._error:
            raise self._error
        for one in self._all:
            if reference == one.name or one.attrs["Id"].startswith(reference):
                return one
        raise docker.errors.NotFound(f"No such container: {reference}")

    def list(self, **options: Any) -> list[FakeContainer]:
        if self._error:
            raise self._error
        self.listed.append(options)
        wanted = options.get("filters", {}).get("label")
        if wanted is None:
            return list(self._all)
        key, _, value = wanted.partition("=")
        return [one for one in self._all if (one.attrs["Config"]["Labels"] or {}).get(key) == value]


@pytest.mark.parametrize("reference", ["web", ID, ID[:12]])
@pytest.mark.parametrize(
    ("network", "on_host", "shared"),
    [("bridge", False, False), ("host", True, False), ("default", False, False), ("container:x", False, True)],
)
def test_a_running_container_is_found_by_name_id_and_prefix(reference: str, network: str, on_host: bool, shared: bool) -> None:
    found = find_container(FakeClient(FakeContainer("web", network=network)), reference)
    assert found == Container("web", ID, 4242, on_host, shared)
    assert found.to_json() == {"name": "web", "id": ID, "pid": 4242, "host_network": on_host, "shared_network": shared}


@pytest.mark.parametrize(
    ("reference", "removed", "found"),
    [
        ("web", [], ("web", ID)),
        (ID[:12], [("web", "f" * 64)], ("web", ID)),
        ("gone", [("gone", "a" * 64), ("other", "b" * 64)], ("gone", "a" * 64)),
        ("b" * 12, [("gone", "a" * 64), ("other", "b" * 64)], ("other", "b" * 64)),
        ("bb", [("other", "b" * 64), ("bb", "a" * 64)], ("bb", "a" * 64)),
        ("missing", [("gone", "a" * 64)], None),
    ],
)
def test_a_name_takes_precedence_over_an_id_prefix(
    reference: str, removed: list[tuple[str, str]], found: tuple[str, str] | None
) -> None:
    assert name_and_id(FakeClient(FakeContainer("web")), reference, removed) == found


@pytest.mark.parametrize(
    ("reference", "removed", "ids"),
    [
        ("web", [], [ID]),
        ("web", [("web", ID), ("other", "b" * 64)], [ID]),
        ("web", [("web", "a" * 64), ("other", "b" * 64), ("web", ID)], [ID, "a" * 64]),  # it was re-created
        (ID[:12], [("web", "a" * 64)], [ID, "a" * 64]),
        ("gone", [("gone", "a" * 64), ("gone", "a" * 64)], ["a" * 64]),
        ("missing", [("gone", "a" * 64)], []),
    ],
)
def test_a_rollback_finds_the_current_and_earlier_containers_of_a_name(
    reference: str, removed: list[tuple[str, str]], ids: list[str]
) -> None:
    assert selected_ids(FakeClient(FakeContainer("web")), reference, None, removed) == ids


def test_a_rollback_by_label_finds_containers_in_any_state() -> None:
    ended = {"Running": False, "Status": "exited"}
    client = FakeClient(FakeContainer("web", ended, {"app": "shop"}), FakeContainer("other"))
    assert selected_ids(client, None, "app=shop", []) == [ID]
    assert client.listed[0]["all"] is True
    assert selected_ids(client, None, "app=none", []) == []
    with pytest.raises(EngineError, match="looking for containers with label 'app=none'"):
        selected_ids(FakeClient(error=docker.errors.APIError("500 Server Error")), None, "app=none", [])


@pytest.mark.parametrize(
    ("state", "labels", "says"),
    [
        ({}, {"chaosorca.role": "agent"}, "container 'web' is one of chaosorca's own: choose another"),
        ({}, {"chaosorca.role": ""}, "is one of chaosorca's own"),
        ({}, {"chaosorca.protected": "true"}, "is protected by its label chaosorca.protected=true: choose another"),
        ({}, {"chaosorca.protected": "TRUE"}, "is protected by its label"),
        ({"Paused": True, "Status": "paused"}, None, "is paused: unpause it with `docker unpause web`"),
        ({"Running": False, "Status": "exited"}, None, "is not running (exited): start it with `docker start web`"),
        ({"Running": False, "Status": "created"}, {}, "is not running (created)"),
        ({"Running": False, "Status": "dead"}, None, "is not running (dead)"),
        ({"Restarting": True, "Status": "restarting"}, None, "is not running (restarting)"),
        ({"Running": False, "Status": "exited"}, {"chaosorca.protected": "true"}, "is protected"),
    ],
)
def test_a_container_that_must_not_be_touched_is_refused(state: dict[str, Any], labels: Any, says: str) -> None:
    client = FakeClient(FakeContainer("web", state, labels))
    with pytest.raises(ContainerError, match=re.escape(says)):
        find_container(client, "web")
    with pytest.raises(ContainerError, match=re.escape(says)):
        select_containers(client, "web", None)


@pytest.mark.parametrize("labels", [None, {}, {"chaosorca.protected": "false"}, {"chaosorca.protected": ""}, {"a": "b"}])
def test_other_labels_do_not_matter(labels: Any) -> None:
    assert find_container(FakeClient(FakeContainer("web", labels=labels)), "web").name == "web"


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("webb", "container 'webb' does not exist: did you mean 'web'?"),
        ("database", "container 'database' does not exist: did you mean 'database-1'?"),
        ("qqqqqqqq", "container 'qqqqqqqq' does not exist"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_names(reference: str, says: str) -> None:
    client = FakeClient(FakeContainer("web"), FakeContainer("database-1", {"Running": False, "Status": "exited"}))
    with pytest.raises(ContainerError) as caught:
        find_container(client, reference)
    assert str(caught.value) == says
    assert client.listed[0]["all"] is True


@pytest.mark.parametrize("reference", ["", " ", None, 5, ["web"]])
def test_an_invalid_name_is_refused_before_any_request_to_the_engine(reference: Any) -> None:
    with pytest.raises(InvalidArgument, match="is not a name: give a container's name or id"):
        find_container(FakeClient(error=AssertionError("asked")), reference)


@pytest.mark.parametrize("error", [docker.errors.APIError("500 Server Error"), requests.ConnectionError("reset")])
def test_an_engine_that_fails_is_an_error_of_the_engine(error: Exception) -> None:
    with pytest.raises(EngineError, match="while looking for container 'web'"):
        find_container(FakeClient(error=error), "web")


def test_a_label_selects_all_containers_that_have_it_by_name() -> None:
    labels = {"app": "shop"}
    client = FakeClient(FakeContainer("b", labels=labels), FakeContainer("other"), FakeContainer("a", labels=labels))
    assert [one.name for one in select_containers(client, None, "app=shop")] == ["a", "b"]


@pytest.mark.parametrize(
    ("container", "label", "kind", "says"),
    [
        (None, None, InvalidArgument, "give exactly one of container and label"),
        ("web", "app=shop", InvalidArgument, "give exactly one of container and label"),
        (None, "app", InvalidArgument, "label 'app' is not written as key=value"),
        (None, "", InvalidArgument, "is not written as key=value"),
        (None, 5, InvalidArgument, "is not written as key=value"),
        (None, "app=none", ContainerError, "no running container has the label 'app=none'"),
        (None, "app=mixed", ContainerError, "container 'guarded' is protected"),
    ],
)
def test_an_invalid_selection_is_refused(container: Any, label: Any, kind: type[Exception], says: str) -> None:
    client = FakeClient(
        FakeContainer("web", labels={"app": "mixed"}),
        FakeContainer("guarded", labels={"app": "mixed", "chaosorca.protected": "true"}),
    )
    with pytest.raises(kind, match=says):
        select_containers(client, container, label)
