"""What a user installs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "chaosorca"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy, so that the tree stays as it is."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(PACKAGE, copy / "chaosorca", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out), str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def test_it_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    sources = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    packed = {name for name in wheel.namelist() if name.startswith("chaosorca/")}
    assert packed == {str(path.relative_to(ROOT)) for path in sources}


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
def test_it_holds_what_the_images_are_built_from(wheel: zipfile.ZipFile, name: str) -> None:
    assert wheel.read(f"chaosorca/{name}") == (PACKAGE / name).read_bytes()


def test_its_metadata_names_the_command_the_licence_and_no_lattice_library(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{info}/METADATA").decode().splitlines()
    assert "Name: chaostoolkit-orca" in metadata
    assert wheel.read(f"{info}/entry_points.txt").decode().split("\n")[:2] == [
        "[console_scripts]",
        "chaosorca = chaosorca.cli:main",
    ]
    assert any(name.startswith(info) and name.endswith("LICENSE") for name in wheel.namelist())
    required = {line.split()[1].split(">")[0] for line in metadata if line.startswith("Requires-Dist:") and "extra" not in line}
    assert required == {"chaostoolkit-lib", "click", "docker", "logzero", "requests"}
    assert {name.split("/")[0] for name in wheel.namelist()} == {"chaosorca", info}
