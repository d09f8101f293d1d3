"""The functions that the controls share, and the files that `export` writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chaoslib.exceptions import InterruptExecution
from chaoslib.types import Dry

from chaosorca.controls import cleanup, export, observe, results, verdict, verify
from chaosorca.controls.common import as_names, is_dry, named_containers
from chaosorca.controls.run import Run
from chaosorca.metrics.events import Event
from chaosorca.metrics.tables import Table
from tests.support.records import fault_record


def activity(module: str, arguments: Any) -> dict[str, Any]:
    return {"type": "action", "name": "a", "provider": {"type": "python", "module": module, "func": "f", "arguments": arguments}}


OURS = "chaosorca.actions.faults"
CURL: dict[str, Any] = {"type": "action", "name": "c", "provider": {"type": "process", "path": "curl"}}


@pytest.mark.parametrize(
    ("experiment", "configuration", "names"),
    [
        ({}, None, []),
        ({"method": []}, {}, []),
        ({"steady-state-hypothesis": None, "method": [], "rollbacks": []}, None, []),
        ({"method": [activity(OURS, {"container": "web"})]}, None, ["web"]),
        ({"method": [activity(OURS, {"container": "${target}"})]}, {"target": "web"}, ["web"]),
        ({"method": [activity(OURS, {"syscall": "read"})]}, None, []),
        ({"method": [activity(OURS, None)]}, None, []),
        ({"method": [activity("other.actions", {"container": "web"})]}, None, []),
        ({"method": [activity("chaosorcas.actions", {"container": "web"})]}, None, []),
        ({"method": [{"ref": "a"}]}, None, []),
        (
            {
                "steady-state-hypothesis": {"title": "t", "probes": [activity("chaosorca.probes.http", {"container": "a"})]},
                "method": [activity(OURS, {"container": "b"}), activity(OURS, {"container": "a"})],
                "rollbacks": [activity(OURS, {"container": "c"})],
            },
            None,
            ["a", "b", "c"],
        ),
        (
            {
                "method": [
                    {**CURL, "provider": {**CURL["provider"], "arguments": arguments}}
                    for arguments in (["-s", "x"], "-s x", {"a": 1})
                ]
            },
            None,
            [],
        ),
    ],
)
def test_an_experiment_is_about_the_containers_that_our_activities_name(
    experiment: dict[str, Any], configuration: Any, names: list[str]
) -> None:
    assert named_containers(experiment, configuration) == names


@pytest.mark.parametrize(
    ("value", "names"), [(None, None), ("web", ["web"]), ("web, db", ["web", "db"]), (["web"], ["web"]), ([" web "], ["web"])]
)
def test_names_are_given_as_a_list_or_as_text(value: Any, names: list[str] | None) -> None:
    assert as_names(value, "containers") == names


@pytest.mark.parametrize(
    ("experiment", "dry"),
    [
        (None, False),
        ({}, False),
        ({"dry": ""}, False),
        ({"dry": "activities"}, True),
        ({"dry": True}, True),
        ({"dry": Dry.ACTIONS}, True),
        ({"dry": Dry.ACTIVITIES}, True),
        ({"dry": Dry.PAUSE}, False),
        ({"dry": Dry.PROBES}, False),
    ],
)
def test_a_dry_run_is_recognised(experiment: Any, dry: bool) -> None:
    assert is_dry(experiment) is dry


NOWHERE = {"chaosorca_docker_host": "unix:///nonexistent.sock", "prometheus_base_url": "http://127.0.0.1:1"}
DRY = {"title": "t", "dry": "activities", "method": []}


def test_nothing_happens_in_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    for module in (observe, export, cleanup):
        module.before_experiment_control(context=DRY, configuration=NOWHERE, experiment=DRY)
        if hasattr(module, "before_rollback_control"):
            module.before_rollback_control(context=DRY, configuration=NOWHERE, experiment=DRY)
        module.after_experiment_control(context=DRY, configuration=NOWHERE, experiment=DRY, state={})
        if hasattr(module, "cleanup_control"):
            module.cleanup_control()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "does not know what to monitor: give it containers or label"),
        ({"containers": ["web"]}, "no Docker Engine answers at 'unix:///nonexistent.sock'"),
        ({"containers": []}, "is not a list of names"),
        ({"label": "app=shop"}, "no Docker Engine answers"),
    ],
)
def test_observe_interrupts_the_experiment_if_it_cannot_work(arguments: dict[str, Any], says: str) -> None:
    experiment = {"title": "t", "method": []}
    with pytest.raises(InterruptExecution, match=says):
        observe.before_experiment_control(experiment, configuration=NOWHERE, experiment=experiment, **arguments)


def test_an_error_of_cleanup_does_not_end_the_experiment() -> None:
    experiment = {"title": "t", "method": []}
    cleanup.before_experiment_control(experiment, configuration=NOWHERE, experiment=experiment)
    cleanup.after_experiment_control(experiment, configuration=NOWHERE, experiment=experiment)
    cleanup.cleanup_control()


def test_export_writes_events_without_prometheus(tmp_path: Path) -> None:
    experiment = {"title": "t", "method": []}
    journal = {"experiment": experiment, "start": "2024-01-01T12:00:00+00:00", "run": None, "steady_states": None}
    export.before_experiment_control(experiment, configuration=NOWHERE, experiment=experiment)
    export.after_experiment_control(
        experiment, configuration=NOWHERE, experiment=experiment, state=journal, directory=str(tmp_path / "out")
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["events.csv", "report.html"]
    assert "<h1>t</h1>" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "events.csv").read_text() == (
        "timestamp,event,container,detail\n2024-01-01T12:00:00.000Z,experiment_begin,,t\n"
    )


@pytest.mark.parametrize("wanted", [False, "false", "0"])
def test_export_leaves_out_an_unwanted_report(wanted: Any, tmp_path: Path) -> None:
    experiment = {"title": "t", "method": []}
    export.before_experiment_control(experiment, configuration=NOWHERE, experiment=experiment)
    export.after_experiment_control(
        experiment, configuration=NOWHERE, experiment=experiment, state={}, directory=str(tmp_path / "out"), report=wanted
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["events.csv"]


def test_the_report_shows_the_verdict_of_a_verify_listed_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("export", "observe", "verify", "cleanup")
    providers: dict[str, dict[str, Any]] = {name: {"type": "python", "module": f"chaosorca.controls.{name}"} for name in names}
    providers["verify"]["arguments"] = {"min_injected": "${least}"}
    providers["export"]["arguments"] = {"directory": str(tmp_path / "out")}
    start = {"name": "breaks", "provider": {"module": "chaosorca.actions.faults", "func": "start_fault", "arguments": {}}}
    experiment = {"title": "t", "method": [], "controls": [{"name": name, "provider": one} for name, one in providers.items()]}
    output = {"fault": "1", "containers": [{"name": "web", "not_attached": []}]}
    stopped = fault_record(injected={"openat": 4}).to_json()
    journal: dict[str, Any] = {
        "status": "completed",
        "run": [
            {"activity": start, "status": "succeeded", "output": output},
            {
                "activity": {"name": "stops", "provider": {"module": "chaosorca.actions.faults"}},
                "status": "succeeded",
                "output": {"stopped": [stopped]},
            },
        ],
    }
    configuration = {**NOWHERE, "least": 5}
    given = {"configuration": configuration, "experiment": experiment}
    export.before_experiment_control(experiment, **given)
    export.after_experiment_control(experiment, **given, state=journal, directory=str(tmp_path / "out"))
    verify.after_experiment_control(experiment, **given, state=journal, min_injected=5)
    reason = "fault 'breaks' fired 4 times on container 'web' (at least 5 calls expected)"
    assert (journal["status"], journal["chaosorca"]) == ("failed", {"failed": [reason]})
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<span class="badge bad">failed</span>' in page
    assert f'<p class="bad">{reason}</p>' in page
    assert caplog.text.count(f"verify: {reason}") == 1


def test_the_report_is_written_in_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = {"title": "früh · \ud800", "method": []}
    monkeypatch.setattr("locale.getencoding", lambda: "ascii")
    export.before_experiment_control(experiment, configuration=NOWHERE, experiment=experiment)
    export.after_experiment_control(
        experiment, configuration=NOWHERE, experiment=experiment, state={}, directory=str(tmp_path / "out")
    )
    assert "<h1>früh · \\ud800</h1>" in (tmp_path / "out" / "report.html").read_bytes().decode("utf-8")


def test_the_verdict_uses_the_records_of_ended_faults() -> None:
    start = {"name": "breaks", "provider": {"module": "chaosorca.actions.faults", "func": "start_fault", "arguments": {}}}
    output = {"fault": "1", "containers": [{"name": "web", "not_attached": []}]}
    for injected, status in ((3, "completed"), (0, "failed")):
        journal = {"status": "completed", "run": [{"activity": start, "status": "succeeded", "output": output}]}
        run = Run({"title": "t"}, NOWHERE)
        run.keep_ended([fault_record(injected={"read": injected})])
        verdict.judge(run, journal)
        assert journal["status"] == status


def test_results_are_a_file_for_each_container_and_metric(tmp_path: Path) -> None:
    collected = {("web", "cpu"): Table([0.0], {"cores": [0.5]}), ("db", "http"): Table([], {})}
    results.write_results(tmp_path / "a" / "b", collected, [Event(1.0, "fault_begin", "web", "x")])
    files = {str(path.relative_to(tmp_path / "a" / "b")): path.read_text() for path in tmp_path.rglob("*.csv")}
    assert files == {
        "web/cpu.csv": "timestamp,cores\n1970-01-01T00:00:00.000Z,0.5\n",
        "db/http.csv": "timestamp\n",
        "events.csv": "timestamp,event,container,detail\n1970-01-01T00:00:01.000Z,fault_begin,web,x\n",
    }


def test_results_are_never_written_over_others(tmp_path: Path) -> None:
    wanted = str(tmp_path / "out")
    for name in ("out", "out-2", "out-3"):
        directory = results.new_directory(wanted, "t")
        assert directory == tmp_path / name
        results.write_results(directory, {}, [])
    (tmp_path / "empty").mkdir()
    assert results.new_directory(str(tmp_path / "empty"), "t") == tmp_path / "empty"
    (tmp_path / "file").write_text("")
    assert results.new_directory(str(tmp_path / "file"), "t") == tmp_path / "file-2"


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("Does it come back?", "does-it-come-back"),
        ("a/b: c..\\d", "a-b-c-d"),
        ("../../etc", "etc"),
        ("", "experiment"),
        ("???", "experiment"),
        ("x" * 200, "x" * 80),
    ],
)
def test_results_go_into_a_directory_named_after_the_title(title: str, slug: str) -> None:
    directory = results.new_directory(None, title)
    assert directory.parent == Path("chaosorca-results")
    name, _, at = directory.name.rpartition("-")
    assert (name, len(at), at[8], at[-1]) == (slug, 16, "T", "Z")
    assert ":" not in str(directory)


def test_files_are_utf_8_in_any_locale(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from chaosorca.controls.results import write_results; "
        "from chaosorca.metrics.events import Event; from chaosorca.metrics.tables import Table; "
        f"write_results(Path({str(tmp_path / 'out')!r}), {{('web', 'http'): Table([1.0], {{chr(252): [1.0]}})}}, "
        "[Event(1.0, 'fault_begin', 'web', chr(252))])"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-X", "utf8=0", "-c", code], env=environment, check=True)
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("*.csv")]
    assert len(texts) == 2 and all("\u00fc" in text for text in texts)
