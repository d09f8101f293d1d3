"""A fault hits the processes of its container and no others, however the container is made."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
from chaoslib.exceptions import ActivityFailed
from docker.models.containers import Container

from chaosorca.actions.faults import start_fault, stop_fault
from tests.support.waiting import wait_for
from tests.support.web import tracers_of

pytestmark = pytest.mark.usefixtures("end_all_faults")

_ASK = '$| = 1; while (1) { print open(F, "<", "/etc/hostname") ? "open" : $!, "\\n"; select(undef, undef, undef, 0.05) }'
_STATIC = """
#include <fcntl.h>
#include <time.h>
#include <unistd.h>
int main(void)
{
    for (;;) {
        int fd = open("/observer", O_RDONLY);
        if (fd >= 0)
            close(fd);
        write(1, fd >= 0 ? "open\\n" : "failed\\n", fd >= 0 ? 5 : 7);
        nanosleep(&(struct timespec){0, 50000000}, 0);
    }
}
"""


def latest(container: Container) -> str:
    """Return the last line of the program."""
    lines = container.logs(tail=1).decode().split()
    return lines[-1] if lines else ""


def denied(container: Container) -> bool:
    return container.logs(tail=1).decode().strip() in ("Permission denied", "failed")


@pytest.mark.parametrize(
    "options",
    [
        {"pid_mode": "host"},
        {"read_only": True},
        {"security_opt": ["seccomp=unconfined"]},
        {"security_opt": ["no-new-privileges"], "cap_drop": ["ALL"], "user": "nobody"},
        {"network_mode": "none", "ipc_mode": "private", "mem_limit": "64m"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_containers_of_all_kinds_are_hit_and_released(options: dict, run_container: Callable[..., Container]) -> None:
    target = run_container(["perl", "-e", _ASK], **options)
    neighbour = run_container(["perl", "-e", _ASK], **options)
    wait_for(lambda: latest(target) == latest(neighbour) == "open")
    start_fault(container=target.name, syscall="openat", error="EACCES", path="/etc/hostname")
    wait_for(lambda: denied(target), 2)
    assert latest(neighbour) == "open"
    assert tracers_of(neighbour) == {0}
    stop_fault(container=target.name)
    wait_for(lambda: latest(target) == "open", 2)
    assert tracers_of(target) == {0}


def test_processes_in_a_user_namespace_are_hit_and_released(run_container: Callable[..., Container]) -> None:
    target = run_container(
        ["unshare", "--user", "--map-root-user", "--mount", "perl", "-e", _ASK],
        cap_add=["SYS_ADMIN"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
    )
    wait_for(lambda: latest(target) == "open")
    start_fault(container=target.name, syscall="openat", error="EACCES", path="/etc/hostname")
    wait_for(lambda: denied(target), 2)
    stop_fault(container=target.name)
    wait_for(lambda: latest(target) == "open", 2)
    assert tracers_of(target) == {0}


def test_of_a_shared_pid_namespace_only_its_own_processes_are_hit(run_container: Callable[..., Container]) -> None:
    first = run_container(["perl", "-e", _ASK])
    second = run_container(["perl", "-e", _ASK], pid_mode=f"container:{first.id}")
    wait_for(lambda: latest(first) == latest(second) == "open")
    started = start_fault(container=second.name, syscall="openat", error="EACCES")
    assert started["containers"][0]["attached"] == 1
    wait_for(lambda: denied(second), 2)
    assert latest(first) == "open"
    assert tracers_of(first) == {0}


def test_an_image_with_nothing_but_the_program(
    run_container: Callable[..., Container], client: docker.DockerClient, tmp_path: Path
) -> None:
    """It has no shell, no libc and no tools: chaosorca runs nothing inside the target."""
    (tmp_path / "observer.c").write_text(_STATIC)
    (tmp_path / "Dockerfile").write_text(
        "FROM chaosorca-test-compiler AS build\n"
        "COPY observer.c /\n"
        "RUN gcc -static -O2 -Wno-unused-result -o /observer /observer.c\n"
        "FROM scratch\n"
        "COPY --from=build /observer /observer\n"
        'CMD ["/observer"]\n'
    )
    compiler = tmp_path / "compiler"
    compiler.mkdir()
    (compiler / "Dockerfile").write_text(
        "FROM debian:bookworm-slim\nRUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev\n"
    )
    client.images.build(path=str(compiler), tag="chaosorca-test-compiler", rm=True)
    client.images.build(path=str(tmp_path), tag="chaosorca-test-scratch", rm=True)
    target = run_container(image="chaosorca-test-scratch", read_only=True)
    wait_for(lambda: latest(target) == "open")
    start_fault(container=target.name, syscall="open*", error="EMFILE")
    wait_for(lambda: denied(target), 2)
    stop_fault(container=target.name)
    wait_for(lambda: latest(target) == "open", 2)
    assert tracers_of(target) == {0}


def test_a_process_of_the_host_is_refused() -> None:
    process = subprocess.Popen(["sleep", "30"])
    try:
        with pytest.raises(ActivityFailed, match="does not exist"):
            start_fault(container=str(process.pid), syscall="openat", error="EACCES")
        time.sleep(0.1)
        assert "TracerPid:\t0" in Path(f"/proc/{process.pid}/status").read_text()
    finally:
        process.kill()
        process.wait()
