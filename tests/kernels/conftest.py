"""The eBPF programs of the agent's image, and the kernels that are to load them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import docker
import pytest

from chaosorca.engine.images import ensure_image
from chaosorca.model.contract import PROGRAMS
from tests.support.kernel_lab import SERIES, Mirror, boot, make_initramfs
from tests.support.project import ROOT

CACHE = ROOT / ".cache" / "kernels"
_AT_ONCE = 2


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled programs, copied out of the agent's image."""
    client, folder = docker.from_env(), tmp_path_factory.mktemp("programs")
    container = client.containers.create(ensure_image(client, "agent", None))
    try:
        chunks, _ = container.get_archive(str(PROGRAMS))
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            for member in archive.getmembers():
                if member.name.endswith(".o") and (content := archive.extractfile(member)):
                    (folder / Path(member.name).name).write_bytes(content.read())
    finally:
        container.remove(v=True)
    return folder


@pytest.fixture(scope="session")
def refusals(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Mapping[str, str]]:
    """Return why a kernel refuses each program, empty if it loads it. All kernels boot at the first call, two at a time."""
    initramfs = tmp_path_factory.mktemp("initramfs") / "initrd.gz"
    make_initramfs(programs, initramfs)
    mirror = Mirror(CACHE)
    kernels = {name: mirror.kernel(name) for name in SERIES}
    with ThreadPoolExecutor(_AT_ONCE) as guests:
        booted: dict[str, Future[Mapping[str, str]]] = {
            name: guests.submit(boot, kernel, initramfs) for name, kernel in kernels.items()
        }
    return lambda name: booted[name].result()
