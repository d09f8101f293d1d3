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


def test_every_part_of_the_package_has_a_rule_and_every_rule_a_part() -> None:
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
def test_the_package_itself_imports_nothing_but_the_standard_library_when_it_is_imported(path: Path) -> None:
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
    """The statements that make a module keep state: `global`, and mutable values that are assigned at the top."""
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
