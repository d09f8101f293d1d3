"""Each link, anchor and path in the documents exists."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.markdown import Document, broken_links, links, missing_paths, paths, slugs
from tests.support.project import ROOT

NAMES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "RELEASING.md", "CHANGELOG.md")
IGNORED = {".git", ".venv", ".venv-newest", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", "build", "dist"}


def repository_files() -> set[str]:
    """Return the paths of all files; without git also those that it would ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return {line for line in listed.stdout.splitlines() if (ROOT / line).is_file()}
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not IGNORED & set(path.parts)}


FILES = repository_files()
DOCUMENTS = [
    Document(path, (ROOT / path).read_text())
    for path in (
        *(name for name in NAMES if name in FILES),
        *sorted(path for path in FILES if path.startswith("docs/") and path.endswith(".md")),
    )
]
ANCHORS = {document.path: slugs(document.text) for document in DOCUMENTS}
ROOTS = {
    path.name
    for folder in (ROOT, ROOT / "chaosorca", ROOT / "chaosorca" / "agent")
    for path in folder.iterdir()
    if path.is_dir() and path.name not in IGNORED
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.path)
def test_links_point_to_files_and_headings(document: Document) -> None:
    assert broken_links(document, FILES, ANCHORS) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.path)
def test_paths_in_code_exist(document: Document) -> None:
    assert missing_paths(document, FILES, ROOTS) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# One word", {"one-word"}),
        ("## `/metrics` and its labels: `map`, _names_", {"metrics-and-its-labels-map-names"}),
        ("### HTTP/2 - what is counted?", {"http2---what-is-counted"}),
        ("# A [link](there.md) in it #", {"a-link-in-it"}),
        ("# start_fault", {"start_fault"}),
        ("# Same\n## Same\n### Same", {"same", "same-1", "same-2"}),
        ("#no heading\n    # code\ntext # text", set()),
        ("```sh\n# a comment\n```\n# After", {"after"}),
        ('<a id="here"></a>', {"here"}),
    ],
)
def test_anchors_follow_the_rule_of_github(text: str, expected: set[str]) -> None:
    assert slugs(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](b.md) and [c](d.md#e)", ["b.md", "d.md#e"]),
        ('[a](b.md "A title") ![picture](p.svg)', ["b.md", "p.svg"]),
        ("[![badge](badge.svg)](run.yml)", ["run.yml"]),
        ("[`code`](b.md)", ["b.md"]),
        ("[a][b]\n\n[b]: c.md", ["c.md"]),
        ('<img src="p.png"> <a href="#x">x</a>', ["p.png", "#x"]),
        ("`[a](b.md)`\n\n```\n[a](b.md)\n```\n", []),
    ],
)
def test_links_are_found_in_prose_only(text: str, expected: list[str]) -> None:
    assert links(text) == expected


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("[a](faults.md) [b](../README.md#use) [c](#top) [d](decisions/) [e](https://x.test/y)", []),
        ("[a](fault.md)", ["docs/a.md: the link fault.md points to no file"]),
        ("[a](README.md)", ["docs/a.md: the link README.md points to no file"]),
        ("[a](../README.md#install)", ["docs/a.md: the link ../README.md#install points to no heading of README.md"]),
        ("[a](#bottom)", ["docs/a.md: the link #bottom points to no heading of docs/a.md"]),
        ("[a](../chaosorca/cli.py#L10)", []),
    ],
)
def test_broken_links_are_found(text: str, complaints: list[str]) -> None:
    files = {"README.md", "docs/a.md", "docs/faults.md", "docs/decisions/1.md", "chaosorca/cli.py"}
    assert broken_links(Document("docs/a.md", text), files, {"README.md": {"use"}, "docs/a.md": {"top"}}) == complaints


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`chaosorca/cli.py` and `agent/bpf/`", ["chaosorca/cli.py", "agent/bpf/"]),
        ("`./scripts/test --all`", ["scripts/test"]),
        ("`cli.py`, `old/gone.py`, `rule.h`", ["cli.py", "old/gone.py", "rule.h"]),
        ("`bpf/*.c`", ["bpf/*.c"]),
        ("`/metrics`, `/proc/PID/io`, `text/html`, `chaosorca-results/x/`, `http://x.test/scripts/test`, `journal.json`", []),
        ("chaosorca/cli.py without code", []),
        ("```sh\n.venv/bin/python scripts/load URL\nother/file.py\n```\n", ["scripts/load"]),
    ],
)
def test_paths_are_found_in_code_only(text: str, expected: list[str]) -> None:
    assert paths(text, {"chaosorca", "agent", "bpf", "scripts"}) == expected


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("`chaosorca/cli.py`, `cli.py`, `agent/bpf`, `bpf/*.c`, `chaosorca/agent/`", []),
        ("`chaosorca/gone.py`", ["chaosorca/gone.py"]),
        ("`gone.c`", ["gone.c"]),
        ("`bpf/*.h`", ["bpf/*.h"]),
        ("`scripts/gone`", ["scripts/gone"]),
    ],
)
def test_missing_paths_are_found(text: str, missing: list[str]) -> None:
    files = {"chaosorca/cli.py", "chaosorca/agent/bpf/arm.c", "scripts/test"}
    found = missing_paths(Document("a.md", text), files, {"chaosorca", "agent", "bpf", "scripts"})
    assert found == [f"a.md: the path {path} does not exist" for path in missing]
