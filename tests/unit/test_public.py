"""The public interface: names, signatures, types, errors, and the checks of `chaos validate`."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from chaoslib.exceptions import ActivityFailed, InvalidActivity

import chaosorca
from chaosorca.activity import activity
from chaosorca.exceptions import InvalidArgument, NoData, OrcaError
from chaosorca.model.errors import KINDS

PACKAGE = Path(chaosorca.__file__).parent
REQUIRED = inspect.Parameter.empty
ALWAYS = {"configuration": None, "secrets": None}

SIGNATURES: dict[str, dict[str, Any]] = {
    "actions.prometheus.start_prometheus": {"port": 9090, "scrape_interval": "1s", "image": None},
    "actions.prometheus.stop_prometheus": {"keep_data": False},
    "actions.monitoring.start_monitoring": {"container": None, "label": None, "syscalls": True, "http": True, "resources": True},
    "actions.monitoring.stop_monitoring": {"container": None, "label": None},
    "actions.faults.start_fault": {
        "syscall": REQUIRED,
        "container": None,
        "error": None,
        "retval": None,
        "signal": None,
        "delay_enter": None,
        "delay_exit": None,
        "when": None,
        "probability": 1.0,
        "max_faults": 0,
        "process": None,
        "path": None,
        "label": None,
        "duration": "10m",
        "placebo": False,
        "dry_run": False,
        "injector": "auto",
        "abort_when": None,
    },
    "actions.faults.stop_fault": {"container": None, "label": None, "syscall": None},
    "actions.faults.stop_all_faults": {},
    "probes.http.request_rate": {"container": REQUIRED, "status": None, "role": "server", "window": "15s"},
    "probes.http.error_ratio": {"container": REQUIRED, "status": "5xx,none", "role": "server", "window": "15s"},
    "probes.http.latency": {"container": REQUIRED, "quantile": 0.95, "role": "server", "window": "15s"},
    "probes.http.time_to_recover": {"container": REQUIRED, "status": "5xx,none", "role": "server", "within": "30s"},
    "probes.syscalls.syscall_latency": {"container": REQUIRED, "syscall": REQUIRED, "quantile": 0.95, "window": "15s"},
    "probes.syscalls.syscall_rate": {"container": REQUIRED, "syscall": None, "error": None, "window": "15s"},
    "probes.resources.cpu_usage": {"container": REQUIRED, "window": "15s"},
    "probes.resources.memory_usage": {"container": REQUIRED},
    "probes.resources.network_receive_rate": {"container": REQUIRED, "window": "15s"},
    "probes.resources.network_transmit_rate": {"container": REQUIRED, "window": "15s"},
    "probes.resources.io_rate": {"container": REQUIRED, "window": "15s"},
    "probes.faults.faults_injected": {"container": REQUIRED, "syscall": None, "fault": None},
    "probes.faults.fault_active": {"container": REQUIRED},
}
ACTIVITY_MODULES = sorted({name.rpartition(".")[0] for name in SIGNATURES})
CONTROLS = ["cleanup", "export", "observe", "verify"]


def load(name: str) -> Any:
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"chaosorca.{module}"), function)


@pytest.mark.parametrize("module", ACTIVITY_MODULES)
def test_a_module_exports_exactly_its_activities(module: str) -> None:
    expected = sorted(name.rpartition(".")[2] for name in SIGNATURES if name.rpartition(".")[0] == module)
    assert sorted(importlib.import_module(f"chaosorca.{module}").__all__) == expected


def test_there_are_no_other_activity_modules() -> None:
    found = {f"{folder}.{path.stem}" for folder in ("actions", "probes") for path in (PACKAGE / folder).glob("*.py")}
    assert found - {"actions.__init__", "probes.__init__"} == set(ACTIVITY_MODULES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_has_these_arguments_in_this_order_with_these_defaults(name: str) -> None:
    parameters = inspect.signature(load(name)).parameters
    expected = {**SIGNATURES[name], **ALWAYS}
    assert list(parameters) == list(expected)
    assert {key: (value.default, type(value.default)) for key, value in parameters.items()} == {
        key: (value, type(value)) for key, value in expected.items()
    }
    assert {value.kind for value in parameters.values()} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


@pytest.mark.parametrize("name", SIGNATURES)
def test_annotations_are_plain_types_that_fit_the_defaults(name: str) -> None:
    signature = inspect.signature(load(name))
    plain = (str, int, float, bool, dict, list)
    assert [one.name for one in signature.parameters.values() if one.annotation not in plain] == []
    assert signature.return_annotation in plain
    for one in signature.parameters.values():
        if one.default is None:
            assert one.annotation in (str, dict)
        elif one.default is not REQUIRED:
            assert type(one.default) is one.annotation


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_docstring_describes_every_argument(name: str) -> None:
    text = inspect.getdoc(load(name)) or ""
    arguments = text.partition("Arguments:")[2].partition("Returns:")[0]
    words = {word.strip(" ,:") for line in arguments.splitlines() for word in line.partition(":")[0].split(",")}
    assert set(SIGNATURES[name]) - words == set()
    assert "Returns:" in text


def test_discovery_lists_every_activity_with_typed_arguments() -> None:
    found = chaosorca.discover()
    activities = {f"{one['mod'].removeprefix('chaosorca.')}.{one['name']}": one for one in found["activities"]}
    assert set(activities) == set(SIGNATURES)
    assert len(found["activities"]) == len(SIGNATURES)
    assert found["extension"] == {**found["extension"], "name": "chaostoolkit-orca", "version": chaosorca.__version__}
    for name, one in activities.items():
        assert one["type"] == name.partition(".")[0].removesuffix("s")
        listed = {argument["name"]: argument for argument in one["arguments"]}
        assert list(listed) == [*SIGNATURES[name], *ALWAYS]
        assert [argument for argument in one["arguments"] if argument.get("type", "object") == "object"] == []
        assert {key for key, argument in listed.items() if "default" not in argument} == {
            key for key, default in SIGNATURES[name].items() if default is REQUIRED
        }
        assert one["doc"]


@pytest.mark.parametrize("kind", [*KINDS.values(), OrcaError])
def test_an_error_of_ours_is_a_failed_activity_with_the_same_text(kind: type[OrcaError]) -> None:
    error = kind("it went wrong")

    @activity
    def fail(what: str = "x") -> int:
        """Fail."""
        raise error

    with pytest.raises(ActivityFailed, match=r"^it went wrong$") as caught:
        fail()
    assert caught.value.__cause__ is error
    assert (fail.__name__, fail.__doc__, list(inspect.signature(fail).parameters)) == ("fail", "Fail.", ["what"])


def test_an_activity_passes_arguments_results_and_other_errors() -> None:
    @activity
    def add(a: int, b: int = 1) -> int:
        return a // b

    assert (add(4), add(4, 2), add(b=4, a=4)) == (4, 2, 1)
    with pytest.raises(ZeroDivisionError):
        add(1, 0)


def test_errors_are_one_tree() -> None:
    assert {kind.__mro__[1].__name__ for kind in KINDS.values()} == {"OrcaError", "EngineError", "PrometheusError"}
    assert issubclass(InvalidArgument, ValueError)
    assert NoData.__mro__[1].__name__ == "PrometheusError"
    exceptions = importlib.import_module("chaosorca.exceptions")
    assert sorted(exceptions.__all__) == sorted([*KINDS, "OrcaError"])
    assert {name: getattr(exceptions, name) for name in KINDS} == KINDS


NOWHERE = {"chaosorca_docker_host": "unix:///nonexistent.sock", "prometheus_base_url": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("actions.prometheus.start_prometheus", {"port": "http"}, "port 'http' is not a number"),
        ("actions.prometheus.start_prometheus", {"port": 65536}, "port 65536 is not between 0 and 65535"),
        ("actions.prometheus.start_prometheus", {"port": -1}, "port -1 is not between 0 and 65535"),
        ("actions.prometheus.start_prometheus", {"port": True}, "port True is not a number"),
        ("actions.prometheus.start_prometheus", {"scrape_interval": "1"}, "scrape_interval '1' has no unit"),
        ("actions.prometheus.start_prometheus", {"scrape_interval": 1}, "scrape_interval 1 has no unit"),
        ("actions.prometheus.start_prometheus", {"scrape_interval": "0s"}, "scrape_interval '0s' is zero"),
        ("actions.prometheus.stop_prometheus", {"keep_data": "maybe"}, "keep_data 'maybe' is not a boolean"),
        ("actions.monitoring.start_monitoring", {"container": "x", "http": "maybe"}, "http 'maybe' is not a boolean"),
        (
            "actions.monitoring.start_monitoring",
            {"container": "x", "http": "false", "syscalls": False, "resources": "0"},
            "no monitor is selected",
        ),
        ("actions.faults.start_fault", {"syscall": "openat", "error": "EIO"}, "give exactly one of container and label"),
        ("actions.faults.stop_fault", {}, "give exactly one of container and label"),
        ("actions.faults.stop_fault", {"label": "ab"}, "label 'ab' is not written as key=value"),
        *[
            ("actions.faults.start_fault", {"syscall": "openat", "container": "x", "error": "EIO", key: value}, says)
            for key, value, says in (
                ("label", "a=b", "give exactly one of container and label"),
                ("placebo", "maybe", "placebo 'maybe' is not a boolean"),
                ("dry_run", 2, "dry_run 2 is not a boolean"),
            )
        ],
        ("probes.http.request_rate", {"container": "x", "status": "20"}, "status '20' is not an HTTP code"),
        ("probes.http.request_rate", {"container": "x", "role": "proxy"}, "role 'proxy' is neither 'server' nor 'client'"),
        ("probes.http.request_rate", {"container": "x", "window": "15"}, "window '15' has no unit"),
        ("probes.http.error_ratio", {"container": "x", "status": ""}, "status '' is not an HTTP code"),
        ("probes.http.error_ratio", {"container": "x", "role": ""}, "role '' is neither"),
        ("probes.http.error_ratio", {"container": "x", "window": 15}, "window 15 has no unit"),
        ("probes.http.latency", {"container": "x", "quantile": 95}, "quantile 95 is not between 0 and 1"),
        ("probes.http.latency", {"container": "x", "role": "proxy"}, "role 'proxy' is neither 'server' nor 'client'"),
        ("probes.http.time_to_recover", {"container": "x", "status": "20"}, "status '20' is not an HTTP code"),
        ("probes.http.time_to_recover", {"container": "x", "role": "proxy"}, "role 'proxy' is neither 'server' nor 'client'"),
        ("probes.http.time_to_recover", {"container": "x", "within": 30}, "within 30 has no unit"),
        ("probes.syscalls.syscall_latency", {"container": "x", "syscall": "opennat"}, "did you mean 'openat'"),
        (
            "probes.syscalls.syscall_latency",
            {"container": "x", "syscall": "read", "quantile": "p95"},
            "quantile 'p95' is not a number",
        ),
        ("probes.resources.io_rate", {"container": "x", "window": 15}, "window 15 has no unit"),
        ("probes.syscalls.syscall_rate", {"container": "x", "syscall": "opennat"}, "did you mean 'openat'"),
        ("probes.syscalls.syscall_rate", {"container": "x", "error": "EACESS"}, "did you mean 'EACCES'"),
        ("probes.syscalls.syscall_rate", {"container": "x", "window": "soon"}, "window 'soon' is not a duration"),
        ("probes.resources.cpu_usage", {"container": "x", "window": "0s"}, "window '0s' is zero"),
        ("probes.faults.faults_injected", {"container": "x", "syscall": "opennat"}, "did you mean 'openat'"),
    ],
)
def test_a_bad_argument_is_refused_before_anything_is_asked(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ActivityFailed) as caught:
        load(name)(**arguments, configuration=NOWHERE)
    assert says in str(caught.value)
    assert isinstance(caught.value.__cause__, InvalidArgument)


ASK_THE_AGENT = [name for name in SIGNATURES if name.startswith(("actions.", "probes.faults.")) or name.endswith("time_to_recover")]


@pytest.mark.parametrize("name", ASK_THE_AGENT)
def test_a_missing_engine_is_a_failed_activity(name: str) -> None:
    arguments = {"container": "x"} if "container" in SIGNATURES[name] else {}
    if name.endswith("start_fault"):
        arguments |= {"syscall": "openat", "error": "EIO"}
    with pytest.raises(ActivityFailed, match=r"^no Docker Engine answers at 'unix:///nonexistent\.sock'"):
        load(name)(**arguments, configuration=NOWHERE)


@pytest.mark.parametrize("name", sorted(set(SIGNATURES) - set(ASK_THE_AGENT)))
def test_a_missing_prometheus_is_a_failed_activity(name: str) -> None:
    with pytest.raises(ActivityFailed, match=r"^Prometheus cannot be reached at http://127\.0\.0\.1:1: "):
        load(name)(container="x", **({"syscall": "read"} if name.endswith("syscall_latency") else {}), configuration=NOWHERE)


def control(name: str, arguments: Any) -> dict[str, Any]:
    """Return a control as `chaos validate` passes it."""
    provider = {"type": "python", "module": f"chaosorca.controls.{name}", **({} if arguments is None else {"arguments": arguments})}
    return {"name": f"my {name}", "provider": provider}


def test_every_control_is_covered() -> None:
    found = {path.stem for path in (PACKAGE / "controls").glob("*.py")} - {"__init__"}
    assert found == {*CONTROLS, "common", "results", "run", "verdict", "work"}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *[(name, None) for name in CONTROLS],
        *[(name, dict[str, Any]()) for name in CONTROLS],
        ("observe", {"containers": ["web", "db"], "keep": True}),
        ("observe", {"containers": "web, db", "keep": "false"}),
        ("observe", {"containers": None, "label": "app=shop"}),
        ("observe", {"containers": "${targets}", "keep": "${keep}", "label": "${label}"}),
        (
            "export",
            {
                "directory": "results",
                "containers": ["web"],
                "metrics": ["cpu", "http"],
                "step": "1s",
                "window": "15s",
                "report": True,
            },
        ),
        ("verify", {"min_injected": "3"}),
        ("export", {"metrics": "cpu,http, latency,io,mem,netr,nets,syscall", "report": "no"}),
        ("export", {"containers": None, "metrics": None}),
        ("export", dict.fromkeys(("directory", "containers", "metrics", "step", "window", "report"), "${x}")),
        ("export", {"directory": "results/${name}", "metrics": ["${metric}"]}),
    ],
)
def test_a_control_accepts_good_arguments_and_variables(name: str, arguments: Any) -> None:
    module = importlib.import_module(f"chaosorca.controls.{name}")
    assert module.validate_control(control(name, arguments)) is None
    assert "validate_control" in module.__all__


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        *[(name, {"nonsense": 1}, f"control 'my {name}' has no argument 'nonsense'") for name in CONTROLS],
        *[(name, {"nonsense": "${x}"}, "has no argument 'nonsense'") for name in CONTROLS],
        ("cleanup", {"containers": ["web"]}, "has no argument 'containers'"),
        ("observe", {"container": "web"}, "has no argument 'container': did you mean 'containers'"),
        ("observe", {"containers": []}, "containers [] is not a list of names"),
        ("observe", {"containers": ""}, "containers '' is not a list of names"),
        ("observe", {"containers": "web,,db"}, "is not a list of names"),
        ("observe", {"containers": ["web", 5]}, "is not a list of names"),
        ("observe", {"containers": {"web": 1}}, "is not a list of names"),
        ("observe", {"containers": 5}, "is not a list of names"),
        ("observe", {"keep": "maybe"}, "control 'my observe': keep 'maybe' is not a boolean"),
        ("observe", {"keep": None}, "keep None is not a boolean"),
        ("observe", {"label": 5}, "label"),
        ("observe", {"label": "app"}, "label"),
        ("verify", {"min_injected": -1}, "min_injected -1 is not between 0 and"),
        ("verify", {"min_injected": "many"}, "min_injected 'many' is not a number"),
        ("export", {"directry": "x"}, "has no argument 'directry': did you mean 'directory'"),
        ("export", {"directory": ""}, "directory '' is not a path"),
        ("export", {"directory": 5}, "directory 5 is not a path"),
        ("export", {"containers": []}, "is not a list of names"),
        ("export", {"metrics": "sycall"}, "metric 'sycall' does not exist: did you mean 'syscall'"),
        ("export", {"metrics": ["cpu", "disk"]}, "metric 'disk' does not exist"),
        ("export", {"metrics": []}, "is not a list of names"),
        ("export", {"metrics": 5}, "is not a list of names"),
        ("export", {"step": "1"}, "control 'my export': step '1' has no unit"),
        ("export", {"step": 1}, "step 1 has no unit"),
        ("export", {"step": "soon"}, "step 'soon' is not a duration"),
        ("export", {"window": "15"}, "window '15' has no unit"),
        ("export", {"window": "0s"}, "window '0s' is zero"),
        ("export", {"report": "maybe"}, "report 'maybe' is not a boolean"),
    ],
)
def test_a_control_refuses_bad_arguments(name: str, arguments: Any, says: str) -> None:
    with pytest.raises(InvalidActivity) as caught:
        importlib.import_module(f"chaosorca.controls.{name}").validate_control(control(name, arguments))
    assert says in str(caught.value)


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_accepts_further_keywords(name: str) -> None:
    module = importlib.import_module(f"chaosorca.controls.{name}")
    hooks = [hook for hook in module.__all__ if hook.endswith("_control") and hook not in ("validate_control", "cleanup_control")]
    assert "after_experiment_control" in hooks
    for hook in hooks:
        kinds = {parameter.kind for parameter in inspect.signature(getattr(module, hook)).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD in kinds


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    public = [node for node in tree.body if isinstance(node, (*functions, ast.ClassDef)) and not node.name.startswith("_")]
    public += [
        member
        for node in public
        if isinstance(node, ast.ClassDef)
        for member in node.body
        if isinstance(member, functions) and not member.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []
    assert ast.get_docstring(tree)
