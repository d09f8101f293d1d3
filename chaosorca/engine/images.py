"""Build the images of the agent and of Prometheus from files of this package."""

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
"""Lines of the build output that begin with one of these words are shown to the user."""


def base_image(configuration: Mapping[str, Any] | None) -> str:
    """Return the base image: the setting `chaosorca_base_image`, or `DEFAULT_BASE` if it is not set."""
    return str((configuration or {}).get("chaosorca_base_image") or DEFAULT_BASE)


def build_context(role: str) -> dict[str, bytes]:
    """Return the build context of an image: a dictionary from the path of each file to its content.

    The agent's build context includes all sources that run in the agent's container.
    """
    package = resources.files("chaosorca")
    files = {name: package.joinpath("engine", "images", role, name).read_bytes() for name in _FILES[role]}
    if role == "agent":
        files["chaosorca/__init__.py"] = package.joinpath("__init__.py").read_bytes()
        for part in ("agent", "model"):
            _collect(package.joinpath(part), f"chaosorca/{part}", files)
    return files


def image_tag(role: str, files: Mapping[str, bytes]) -> str:
    """Return the tag of an image, which consists of the version and a digest of the image's build context."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{len(files[path])}\0".encode())
        digest.update(files[path])
    return f"chaosorca-{role}:{__version__}-{digest.hexdigest()[:12]}"


def has_image(client: docker.DockerClient, name: str) -> bool:
    """Return whether the engine has an image."""
    with engine_errors(f"looking for image {name}"):
        try:
            client.images.get(name)
            return True
        except docker.errors.ImageNotFound:
            return False


def image_created(client: docker.DockerClient, name: str) -> str | None:
    """Return when an image was created, in ISO 8601. Return None if the image does not exist or records no time."""
    with engine_errors(f"looking for image {name}"):
        try:
            return client.images.get(name).attrs.get("Created") or None
        except docker.errors.ImageNotFound:
            return None


def ensure_image(client: docker.DockerClient, role: str, configuration: Mapping[str, Any] | None) -> str:
    """Return the tag of the image for `agent` or `prometheus`. Build the image first if the engine does not have it.

    Raises:
        EngineError: the image could not be built. The message includes the last output of the build.
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
        last = ""
        for step in steps:
            text = str(step.get("stream") or step.get("status") or "").strip()
            if text.startswith(_SHOWN):
                logger.info("  %s", text.splitlines()[0][:100])
            last = text or last
            if "error" in step:
                raise EngineError(
                    f"image {tag} could not be built on {base!r}: {str(step['error']).strip()} (before that: {last[-300:]}); "
                    "check the base image (chaosorca_base_image), and that package sources can be reached from the build"
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
