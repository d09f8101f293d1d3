"""The build contexts and tags of images, and Prometheus's configuration."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import yaml  # type: ignore[import-untyped]

import chaosorca
from chaosorca.engine.images import DEFAULT_BASE, base_image, build_context, ensure_image, image_created, image_tag
from chaosorca.engine.prometheus import prometheus_configuration
from chaosorca.exceptions import EngineError
from chaosorca.model.contract import METRICS_PORT

PACKAGE = Path(chaosorca.__file__).parent


@pytest.mark.parametrize(
    ("configuration", "base"),
    [
        (None, DEFAULT_BASE),
        ({}, DEFAULT_BASE),
        ({"chaosorca_base_image": ""}, DEFAULT_BASE),
        ({"chaosorca_base_image": None}, DEFAULT_BASE),
        ({"chaosorca_base_image": "debian:trixie"}, "debian:trixie"),
    ],
)
def test_the_base_image_is_debians_unless_configured(configuration: Any, base: str) -> None:
    assert base_image(configuration) == base


def test_the_agents_context_holds_exactly_the_sources_that_run_in_it() -> None:
    files = build_context("agent")
    sources = [
        path
        for part in ("agent", "model")
        for path in (PACKAGE / part).rglob("*")
        if path.suffix in {".py", ".c", ".h", ".sh", ".tsv"}
    ]
    assert set(files) == {
        "Dockerfile",
        "requirements.txt",
        "chaosorca/__init__.py",
        *(f"chaosorca/{path.relative_to(PACKAGE)}" for path in sources),
    }
    for path in (
        "agent/bpf/syscalls.c",
        "agent/bpf/http.c",
        "agent/bpf/build.sh",
        "agent/bpf/common.h",
        "agent/__main__.py",
        "agent/ctl.py",
        "model/syscalls.tsv",
        "__init__.py",
    ):
        assert files[f"chaosorca/{path}"] == (PACKAGE / path).read_bytes()
    for name in ("Dockerfile", "requirements.txt"):
        assert files[name] == (PACKAGE / "engine" / "images" / "agent" / name).read_bytes()


def test_prometheus_is_built_from_its_dockerfile_alone() -> None:
    assert list(build_context("prometheus")) == ["Dockerfile"]


@pytest.mark.parametrize("role", ["agent", "prometheus"])
def test_a_dockerfile_takes_its_base_as_an_argument(role: str) -> None:
    lines = build_context(role)["Dockerfile"].decode().splitlines()
    assert f"ARG BASE={DEFAULT_BASE}" in lines
    assert [line for line in lines if line.startswith("FROM ")] == ["FROM ${BASE}"]


FILES = {"Dockerfile": b"FROM x\n", "a.py": b"1\n"}


def test_a_tag_is_the_role_the_version_and_a_digest() -> None:
    name, _, tag = image_tag("agent", FILES).partition(":")
    version, _, digest = tag.rpartition("-")
    assert (name, version, len(digest)) == ("chaosorca-agent", chaosorca.__version__, 12)


def test_the_same_files_have_the_same_tag() -> None:
    assert image_tag("agent", dict(reversed(FILES.items()))) == image_tag("agent", FILES)
    assert image_tag("agent", build_context("agent")) == image_tag("agent", build_context("agent"))


@pytest.mark.parametrize(
    "changed",
    [
        {**FILES, "a.py": b"2\n"},
        {**FILES, "a.py": b"1"},
        {**FILES, "b.py": b""},
        {"Dockerfile": FILES["Dockerfile"]},
        {"Dockerfile": FILES["Dockerfile"], "b.py": FILES["a.py"]},
        {"Dockerfile": FILES["a.py"], "a.py": FILES["Dockerfile"]},
        {"Dockerfile": b"FROM x\na.py", "": b"1\n"},
    ],
)
def test_a_changed_byte_or_name_is_another_tag(changed: dict[str, bytes]) -> None:
    assert image_tag("agent", changed) != image_tag("agent", FILES)


def test_a_changed_pin_is_another_tag() -> None:
    files = build_context("agent")
    pins = files["requirements.txt"]
    assert re.findall(rb"^bookworm (\S+)=\d\S+\*$", pins, re.MULTILINE) == [b"python3-capstone", b"python3-prometheus-client"]
    changed = {**files, "requirements.txt": pins.replace(b"capstone=4.0.2", b"capstone=5.0.1")}
    assert image_tag("agent", changed) != image_tag("agent", files)


def test_another_role_is_another_image() -> None:
    assert image_tag("prometheus", FILES) != image_tag("agent", FILES)


class FakeClient:
    """A fake engine with some images and a prepared build output."""

    def __init__(self, images: tuple[str, ...] = (), steps: tuple[dict[str, str], ...] = ()) -> None:
        self._images, self._steps = images, steps
        self.images = self.api = self
        self.built: dict[str, Any] = {}

    def get(self, tag: str) -> Any:
        if tag not in self._images:
            raise docker.errors.ImageNotFound(f"no such image: {tag}")
        return SimpleNamespace(attrs={"Created": "2026-01-02T03:04:05Z"})

    def build(self, **options: Any) -> Any:
        self.built = options
        return iter(self._steps)


def test_an_existing_image_is_not_built() -> None:
    tag = image_tag("agent", build_context("agent"))
    client = FakeClient((tag,))
    assert ensure_image(client, "agent", None) == tag
    assert client.built == {}


def test_a_missing_image_is_built_from_the_context() -> None:
    client = FakeClient(steps=({"stream": "Step 1/2 : FROM x"}, {"stream": "\n"}, {"status": "Pulling"}, {"aux": ""}))
    tag = ensure_image(client, "agent", {"chaosorca_base_image": "debian:trixie"})
    assert tag == image_tag("agent", build_context("agent"))
    assert client.built["tag"] == tag
    assert client.built["buildargs"] == {"BASE": "debian:trixie"}
    assert client.built["labels"] == {"chaosorca.role": "agent"}
    with tarfile.open(fileobj=io.BytesIO(client.built["fileobj"].read())) as tar:
        files = {entry.name: tar.extractfile(entry) for entry in tar}
        assert {name: file.read() for name, file in files.items() if file} == build_context("agent")


def test_a_failed_build_reports_the_error_and_the_output_before_it() -> None:
    client = FakeClient(steps=({"stream": "Step 1/2 : FROM x"}, {"stream": "E: no route"}, {"error": "returned 100\n"}))
    with pytest.raises(
        EngineError, match=r"could not be built on 'debian:bookworm-slim': returned 100 \(before that: E: no route\)"
    ):
        ensure_image(client, "prometheus", None)


def test_an_image_tells_when_it_was_created() -> None:
    client = FakeClient(("a:1",))
    assert image_created(client, "a:1") == "2026-01-02T03:04:05Z"
    assert image_created(client, "a:2") is None


@pytest.mark.parametrize(
    ("interval", "text"),
    [(1_000_000, "1s"), (250_000, "250ms"), (500_000, "500ms"), (1_500_000, "1500ms"), (60_000_000, "1m"), (90_000_000, "90s")],
)
def test_prometheus_scrapes_the_agent_by_name_at_the_interval(interval: int, text: str) -> None:
    assert yaml.safe_load(prometheus_configuration(interval)) == {
        "global": {"scrape_interval": text, "scrape_timeout": text},
        "scrape_configs": [{"job_name": "chaosorca", "static_configs": [{"targets": [f"chaosorca-agent:{METRICS_PORT}"]}]}],
    }
