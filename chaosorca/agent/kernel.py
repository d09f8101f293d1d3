"""Loading programs into the kernel: compiling with bcc, loading copies, packet sockets in other network namespaces."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import socket
import struct
import threading
from pathlib import Path
from typing import Any

from chaosorca.agent.btf import member_offsets

_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_LOAD = 5
_BPF_LINK_CREATE = 28
_KPROBE = 2
_TRACE_UPROBE_MULTI = 48
_SOCKET_FILTER = 1
_SO_ATTACH_BPF = 50
_ETH_P_ALL = 0x0003
_CLONE_NEWNET = 0x40000000

FIRST_SLOT = 8
SLOTS = 28
SLOT_BOUNDS = [2 ** (FIRST_SLOT + i) / 1e9 for i in range(SLOTS - 1)]
"""Upper bounds in seconds of the latency histograms' slots, 256 ns to 17 s in powers of two; the last slot has none."""

_libc = ctypes.CDLL(None, use_errno=True)
_compiling = threading.Lock()  # the compiler behind bcc is one for the whole process


def use_packaged_headers(modules: Path = Path("/lib/modules"), sources: Path = Path("/usr/src")) -> None:
    """Let bcc find kernel headers where the host has none: those in the image serve, since no kernel structure is read."""
    release = modules / platform.release()
    headers = sorted(sources.glob("linux-headers-*"))
    for link, suffix in (("build", f"-{_debian_arch()}"), ("source", "-common")):
        found = next((path for path in headers if path.name.endswith(suffix)), None)
        if found and not (release / link).exists():
            release.mkdir(parents=True, exist_ok=True)
            (release / link).symlink_to(found)


def _debian_arch() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def compile_program(name: str, defines: dict[str, int]) -> Any:
    """Compile `bpf/NAME.c`; return bcc's object, which attaches raw tracepoints by itself."""
    from bcc import BPF  # only the agent's image has it

    source = (Path(__file__).parent / "bpf" / f"{name}.c").read_text()
    flags = [f"-D{key}={value}" for key, value in {"FIRST_SLOT": FIRST_SLOT, "SLOTS": SLOTS, **defines}.items()]
    with _compiling:
        program = BPF(text=source, cflags=[*flags, "-Wno-macro-redefined"])
    gc.collect()
    _libc.malloc_trim(0)  # the compiler's memory is more than all the rest of the agent's
    return program


def entries(program: Any, table: str) -> list[tuple[Any, Any]]:
    """All keys and values of a map, read in batches; those of simple types as plain numbers. None of a program not loaded yet."""
    if program is None:
        return []
    pairs = program[table].items_lookup_batch()
    return [(getattr(key, "value", key), getattr(leaf, "value", leaf)) for key, leaf in pairs]


def map_id(program: Any, table: str) -> int | None:
    """The number by which another process may open a map (bpf(2), BPF_MAP_GET_FD_BY_ID)."""
    text = Path(f"/proc/self/fdinfo/{program[table].map_fd}").read_text()
    return next((int(line.split(":")[1]) for line in text.splitlines() if line.startswith("map_id:")), None)


def io_accounting_offsets(btf: Path = Path("/sys/kernel/btf/vmlinux")) -> dict[str, int]:
    """Where a task keeps the bytes that it has read and written, as definitions for `syscalls.c`; empty if unknown."""
    try:
        found = member_offsets(btf.read_bytes(), {"task_struct": {"ioac"}, "task_io_accounting": {"read_bytes", "write_bytes"}})
        base, io = found["task_struct"]["ioac"], found["task_io_accounting"]
        return {"IOAC_READ": base + io["read_bytes"], "IOAC_WRITTEN": base + io["write_bytes"]}
    except (OSError, ValueError, KeyError):
        return {}


def replace_constant(instructions: bytes, constant: int, value: int) -> bytes:
    """Return BPF instructions in which every immediate operand `constant` is `value`.

    An instruction is 8 bytes: opcode, registers, 16-bit offset, 32-bit immediate (Documentation/bpf/standardization).

    Raises:
        ValueError: the constant does not occur.
    """
    result = bytearray(instructions)
    hits = 0
    for at in range(0, len(result), 8):
        if struct.unpack_from("=I", result, at + 4)[0] == constant:
            struct.pack_into("=I", result, at + 4, value)
            hits += 1
    if not hits:
        raise ValueError(f"the program does not contain {constant:#x}")
    return bytes(result)


def load_socket_filter(instructions: bytes) -> int:
    """Load a socket filter program from its instructions; return its file descriptor (bpf(2))."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"Dual BSD/GPL")
    attributes = struct.pack(
        "=IIQQIIQII",
        _SOCKET_FILTER,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        0,
        0,
        0,
        0,
        0,
    )
    return _bpf(_BPF_PROG_LOAD, attributes, "loading a socket filter")


def packet_socket(network_namespace: Path, filter_fd: int) -> socket.socket:
    """Open a packet socket in another network namespace, with a filter that sees every packet of all of its devices.

    The calling thread is back in its own namespace when this returns, or the process ends: a thread of the agent in a
    target's namespace must not go on.
    """
    with open("/proc/thread-self/ns/net") as own, open(network_namespace) as other:
        _enter_network(other.fileno())
        try:
            # Without a protocol nothing arrives before the filter is there.
            packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        finally:
            try:
                _enter_network(own.fileno())
            except OSError:
                os._exit(70)
    packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, filter_fd)
    # Python's own bind() wants a device; 0 is all of them (packet(7), struct sockaddr_ll).
    address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(_ETH_P_ALL), 0, 0, 0, 0, b"")
    if _libc.bind(packets.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        packets.close()
        raise OSError(number, f"binding a packet socket: {os.strerror(number)}")
    return packets


def _enter_network(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"entering a network namespace: {os.strerror(number)}")


def load_uprobe_program(instructions: bytes) -> int:
    """Load a program for many uprobes from its instructions; return its file descriptor (bpf(2))."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        *(_KPROBE, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(license_text)),
        *(0, 0, 0, 0, 0, b"", 0, _TRACE_UPROBE_MULTI),
    )
    return _bpf(_BPF_PROG_LOAD, attributes, "loading a uprobe program")


def attach_uprobes(program: int, path: str, offsets: list[int], cookies: list[int]) -> int:
    """Put a program on instructions of a file, by their offsets in it; closing the descriptor that is returned takes it away."""
    name = ctypes.create_string_buffer(path.encode())
    at = (ctypes.c_uint64 * len(offsets))(*offsets)
    told = (ctypes.c_uint64 * len(cookies))(*cookies)
    attributes = struct.pack(
        "=IIIIQQQQIIQ",
        *(program, 0, _TRACE_UPROBE_MULTI, 0),
        *(ctypes.addressof(name), ctypes.addressof(at), 0, ctypes.addressof(told), len(offsets), 0, 0),
    )
    return _bpf(_BPF_LINK_CREATE, attributes, f"attaching uprobes to {path}")


def _bpf(command: int, attributes: bytes, what: str) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    fd = _libc.syscall(_BPF_SYSCALL[platform.machine()], command, buffer, len(attributes))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return int(fd)
