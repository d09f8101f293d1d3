"""The wheel and the source archive hold all of the package, and the development tools are pinned."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "chaosorca"
BUILT_FROM = ("setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both archives as a release does, the wheel from the source archive. The copy keeps the tree clean."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(PACKAGE, copy / "chaosorca", ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    (built,) = dist.glob("*.whl")
    return zipfile.ZipFile(built)


def files_of_the_package() -> set[str]:
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in files}


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    assert {name for name in wheel.namelist() if name.startswith("chaosorca/")} == files_of_the_package()


def test_the_source_archive_holds_every_file_of_the_package(dist: Path) -> None:
    (built,) = dist.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    assert packed >= files_of_the_package() | set(BUILT_FROM)


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "model/syscalls.tsv",
        "agent/__main__.py",
        "agent/ctl.py",
        "agent/injectors/strace.py",
        "agent/monitors/http.py",
        "agent/bpf/build.sh",
        "agent/bpf/common.h",
        "agent/bpf/http.c",
        "agent/bpf/syscalls.c",
        "engine/images/agent/Dockerfile",
        "engine/images/agent/requirements.txt",
        "engine/images/prometheus/Dockerfile",
    ],
)
def test_the_wheel_holds_what_the_images_are_built_from(wheel: zipfile.ZipFile, name: str) -> None:
    assert wheel.read(f"chaosorca/{name}") == (PACKAGE / name).read_bytes()


def test_its_metadata_names_the_command_the_licence_and_no_lattice_library(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{info}/METADATA").decode().splitlines()
    assert "Name: chaostoolkit-orca" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Dist: docker>=7.1" in metadata
    assert wheel.read(f"{info}/entry_points.txt").decode().split("\n")[:2] == [
        "[console_scripts]",
        "chaosorca = chaosorca.cli:main",
    ]
    assert any(name.startswith(info) and name.endswith("LICENSE") for name in wheel.namelist())
    required = {line.split()[1].split(">")[0] for line in metadata if line.startswith("Requires-Dist:") and "extra" not in line}
    assert required == {"chaostoolkit-lib", "click", "docker", "logzero", "requests"}
    assert {name.split("/")[0] for name in wheel.namelist()} == {"chaosorca", info}


def test_every_dependency_and_development_tool_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {normalized(one) for one in [*project["dependencies"], *project["optional-dependencies"]["dev"]]}
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert wanted - {normalized(line) for line in pins} == set()


def normalized(requirement: str) -> str:
    """Return the name in a requirement as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>]", requirement)[0]).lower()
