"""The eBPF programs of the agent's image, loaded as the agent loads them."""

from __future__ import annotations

import json
from collections.abc import Callable

import docker
from docker.models.containers import Container

from chaosorca.engine.images import ensure_image
from chaosorca.model.capabilities import CAPABILITIES

SCRIPT = """
import json, os, resource, subprocess, sys
from pathlib import Path
from chaosorca.agent.ebpf.library import possible_processors
from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.monitors import http, syscalls
from chaosorca.model.contract import PROGRAMS

def error_of(*arguments, **options):
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
dumps = {name: Program(name, module._LAYOUTS).dump(limit=2) for name, module in (("http", http), ("syscalls", syscalls))}
dumped = {name: {table: (one["entries"], len(one["content"])) for table, one in dump.items()} for name, dump in dumps.items()}
first = Program("http", {"counts": ("=IHBB", "=Q")})
first["counts"].put((1, 200, 0, 1), [3] * possible_processors())
shared = Program("http", {"counts": ("=IHBB", "=Q")}, maps_of=first)["counts"].get((1, 200, 0, 1))[0]
open_before = len(os.listdir("/proc/self/fd"))
Program("http_target", {}, {"TARGET": 7}, maps_of=first).close()
errors = {
    "missing": error_of("nothing", {}),
    "constant": error_of("http_target", {}, {"NOBODY": 1}),
    "layout": error_of("syscalls", {"errors": ("=II", "=Q")}),
    "map": error_of("syscalls", {"nowhere": ("=I", "=I")}),
}
left = len(os.listdir("/proc/self/fd")) - open_before
os.setgid(65534), os.setuid(65534)
errors["rights"] = error_of("http", {})
json.dumps(dumps)
found = {"tables": tables, "dumped": dumped, "shared": shared, "errors": errors, "left": left}
print(json.dumps({**found, "objects": sorted(os.listdir(PROGRAMS))}))
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
    assert container.logs(stdout=False) == b"", "libbpf writes nothing itself"
    found = json.loads(container.logs())
    assert found["objects"] == ["arm.o", "http.o", "http_target.o", "syscalls.o", "syscalls_plain.o", "tls.o"]
    assert found["tables"] == {"dropped": [[0, 0]], "marks": 5000, "right": True, "same": True, "ids": True}
    assert found["dumped"]["http"] == {
        "connections": [0, 0],
        "counts": [0, 0],
        "per_target": [1024, 2],
        "parser": [1, 0],
        "tls_unseen": [512, 2],
    }
    assert found["dumped"]["syscalls"][".bss"] == [1, 1]
    assert (found["shared"], found["left"]) == (3, 0)
    errors = found["errors"]
    assert errors["missing"].startswith("AgentError: the eBPF program 'nothing' cannot be loaded: No such file or directory (")
    assert errors["constant"] == "ValueError: the program 'http_target' has no constant 'NOBODY'"
    assert (
        errors["layout"] == "ValueError: map 'errors' of 'syscalls' has keys and values of (12, 8) bytes, but the layout has (8, 8)"
    )
    assert errors["map"].startswith("AgentError: the eBPF program 'syscalls' cannot be loaded: No such file or directory")
    assert errors["rights"].startswith("AgentError: the eBPF program 'http' cannot be loaded: Operation not permitted (libbpf: ")
