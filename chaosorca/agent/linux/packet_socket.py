"""What the programs are attached to, beyond what libbpf does: packet sockets in other network namespaces, many uprobes at once."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct
from pathlib import Path

from chaosorca.agent.linux.btf import member_offsets

_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
_BPF_LINK_CREATE = 28
_SO_ATTACH_BPF = 50
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
_SIOCGIFINDEX = 0x8933
_ETH_P_ALL = 0x0003
_CLONE_NEWNET = 0x40000000

_AT_RETURN = 1
UPROBE_MULTI = 48
"""The attach type of programs for many uprobes at once, which Linux has from 6.6 on."""

FIRST_SLOT = 8
SLOTS = 28
SLOT_BOUNDS = [2 ** (FIRST_SLOT + i) / 1e9 for i in range(SLOTS - 1)]
"""Upper bounds in seconds of the latency histograms' slots, 256 ns to 17 s in powers of two; the last slot has none."""

_libc = ctypes.CDLL(None, use_errno=True)


def io_accounting_offsets(btf: Path = Path("/sys/kernel/btf/vmlinux")) -> dict[str, int]:
    """Where a task keeps what it has read and written, as constants of `syscalls.c`; empty if unknown."""
    names = {"IOAC_READ": "read_bytes", "IOAC_WRITTEN": "write_bytes", "IOAC_READS": "syscr", "IOAC_WRITES": "syscw"}
    try:
        found = member_offsets(btf.read_bytes(), {"task_struct": {"ioac"}, "task_io_accounting": set(names.values())})
        base, io = found["task_struct"]["ioac"], found["task_io_accounting"]
        return {constant: base + io[member] for constant, member in names.items()}
    except (OSError, ValueError, KeyError):
        return {}


class PacketSocket:
    """A packet socket in another network namespace, with a filter that sees every packet of one of its devices once."""

    def __init__(self, network_namespace: Path, device: str, filter_fd: int) -> None:
        """Open it.

        The calling thread is back in its own namespace when this returns, or the process ends: a thread of the agent in a
        target's namespace must not go on.

        Raises:
            OSError: there is no such device (any more), or the kernel refuses it.
        """
        self._device = struct.pack("16si20x", device.encode(), 0)
        with open("/proc/thread-self/ns/net") as own, open(network_namespace) as other:
            _enter_network(other.fileno())
            try:
                # Without a protocol nothing arrives before the filter is there.
                self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            finally:
                try:
                    _enter_network(own.fileno())
                except OSError:
                    os._exit(70)
        try:
            self._number = self._number_of_device()
            if device == "lo":
                # It shows every packet as outgoing and then as incoming: the first need not even be made. From Linux 4.20 on.
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, filter_fd)
            # By its number (packet(7), struct sockaddr_ll): Python's own bind() looks for its name in the agent's namespace.
            address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(_ETH_P_ALL), self._number, 0, 0, 0, b"")
            if _libc.bind(self._socket.fileno(), address, len(address)) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"binding a packet socket: {os.strerror(number)}")
        except BaseException:
            self._socket.close()
            raise

    def is_current(self) -> bool:
        """Tell whether the device that has this name is still the same."""
        try:
            return self._number_of_device() == self._number
        except OSError:
            return False

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _number_of_device(self) -> int:
        return int(struct.unpack_from("i", fcntl.ioctl(self._socket, _SIOCGIFINDEX, self._device), 16)[0])


def _enter_network(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"entering a network namespace: {os.strerror(number)}")


def takes_many_uprobes(program: int) -> bool:
    """Tell whether this kernel attaches a program to many places at once: it then says of a folder that it is no file to probe."""
    try:
        os.close(attach_uprobes(program, "/", [0], [0]))
    except OSError as error:
        return error.errno == errno.EBADF
    return True


def attach_uprobes(program: int, path: str, offsets: list[int], cookies: list[int], at_return: bool = False) -> int:
    """Put a program on instructions of a file, by their offsets in it; closing the descriptor that is returned takes it away.

    Arguments:
        at_return: the instructions begin functions, and the program is run when these return.
    """
    name = ctypes.create_string_buffer(path.encode())
    at = (ctypes.c_uint64 * len(offsets))(*offsets)
    told = (ctypes.c_uint64 * len(cookies))(*cookies)
    attributes = struct.pack(
        "=IIIIQQQQIIQ",
        *(program, 0, UPROBE_MULTI, 0),
        *(ctypes.addressof(name), ctypes.addressof(at), 0, ctypes.addressof(told), len(offsets), _AT_RETURN if at_return else 0, 0),
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    fd = _libc.syscall(_BPF_SYSCALL[platform.machine()], _BPF_LINK_CREATE, buffer, len(attributes))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"attaching uprobes to {path}: {os.strerror(number)}")
    return int(fd)
