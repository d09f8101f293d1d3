"""Run the HTTP program in the kernel on packets, one by one, and print what it has counted. It runs in the agent's image.

Standard input is JSON: the steps of each conversation by name. A step is a packet, `["packet", {...}]`, or `["sweep", seconds]`,
which abandons requests older than that.
"""

from __future__ import annotations

import ctypes
import json
import struct
import sys
import time
from typing import Any

from chaosorca.agent.ebpf.library import RunOptions, check, libbpf
from chaosorca.agent.ebpf.program import Program
from chaosorca.agent.monitors import http
from chaosorca.agent.monitors.tls import SWEEP

FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16}
CONTEXT = struct.Struct("=12I5I31I")  # struct __sk_buff; the second part begins with cb[0]


def frame(packet: dict[str, Any]) -> bytes:
    """Return an Ethernet frame with a TCP segment between client and server."""
    data = packet["data"].encode("latin-1")
    from_client, version = packet["from"] == "client", packet["version"]
    client, server = (packet["port"], 80)
    ports = (client, server) if from_client else (server, client)
    flags = sum(FLAGS[flag] for flag in packet["flags"])
    tcp = struct.pack("!HHIIBBHHH", *ports, packet["seq"] % 2**32, 0, 8 << 4, flags, 65535, 0, 0) + bytes(12) + data
    ends = (
        (b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02")
        if version == 4
        else (b"\xfd" + bytes(14) + b"\x01", b"\xfd" + bytes(14) + b"\x02")
    )
    source, destination = ends if from_client else ends[::-1]
    if version == 4:
        return (
            bytes(12) + b"\x08\x00" + struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + source + destination + tcp
        )
    options = struct.pack("!BB6s", 6, 0, b"\x01\x04" + bytes(4)) if packet.get("options") else b""
    header = struct.pack("!IHBB", 6 << 28, len(options) + len(tcp), 0 if options else 6, 64)
    return bytes(12) + b"\x86\xdd" + header + source + destination + options + tcp


def give(filter_fd: int, target: int, packet: dict[str, Any], repeat: int = 1) -> int:
    """Run the program on a packet; return its duration in nanoseconds."""
    data = frame(packet)
    context = CONTEXT.pack(*[0] * 12, target, *[0] * 35)
    held = ctypes.create_string_buffer(context, len(context))
    options = RunOptions(
        sz=ctypes.sizeof(RunOptions),
        data_in=data,
        data_size_in=len(data),
        ctx_in=ctypes.addressof(held),
        ctx_size_in=len(context),
        repeat=repeat,
    )
    check(libbpf().bpf_prog_test_run_opts(filter_fd, ctypes.byref(options)))
    return int(options.duration)


def main() -> None:
    program = Program("http", http._LAYOUTS)
    filter_fd = program.fd("http")
    results = {}
    for target, (name, steps) in enumerate(json.load(sys.stdin).items()):
        took: list[int] = []
        for kind, what in steps:
            if kind == "sweep":
                oldest = int((time.monotonic() - what) * 1e9)
                program.run("sweep", SWEEP.pack(oldest, oldest, 0))
            elif kind == "many":
                for port in range(what["count"]):
                    give(filter_fd, target, {**what["packet"], "port": 1024 + port % 60000, "version": 4 if port < 60000 else 6})
            else:
                took.append(give(filter_fd, target, what, what.get("repeat", 1)))
        figures = http._Figures(program["per_target"].get(target))
        counts = {
            f"{http._ROLES[role]} {http._METHODS[method]} {code or 'none'}": sum(of_processors)
            for (number, code, role, method), of_processors in program["counts"].entries()
            if number == target
        }
        (begun, ended, swept), _ = figures.by_role
        results[name] = {
            "counts": counts,
            "unparsed": {reason: n for reason, n in zip(http._REASONS, figures.unparsed, strict=True) if n},
            "waiting": begun - ended,
            "swept": swept,
            "timed": sum(figures.durations[0].slots),
            "dropped": figures.dropped,
            "nanoseconds": min(took, default=0),
        }
    results["left"] = {table: len(program[table]) for table in ("connections", "counts")}
    sys.stdout.write(json.dumps(results))


main()
