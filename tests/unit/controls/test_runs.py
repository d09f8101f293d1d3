"""The controls in runs by Chaos Toolkit, declared in the experiment or in the settings. The engine is a fake."""

from __future__ import annotations

import copy
import csv
import itertools
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaoslib.control import cleanup_global_controls, load_global_controls
from chaoslib.exceptions import InterruptExecution
from chaoslib.experiment import run_experiment
from chaoslib.types import Dry

from chaosorca.actions import faults as fault_actions
from chaosorca.actions import prometheus as prometheus_actions
from chaosorca.controls import observe, results, verdict, work
from chaosorca.controls import run as run_module
from chaosorca.engine import agent, prometheus
from chaosorca.exceptions import PrometheusError
from chaosorca.metrics import measure, tables
from chaosorca.metrics.tables import Table
from chaosorca.model.container import Container
from chaosorca.model.record import FaultRecord
from chaosorca.model.times import iso
from tests.support.records import fault_record

WEB = Container(name="web", id="w" * 64, pid=7, host_network=False, shared_network=False)
CONTROLS = ("export", "observe", "verify", "cleanup")
REASON = "fault 'break' never fired on container 'web' (at least 1 call expected)"


class FakeEngine:
    """An engine with the container `web`. It is also its agent, which has gone if no fault is active, and its Prometheus."""

    def __init__(self) -> None:
        self.records: list[FaultRecord] = []
        self.prometheus = False
        self.reads = 0
        self.asked = 0
        self.interrupts = 0
        """How many times SIGTERM interrupts the ending of faults."""

    def version(self) -> dict[str, str]:
        return {"Arch": "amd64"}

    def find_agent(self, *_: Any) -> FakeEngine | None:
        return self if any(one.active for one in self.records) else None

    def ask(self, operation: str, **given: Any) -> dict[str, Any]:
        assert operation == "start_fault"
        began = time.time()
        record = fault_record(id=given["fault_id"], run=given["run"], injected={}, begins=began, ends=began + 600, ended=None)
        self.records.append(record)
        about = {"name": WEB.name, "id": WEB.id, "attached": 3, "not_attached": [], "injector": "uprobe", "warnings": []}
        return {**about, "begins": iso(record.begins), "ends": iso(record.ends)}

    def faults(self) -> list[FaultRecord]:
        self.asked += 1
        return self.records

    def stop_fault(self, **_: Any) -> list[FaultRecord]:
        if self.interrupts:
            self.interrupts -= 1
            raise InterruptExecution("SIGTERM signal received")
        self.records = [replace(one, ended=one.begins + 1, reason="it was stopped") for one in self.records]
        return self.records

    def start_prometheus(self, **_: Any) -> dict[str, Any]:
        self.prometheus = True
        return {"url": "http://127.0.0.1:1", "started": True}

    def stop_prometheus(self, *_: Any, **__: Any) -> dict[str, Any]:
        self.prometheus = False
        return {"stopped": True}

    def open_prometheus(self, _: Any) -> FakeEngine:
        if not self.prometheus:
            raise PrometheusError("Prometheus is not running")
        self.reads += 1
        return self


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    one = FakeEngine()
    for module in (fault_actions, run_module, work, observe, prometheus_actions):
        monkeypatch.setattr(module, "connect", lambda _: one)
    for module in (fault_actions, run_module, work):
        monkeypatch.setattr(module, "find_agent", one.find_agent)
    for module in (fault_actions, work, agent):
        monkeypatch.setattr(module, "retire_agent", lambda _: True)
    monkeypatch.setattr(fault_actions, "ensure_agent", lambda *_: one)
    monkeypatch.setattr(fault_actions, "count_processes", lambda *_: 3)
    for module in (fault_actions, observe):
        monkeypatch.setattr(module, "select_containers", lambda *_: [WEB])
    monkeypatch.setattr(observe, "is_running", lambda _: one.prometheus)
    monkeypatch.setattr(observe, "start_prometheus", one.start_prometheus)
    monkeypatch.setattr(observe, "stop_prometheus", one.stop_prometheus)
    monkeypatch.setattr(observe, "start_monitoring", lambda **_: [{"name": "web", "new": True}])
    monkeypatch.setattr(observe, "stop_monitoring", lambda **_: {"stopped": ["web"]})
    monkeypatch.setattr(measure, "wait_for_scrapes", lambda *_: None)
    monkeypatch.setattr(prometheus, "stop_prometheus", one.stop_prometheus)
    for module in (observe, results):
        monkeypatch.setattr(module, "open_prometheus", one.open_prometheus)
    monkeypatch.setattr(tables, "monitored_containers", lambda *_: ["web"])
    monkeypatch.setattr(tables, "read_table", lambda *_: Table([float(at) for at in range(one.reads)], {"x": [1.0] * one.reads}))
    return one


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    cleanup_global_controls()


def python(module: str, **more: Any) -> dict[str, Any]:
    return {"type": "python", "module": f"chaosorca.{module}", **more}


def declared(names: Any) -> dict[str, Any]:
    return {f"my-{name}": {"provider": python(f"controls.{name}")} for name in names}


def experiment(*names: str, rollbacks: Any = ()) -> dict[str, Any]:
    """Return an experiment with a fault that never fires, and with these controls of its own."""
    start = python("actions.faults", func="start_fault", arguments={"syscall": "openat", "error": "EIO", "container": "web"})
    own = [{"name": name, **control} for name, control in declared(names).items()]
    return {
        "title": "does it happen",
        "description": "a fault that never fires",
        **({"controls": own} if own else {}),
        "method": [{"type": "action", "name": "break", "provider": start}],
        "rollbacks": list(rollbacks),
    }


def run(given: dict[str, Any], *global_controls: str) -> dict[str, Any]:
    settings = {"controls": declared(global_controls)}
    load_global_controls(settings)
    return run_experiment(given, settings)


def read_results() -> tuple[str, list[str], int]:
    """Return the report, the kinds of events and the number of rows of a table, from the only directory of results."""
    (directory,) = Path("chaosorca-results").iterdir()
    happened = [row["event"] for row in csv.DictReader((directory / "events.csv").open())]
    return (directory / "report.html").read_text(), happened, len((directory / "web" / "cpu.csv").read_text().splitlines()) - 1


STOP_PROMETHEUS = {"type": "action", "name": "stop it", "provider": python("actions.prometheus", func="stop_prometheus")}
PLACES = [CONTROLS[:count] for count in range(5)] + [("observe",), ("cleanup", "verify"), ("verify",), ("observe", "cleanup")]


@pytest.mark.parametrize("prometheus_goes", [False, True])
@pytest.mark.parametrize("of_all", PLACES, ids=lambda names: "-".join(names) or "none")
def test_controls_work_together_wherever_they_are_declared(
    of_all: tuple[str, ...], prometheus_goes: bool, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    given = experiment(*(name for name in CONTROLS if name not in of_all), rollbacks=[STOP_PROMETHEUS] if prometheus_goes else [])
    before = copy.deepcopy(given)
    journal = run(given, *of_all)

    assert (journal["status"], journal["chaosorca"]) == ("failed", {"failed": [REASON]})
    assert journal["experiment"] == given == before
    page, happened, rows = read_results()
    assert f'<p class="bad">{REASON}</p>' in page
    assert [event for event in happened if event.startswith("fault")] == ["fault_begin", "fault_end"]
    # `observe` opens Prometheus once, the collection before the rollbacks once, and the end once more if it still runs.
    assert rows == (2 if prometheus_goes else 3)
    assert not engine.prometheus
    said = ["cleanup: ended fault", "verify: ", "export: wrote the report"]
    places = [[index for index, line in enumerate(caplog.messages) if line.startswith(text)] for text in said]
    assert places == sorted(places)
    assert [len({caplog.messages[index] for index in one}) for one in places] == [1, 1, 1]
    assert run_module.current_run() is None


@pytest.mark.parametrize("order", list(itertools.permutations(CONTROLS)), ids="-".join)
def test_the_order_of_controls_does_not_matter(order: tuple[str, ...], engine: FakeEngine) -> None:
    journal = run(experiment(*order))
    assert journal["chaosorca"] == {"failed": [REASON]}
    assert engine.asked == 3, "after the method, before the rollbacks and at the end"
    page, happened, rows = read_results()
    assert (REASON in page, "fault_end" in happened, rows) == (True, True, 3)


@pytest.mark.parametrize("of_all", [(), CONTROLS])
def test_an_interrupted_end_is_completed_by_the_cleanup(of_all: tuple[str, ...], engine: FakeEngine) -> None:
    engine.interrupts = 1
    run(experiment(*(CONTROLS if not of_all else ())), *of_all)
    assert [one.active for one in engine.records] == [False]
    assert not engine.prometheus


def test_a_control_that_is_declared_twice_works_once(engine: FakeEngine) -> None:
    run(experiment(*CONTROLS), *CONTROLS)
    read_results()


def test_each_run_of_an_experiment_has_results_of_its_own(engine: FakeEngine) -> None:
    given = experiment("export", "cleanup")
    for count in (1, 2):
        engine.prometheus = True
        engine.records = []
        run(given)
        directories = sorted(Path("chaosorca-results").iterdir())
        assert len(directories) == count
        assert (directories[-1] / "events.csv").read_text().count("fault_begin") == 1


def test_two_exports_of_one_run_write_both(engine: FakeEngine, tmp_path: Path) -> None:
    given = experiment("cleanup")
    for name in ("one", "two"):
        provider = python("controls.export", arguments={"directory": f"{tmp_path}/${{prefix}}-{name}", "report": False})
        given["controls"].append({"name": name, "provider": provider})
    given["configuration"] = {"prefix": "out"}
    engine.prometheus = True
    run(given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-one", "out-two"]


def test_a_control_with_scope_before_gives_no_verdict(engine: FakeEngine) -> None:
    given = experiment("verify", "cleanup")
    given["controls"][0]["scope"] = "before"
    journal = run(given)
    assert (journal["status"], "chaosorca" in journal) == ("completed", False)


def test_an_interruption_before_the_rollbacks_is_in_the_journal(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise InterruptExecution("SIGTERM signal received")

    monkeypatch.setattr(work, "before_rollbacks", interrupted)
    engine.prometheus = True
    assert run(experiment("cleanup"), "export")["status"] == "interrupted"


def test_arguments_may_be_secrets(engine: FakeEngine, tmp_path: Path) -> None:
    run_of_it = run_module.Run(
        {"controls": [{"name": "e", "provider": python("controls.export", arguments={"directory": "${where}"})}]},
        secrets={"s": {"where": "there"}},
    )
    assert run_of_it.tasks() == [run_module.Task("export", {"directory": "there"})]


@pytest.mark.parametrize("dry", [Dry.PAUSE, Dry.PROBES])
def test_a_run_that_skips_only_pauses_or_probes_is_cleaned_up(dry: Dry, engine: FakeEngine) -> None:
    given = {**experiment(*CONTROLS), "dry": dry}
    run(given)
    assert [one.active for one in engine.records] == [False]


def test_a_verdict_that_cannot_be_reached_is_a_failure(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("stopped")

    monkeypatch.setattr(verdict, "failures", broken)
    journal = run(experiment(*CONTROLS))
    assert (journal["status"], journal["chaosorca"]) == ("failed", {"failed": ["the faults could not be judged: 'stopped'"]})


@pytest.mark.parametrize(("control", "part"), [("observe", "_start"), ("verify", "start_faults")])
def test_an_unforeseen_error_before_the_experiment_interrupts_it(
    control: str, part: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the credential helper is missing")

    monkeypatch.setattr(f"chaosorca.controls.{control}.{part}", broken)
    journal = run(experiment(*CONTROLS))
    assert (journal["status"], engine.records) == ("interrupted", [])


def test_the_container_of_a_fault_may_be_a_secret(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCA_TEST_WHO", "web")
    given = experiment(*CONTROLS)
    given["secrets"] = {"own": {"who": {"type": "env", "key": "ORCA_TEST_WHO"}}}
    for one in given["method"]:
        one["provider"]["secrets"] = ["own"]
        one["provider"]["arguments"]["container"] = "${who}"
    journal = run(given)
    assert len(engine.records) == 1, journal


def test_results_that_cannot_be_written_are_a_failure(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    given = experiment(*CONTROLS)
    given["controls"][0]["provider"]["arguments"] = {"directory": str(tmp_path / "file" / "results")}
    journal = run(given)
    assert journal["status"] == "failed"
    assert journal["chaosorca"]["failed"][-1].startswith("the results could not be written: ")
