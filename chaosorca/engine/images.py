"""Building the images of the agent and of Prometheus from what is in this package."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import docker
import docker.errors
from logzero import logger

from chaosorca import __version__
from chaosorca.engine.client import engine_errors
from chaosorca.exceptions import EngineError
from chaosorca.model.contract import ROLE_LABEL

DEFAULT_BASE = "debian:bookworm-slim"
_FILES = {"agent": ("Dockerfile", "requirements.txt"), "prometheus": ("Dockerfile",)}
_SUFFIXES = (".py", ".c", ".h", ".sh", ".tsv")
_SHOWN = ("Step ", "Get:", "Note:", "Successfully")
"""How the lines of a build begin that are shown to the user."""


def base_image(configuration: Mapping[str, Any] | None) -> str:
    """The image that ours are built on: `chaosorca_base_image`, else Debian's slim one."""
    return str((configuration or {}).get("chaosorca_base_image") or DEFAULT_BASE)


def build_context(role: str) -> dict[str, bytes]:
    """Everything that an image is built from, by path: its Dockerfile, and for the agent the sources that run in it."""
    package = resources.files("chaosorca")
    files = {name: package.joinpath("engine", "images", role, name).read_bytes() for name in _FILES[role]}
    if role == "agent":
        files["chaosorca/__init__.py"] = package.joinpath("__init__.py").read_bytes()
        for part in ("agent", "model"):
            _collect(package.joinpath(part), f"chaosorca/{part}", files)
    return files


def image_tag(role: str, files: Mapping[str, bytes]) -> str:
    """The tag of an image: the version, and a digest of all that it is built from."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{len(files[path])}\0".encode())
        digest.update(files[path])
    return f"chaosorca-{role}:{__version__}-{digest.hexdigest()[:12]}"


def has_image(client: docker.DockerClient, name: str) -> bool:
    """Whether the engine has an image."""
    with engine_errors(f"looking for image {name}"):
        try:
            client.images.get(name)
            return True
        except docker.errors.ImageNotFound:
            return False


def image_created(client: docker.DockerClient, name: str) -> str | None:
    """Return when an image was created, in ISO 8601; None if it does not exist or does not say."""
    with engine_errors(f"looking for image {name}"):
        try:
            return client.images.get(name).attrs.get("Created") or None
        except docker.errors.ImageNotFound:
            return None


def ensure_image(client: docker.DockerClient, role: str, configuration: Mapping[str, Any] | None) -> str:
    """Return the tag of the image of `agent` or `prometheus`, building it first where its sources have changed.

    Raises:
        EngineError: it could not be built; the sentence ends with what the build said last.
    """
    files = build_context(role)
    tag = image_tag(role, files)
    if has_image(client, tag):
        return tag
    base = base_image(configuration)
    logger.info("building image %s on %s, which takes a minute the first time", tag, base)
    with engine_errors(f"building image {tag}"):
        steps = client.api.build(
            fileobj=_tar(files),
            custom_context=True,
            tag=tag,
            rm=True,
            forcerm=True,
            decode=True,
            buildargs={"BASE": base},
            labels={ROLE_LABEL: role},
        )
        said = ""
        for step in steps:
            text = str(step.get("stream") or step.get("status") or "").strip()
            if text.startswith(_SHOWN):
                logger.info("  %s", text.splitlines()[0][:100])
            said = text or said
            if "error" in step:
                raise EngineError(
                    f"image {tag} could not be built on {base!r}: {str(step['error']).strip()} (before that: {said[-300:]}); "
                    "check the base image (chaosorca_base_image) and that its package sources can be reached"
                )
    return tag


def _collect(directory: Traversable, path: str, files: dict[str, bytes]) -> None:
    for entry in directory.iterdir():
        if entry.is_dir():
            _collect(entry, f"{path}/{entry.name}", files)
        elif entry.name.endswith(_SUFFIXES):
            files[f"{path}/{entry.name}"] = entry.read_bytes()


def _tar(files: Mapping[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
    buffer.seek(0)
    return buffer
