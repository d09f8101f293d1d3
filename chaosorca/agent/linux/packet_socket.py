"""Packet sockets in the network namespaces of containers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path

from chaosorca.agent.linux.libc import last_error, libc

_SO_ATTACH_BPF = 50
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
_SIOCGIFINDEX = 0x8933
_ETH_P_ALL = 0x0003
_CLONE_NEWNET = 0x40000000
_EXIT_STRANDED = 70


class PacketSocket:
    """A packet socket in another network namespace. Its filter sees each packet of one device once."""

    def __init__(self, network_namespace: Path, device: str, filter_fd: int) -> None:
        """Open the socket and attach the filter.

        The calling thread enters the namespace for a moment. If the thread cannot return to its own namespace, the process ends,
        since no thread of the agent may continue in a container's namespace.

        Arguments:
            network_namespace: a file such as /proc/PID/ns/net.
            device: the device's name in that namespace.
            filter_fd: the descriptor of an eBPF socket filter.

        Raises:
            OSError: the device does not exist, or the kernel refuses the socket.
        """
        self._device = struct.pack("16si20x", device.encode(), 0)
        with open("/proc/thread-self/ns/net") as own, open(network_namespace) as other:
            _enter_network(other.fileno())
            try:
                # A socket with protocol 0 receives nothing, so no packet arrives before the filter is attached.
                self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            finally:
                try:
                    _enter_network(own.fileno())
                except OSError:
                    os._exit(_EXIT_STRANDED)
        try:
            self._index = self._device_index()
            if device == "lo":
                # Loopback shows each packet twice, outgoing and incoming. Linux 4.20 and later can leave out the outgoing copy.
                with contextlib.suppress(OSError):
                    self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, filter_fd)
            # Python's bind() would look up the name in the agent's namespace. Bind by index (packet(7), struct sockaddr_ll).
            address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(_ETH_P_ALL), self._index, 0, 0, 0, b"")
            if libc.bind(self._socket.fileno(), address, len(address)) != 0:
                raise last_error("binding a packet socket")
        except BaseException:
            self._socket.close()
            raise

    def is_current(self) -> bool:
        """Return whether the device's name still belongs to the same device."""
        try:
            return self._device_index() == self._index
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _device_index(self) -> int:
        return int(struct.unpack_from("i", fcntl.ioctl(self._socket, _SIOCGIFINDEX, self._device), 16)[0])


def _enter_network(fd: int) -> None:
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise last_error("entering a network namespace")
