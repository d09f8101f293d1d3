"""Imports only go down."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import chaosorca

PACKAGE = Path(chaosorca.__file__).parent

# For each part of the package (a folder, or a module at its top) the other parts that it may import; "" is the package itself.
ALLOWED: dict[str, set[str]] = {
    "": {"actions", "probes"},  # named as text, for discovery
    "exceptions": {"model"},
    "model": set(),
    "agent": {"model", ""},
    "engine": {"model", "exceptions", ""},
    "metrics": {"model", "exceptions", ""},
    "report": {"metrics", "model", "exceptions", ""},
    "activity": {"exceptions"},
    "sources": {"engine", "metrics", "model", "exceptions"},
    "actions": {"engine", "metrics", "model", "exceptions", "activity", "sources", ""},
    "probes": {"engine", "metrics", "model", "exceptions", "activity", "sources", ""},
    "controls": {"report", "actions", "probes", "engine", "metrics", "model", "exceptions", "activity", "sources", ""},
    "cli": {"actions", "probes", "controls", "engine", "metrics", "model", "exceptions", "activity", "sources", ""},
}

# The parts of the agent (a folder, or a module at its top), from the top down; parts of one level do not import each other.
AGENT_LEVELS: list[set[str]] = [
    {"__main__"},
    {"server", "ctl"},
    {"agent"},
    {"doctor"},
    {"export"},
    {"faults"},
    {"monitors"},
    {"injectors"},
    {"code", "targets", "ebpf"},
    {"linux"},
    {"histogram", "timeouts", "loops"},
]
LONGEST_MODULE, LONGEST_CLASS, LONGEST_TEST_NAME = 420, 330, 12

# The base names that two files of the package may share: each pair is one thing on the two sides of an interface.
SHARED_NAMES = {
    "abort": "the condition's grammar, and its check in the agent",
    "agent": "the agent's container, and the agent in it",
    "doctor": "what the engine can do, and what the agent's host can do",
    "faults": "the actions and probes of a user, and the agent's part that carries them out",
    "http": "a probe, the monitor that it reads, and the monitor's program",
    "monitoring": "the actions of a user, and the agent's part that carries them out",
    "prometheus": "the actions of a user, and the container that they start",
    "resources": "a probe, and the monitor that it reads",
    "syscalls": "the table of system calls, a probe, the monitor that it reads, and the monitor's program",
    "tls": "a monitor, and its program",
    "tracer": "the agent's side of a tracer, and the tracer",
}
ONLY_STANDARD = {"model", "exceptions"}
ONLY_IN_THE_AGENT = {"capstone", "prometheus_client"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The part that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The full names of all modules that a file imports, at its top or within functions."""
    own = ["chaosorca", *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*own[: -node.level], *([node.module] if node.module else [])]) if node.level else str(node.module)
            if base == "chaosorca":  # a part of the package, or a name of the package itself
                yield from (f"{base}.{alias.name}" if exists(alias.name) else base for alias in node.names)
            else:
                yield base


def exists(part: str) -> bool:
    return (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_part_of_the_package_has_one_rule() -> None:
    parts = {part_of(path) for path in MODULES}
    assert parts == set(ALLOWED)
    folders = {entry.name for entry in PACKAGE.iterdir() if entry.is_dir() and entry.name != "__pycache__"}
    assert folders <= set(ALLOWED)


def test_the_rules_only_go_down() -> None:
    order = list(ALLOWED)[1:]
    upwards = [(part, other) for part in order for other in ALLOWED[part] - {""} if order.index(other) > order.index(part)]
    assert upwards == [("exceptions", "model")]  # which only gives the errors at the bottom their public names
    assert [part for part, allowed in ALLOWED.items() if "cli" in allowed] == []
    assert [part for part, allowed in ALLOWED.items() if "agent" in allowed] == []


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_imports_only_from_the_layers_below_it(path: Path) -> None:
    part = part_of(path)
    ours = [name.split(".") for name in imported(path) if name.split(".")[0] == "chaosorca"]
    others = {name[1] if len(name) > 1 else "" for name in ours}
    assert others - ALLOWED[part] - {part} == set()


AGENT_MODULES = [path for path in MODULES if part_of(path) == "agent" and path != PACKAGE / "agent" / "__init__.py"]


def part_of_agent(name: str) -> str:
    """The part of the agent that a module belongs to, by its full name."""
    return name.split(".")[2]


def test_every_part_of_the_agent_has_one_level() -> None:
    parts = {path.relative_to(PACKAGE / "agent").parts[0].removesuffix(".py") for path in AGENT_MODULES}
    assert sorted(part for level in AGENT_LEVELS for part in level) == sorted(parts)


@pytest.mark.parametrize("path", AGENT_MODULES, ids=named)
def test_a_module_of_the_agent_imports_only_from_lower_levels(path: Path) -> None:
    level_of = {part: level for level, parts in enumerate(AGENT_LEVELS) for part in parts}
    own = path.relative_to(PACKAGE / "agent").parts[0].removesuffix(".py")
    upwards = {
        name
        for name in imported_modules(path)
        if name.startswith("chaosorca.agent.") and part_of_agent(name) != own and level_of[part_of_agent(name)] <= level_of[own]
    }
    assert upwards == set()


def imported_modules(path: Path) -> Iterator[str]:
    """The full names of what a file imports, with those of `from chaosorca.agent import x`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "chaosorca.agent":
            yield from (f"chaosorca.agent.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_two_files_share_a_base_name_only_across_an_interface() -> None:
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".c") and path.stem not in ("__init__", "__main__")]
    shared = {path.stem for path in files if sum(other.stem == path.stem for other in files) > 1}
    assert shared == set(SHARED_NAMES)


ROOT = PACKAGE.parent
PYTHON = sorted(path for folder in ("chaosorca", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def test_names_of_tests_have_at_most_12_words() -> None:
    names = [
        node.name.removeprefix("test_")
        for path in PYTHON
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name.split("_")) > LONGEST_TEST_NAME] == []


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_or_class_is_too_long(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    too_long = {node.name for node in classes if (node.end_lineno or 0) - node.lineno + 1 > LONGEST_CLASS}
    assert too_long == set()


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_imports_only_the_libraries_of_its_layer(path: Path) -> None:
    part = part_of(path)
    libraries = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names) - {"chaosorca"}
    if part in ONLY_STANDARD:
        assert libraries == set()
    elif part == "agent":
        assert libraries <= ONLY_IN_THE_AGENT | {"docker"}
    else:
        assert libraries <= {"chaoslib", "click", "docker", "logzero", "requests"}
    assert part == "agent" or not libraries & ONLY_IN_THE_AGENT


@pytest.mark.parametrize("path", [path for path in MODULES if part_of(path) == ""], ids=named)
def test_importing_the_package_needs_only_the_standard_library(path: Path) -> None:
    names = {
        alias.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", [path for path in MODULES if part_of(path) in ("actions", "probes")], ids=named)
def test_annotations_of_activities_are_no_text(path: Path) -> None:
    assert "__future__" not in set(imported(path))


def test_logzero_is_used_for_its_logger_alone() -> None:
    used = [
        (named(path), alias.name)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "logzero"
        for alias in node.names
    ]
    assert used != []
    assert [one for one in used if one[1] != "logger"] == []
    assert [named(path) for path in MODULES if "import logzero" in path.read_text()] == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import chaosorca.cli\n", ["chaosorca.cli"]),
        ("from chaosorca import cli, __version__\n", ["chaosorca.cli", "chaosorca"]),
        ("def f():\n    from chaosorca.engine.client import connect\n", ["chaosorca.engine.client"]),
        ("if x:\n    import capstone\n", ["capstone"]),
    ],
)
def test_the_check_sees_every_kind_of_import(tmp_path: Path, text: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("cli", "engine"):
        (tmp_path / f"{part}.py").write_text("")
    (tmp_path / "m.py").write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert list(imported(tmp_path / "m.py")) == names


def test_the_check_sees_relative_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m.py").write_text("from . import fault\nfrom .fault import Fault\nfrom ..engine import agent\n")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    assert list(imported(tmp_path / "model" / "m.py")) == ["chaosorca.model", "chaosorca.model.fault", "chaosorca.engine"]


def mutable_state(source: str) -> list[str]:
    """Return the statements with which a module keeps state: `global`, and mutable values that are assigned at the top."""
    tree = ast.parse(source)
    found = [f"global {', '.join(node.names)}" for node in ast.walk(tree) if isinstance(node, ast.Global)]
    for node in tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) else None
        names = [target.id for target in getattr(node, "targets", [getattr(node, "target", None)]) if isinstance(target, ast.Name)]
        if value is None or names == ["__all__"] or (isinstance(value, ast.Call) and ast.unparse(value.func) in IMMUTABLE):
            continue
        if any(isinstance(part, MUTABLE) for part in ast.walk(value)):
            found.append(ast.unparse(node))
    return found


MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.Call)
IMMUTABLE = {"ContextVar", "frozenset", "logging.getLogger", "re.compile"}


@pytest.mark.parametrize("path", [path for path in MODULES if part_of(path) == "controls"], ids=named)
def test_controls_keep_no_state_in_modules(path: Path) -> None:
    assert mutable_state(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("A = 1\nB: tuple[str, ...] = ('x',)\n__all__ = ['f']\nC = ContextVar('c', default=None)\n", []),
        ("A = {}\n", ["A = {}"]),
        ("A: list[int] = []\n", ["A: list[int] = []"]),
        ("_run = Run()\n", ["_run = Run()"]),
        ("def f():\n    global x, y\n", ["global x, y"]),
        ("def f():\n    x = []\n", []),
    ],
)
def test_the_check_sees_the_state_of_a_module(source: str, found: list[str]) -> None:
    assert mutable_state(source) == found
