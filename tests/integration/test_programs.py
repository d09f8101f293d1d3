"""The programs for the kernel that the agent's image has, as the agent loads them."""

from __future__ import annotations

import json
from collections.abc import Callable

import docker
from docker.models.containers import Container

from chaosorca.engine.images import ensure_image
from chaosorca.model.contract import CAPABILITIES

SCRIPT = """
import json, os, resource, subprocess, sys
from pathlib import Path
from chaosorca.agent.ebpf.library import possible_processors
from chaosorca.agent.ebpf.program import Program
from chaosorca.model.contract import PROGRAMS

def told(*arguments, **options):
    try:
        Program(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

counting = Program("syscalls", {"errors": ("=III", "=Q"), "marks": ("=I", "=B"), "dropped": ("=I", "=Q")})
many = 5000
for thread in range(many):
    counting["marks"].put(thread, thread % 256)
tables = {"dropped": counting["dropped"].entries(), "marks": len(counting["marks"])}
tables["right"] = sorted(counting["marks"].entries()) == [(thread, thread % 256) for thread in range(many)]
tables["same"] = sorted(counting["marks"]._entries_one_by_one()) == sorted(counting["marks"].entries())
tables["ids"] = counting["marks"].id() != counting["errors"].id()
first = Program("http", {"counts": ("=IHBB", "=Q")})
first["counts"].put((1, 200, 0, 1), [3] * possible_processors())
shared = Program("http", {"counts": ("=IHBB", "=Q")}, maps_of=first)["counts"].get((1, 200, 0, 1))[0]
open_before = len(os.listdir("/proc/self/fd"))
Program("http_target", {}, {"TARGET": 7}, maps_of=first).close()
errors = {
    "missing": told("nothing", {}),
    "constant": told("http_target", {}, {"NOBODY": 1}),
    "layout": told("syscalls", {"errors": ("=II", "=Q")}),
    "map": told("syscalls", {"nowhere": ("=I", "=I")}),
}
left = len(os.listdir("/proc/self/fd")) - open_before
os.setgid(65534), os.setuid(65534)
errors["rights"] = told("http", {})
print(json.dumps({"tables": tables, "shared": shared, "errors": errors, "left": left, "objects": sorted(os.listdir(PROGRAMS))}))
"""


def test_programs_are_loaded_and_their_maps_read(client: docker.DockerClient, run_container: Callable[..., Container]) -> None:
    container = run_container(
        ["-c", SCRIPT],
        image=ensure_image(client, "agent", None),
        entrypoint="python3",
        cap_drop=["ALL"],
        cap_add=[*CAPABILITIES, "SETUID", "SETGID"],
        security_opt=["seccomp=unconfined"],
    )
    assert container.wait()["StatusCode"] == 0, container.logs().decode()
    assert container.logs(stdout=False) == b"", "libbpf says nothing by itself"
    found = json.loads(container.logs())
    assert found["objects"] == ["arm.o", "http.o", "http_target.o", "syscalls.o", "syscalls_plain.o", "tls.o"]
    assert found["tables"] == {"dropped": [[0, 0]], "marks": 5000, "right": True, "same": True, "ids": True}
    assert (found["shared"], found["left"]) == (3, 0)
    errors = found["errors"]
    assert errors["missing"].startswith("AgentError: the eBPF program 'nothing' cannot be loaded: No such file or directory (")
    assert errors["constant"] == "ValueError: the program 'http_target' has no constant 'NOBODY'"
    assert errors["layout"] == "ValueError: map 'errors' of 'syscalls' has keys and values of (12, 8) bytes, not of (8, 8)"
    assert errors["map"].startswith("AgentError: the eBPF program 'syscalls' cannot be loaded: No such file or directory")
    assert errors["rights"].startswith("AgentError: the eBPF program 'http' cannot be loaded: Operation not permitted (libbpf: ")
