"""A running program passes exactly one site before each system call of the C library, as single-stepping shows."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

pytest.importorskip("capstone")

from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.sites import DETOUR, Site, find_sites

SEIZE, GETREGS, SETREGS, CONT, STEP, EXITKILL = 0x4206, 12, 13, 7, 9, 1 << 20
ALL_THREADS = 0x40000000
RAX, RIP, FLAGS = 10, 16, 18  # in `struct user_regs_struct`
CARRY, PARITY, ZERO, SIGN, OVERFLOW = (1 << bit for bit in (0, 2, 6, 7, 11))

CALLS = """
import os, select, socket, sys, tempfile, threading, time
folder = tempfile.mkdtemp()
a, b = socket.socketpair()
server = socket.socket(socket.AF_UNIX)
server.bind(folder + "/socket")
server.listen()
poll = select.poll()
poll.register(b, select.POLLOUT)
epoll = select.epoll()
epoll.register(b, select.EPOLLOUT)
if sys.argv[1] == "threads":
    held = os.pipe()[0]
    other = threading.Thread(target=os.read, args=(held, 1), daemon=True)
    other.start()
    while not open(f"/proc/self/task/{other.native_id}/syscall").read().startswith("0 "):
        time.sleep(0.001)  # it must block for good, since no tracer is attached to it
os.write(1, b"!")
os.read(0, 1)
for _ in range(3):
    file = os.open(folder + "/file", os.O_RDWR | os.O_CREAT)
    os.write(file, b"some"), os.pwrite(file, b"bytes", 9), os.writev(file, [b"x", b"y"]), os.pwritev(file, [b"z"], 3)
    os.lseek(file, 0, 0), os.read(file, 3), os.pread(file, 3, 2), os.readv(file, [bytearray(2)]), os.preadv(file, [bytearray(2)], 1)
    os.fsync(file), os.fdatasync(file), os.fstat(file), os.stat(folder), os.ftruncate(file, 100), os.posix_fallocate(file, 0, 10)
    a.send(b"1"), b.recv(1), a.sendmsg([b"2"]), b.recvmsg(1), a.sendall(b"3"), b.recv_into(bytearray(1))
    os.sendfile(a.fileno(), file, 0, 1), poll.poll(0), epoll.poll(0), select.select([b], [], [], 0)
    client = socket.socket(socket.AF_UNIX)
    client.connect(folder + "/socket"), server.accept()[0].close(), client.close()
    os.getppid(), os.getrandom(3), time.sleep(0.0001), os.close(os.dup(file)), os.close(file)
    os.rename(folder + "/file", folder + "/other"), os.unlink(folder + "/other"), os.listdir(folder), bytearray(1 << 20)
    try:
        os.open("/nowhere", 0)
    except OSError:
        pass
os.unlink(folder + "/socket"), os.rmdir(folder)
os._exit(7)
"""
MADE = {0, 1, 3, 17, 18, 19, 20, 40, 42, 44, 45, 74, 75, 110, 257, 288}
ARGUMENTS = (12, 13, 14)  # %rdx, %rsi, %rdi
CANCELLABLE = {0, 1, 17, 42, 74, 75, 288}  # read, write, pread64, connect, fsync, fdatasync, accept4


def holds(condition: int | None, flags: int) -> bool:
    """Return whether a condition code holds with these flags (Intel SDM, volume 1, appendix B)."""
    if condition is None:
        return True
    carry, parity, zero, sign, overflow = (bool(flags & bit) for bit in (CARRY, PARITY, ZERO, SIGN, OVERFLOW))
    less = sign != overflow
    return (overflow, carry, zero, carry or zero, sign, parity, less, zero or less)[condition >> 1] != bool(condition & 1)


class Tracee:
    """A traced process with breakpoints on all sites and system calls of its C library."""

    def __init__(self, pid: int, library: Path, sites: tuple[Site, ...]) -> None:
        self.pid = pid
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        self.registers = (ctypes.c_ulonglong * 27)()
        self.moved = next(
            int(line.split("-")[0], 16) - int(line.split()[2], 16)
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
            if line.endswith(f" {library}") and "x" in line.split()[1]
        )
        self.probes: dict[int, list[Site]] = defaultdict(list)
        for site in sites:
            self.probes[self.moved + site.offset].append(site)
        self.calls = {self.moved + site.offset + site.to_syscall for site in sites}
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        self._bytes = {at: os.pread(self._memory, 1, at) for at in self.calls | set(self.probes)}
        self.made: Counter[int] = Counter()
        self.passed: Counter[Site] = Counter()
        self.detours: Counter[Site] = Counter()

    def ptrace(self, request: int, data: object = None) -> None:
        if self._libc.ptrace(request, self.pid, None, data) == -1:
            raise OSError(ctypes.get_errno(), f"ptrace {request}")

    def begin(self) -> None:
        try:
            self.ptrace(SEIZE, EXITKILL)
        except OSError as error:
            pytest.skip(f"no process may be traced here: {error.strerror}")
        for at in self._bytes:
            os.pwrite(self._memory, b"\xcc", at)

    def run(self) -> int:
        """Trace the process until it ends; return its exit code."""
        while True:
            _, status = os.waitpid(self.pid, ALL_THREADS)
            if not os.WIFSTOPPED(status):
                return os.waitstatus_to_exitcode(status)
            assert os.WSTOPSIG(status) == signal.SIGTRAP
            self.ptrace(GETREGS, ctypes.addressof(self.registers))
            at = self.registers[RIP] - 1
            assert at not in self.calls, f"no site was passed before the call at {at - self.moved:#x}"
            self.registers[RIP] = at
            self.ptrace(SETREGS, ctypes.addressof(self.registers))
            if not self._pass_site(at):
                return self._ended()
            self.ptrace(CONT)

    def _pass_site(self, at: int) -> bool:
        here = self.probes[at]
        straight = [site for site in here if holds(site.condition, self.registers[FLAGS])]
        passed = straight or [site for site in here if site.detour is not None]
        assert len(passed) <= 1
        arguments = [self.registers[number] & 0xFFFFFFFF for number in ARGUMENTS]
        self._step(at)
        if not passed:
            return True
        (site,) = passed
        self.passed[site] += 1
        if not straight:
            return self._take_detour(site, at + (site.detour or 0), arguments)
        call = at + site.to_syscall
        assert self.registers[RIP] == at + (site.to_syscall if site.to_next is None else site.to_next)
        while (now := self.registers[RIP]) != call:
            assert now not in self.probes
            self._step(now)
            assert now < self.registers[RIP] <= call
        number = self.registers[RAX]
        assert site.nr in (None, number)
        self.made[number] += 1
        return self._step(call)

    def _take_detour(self, site: Site, begin: int, arguments: list[int]) -> bool:
        """Step the process to the other `syscall`, which makes the same call."""
        assert self.registers[RIP] == begin
        self.detours[site] += 1
        while (now := self.registers[RIP]) not in range(begin, begin + DETOUR + 1) or os.pread(self._memory, 2, now) != b"\x0f\x05":
            assert now not in self._bytes
            self._step(now)
        assert self.registers[RAX] == site.nr
        if site.nr in CANCELLABLE:  # the call has the arguments of the function
            assert [self.registers[number] & 0xFFFFFFFF for number in ARGUMENTS] == arguments
        self.made[self.registers[RAX]] += 1
        return self._step(now)

    def _step(self, at: int) -> bool:
        """Execute the instruction at an address; return whether the process still runs."""
        if at in self._bytes:
            os.pwrite(self._memory, self._bytes[at], at)
        self.ptrace(STEP)
        if self.registers[RAX] == 231 and at in self.calls:  # exit_group
            return False
        _, status = os.waitpid(self.pid, ALL_THREADS)
        assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP, hex(status)
        if at in self._bytes:
            os.pwrite(self._memory, b"\xcc", at)
        self.ptrace(GETREGS, ctypes.addressof(self.registers))
        return True

    def _ended(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, ALL_THREADS)[1])


def c_library() -> Path | None:
    """Return the C library of this process, if it is glibc for x86-64."""
    lines = Path("/proc/self/maps").read_text().splitlines() if platform.machine() == "x86_64" else []
    return next((Path(line.split(maxsplit=5)[5]) for line in lines if line.endswith("/libc.so.6")), None)


@pytest.mark.parametrize("how", ["alone", "threads"])
def test_each_call_passes_one_site(how: str) -> None:
    library = c_library()
    if library is None:
        pytest.skip("this Python does not use glibc for x86-64")
    sites = find_sites(Elf(library.read_bytes())).sites
    with subprocess.Popen([sys.executable, "-c", CALLS, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.read(1) == b"!"
            tracee = Tracee(process.pid, library, sites)
            tracee.begin()
            process.stdin.write(b"!")
            process.stdin.flush()
            process.returncode = tracee.run()
        finally:
            if process.returncode is None:
                process.kill()
    assert process.returncode == 7
    assert MADE - set(tracee.made) == set()
    if {site.nr for site in sites if site.detour is not None} >= CANCELLABLE:
        # The branch between the two paths is the site. In a process with threads it leads to the second path.
        assert {site.nr for site in tracee.passed if site.detour is not None} >= CANCELLABLE
        assert {site.nr for site in tracee.detours} >= (CANCELLABLE if how == "threads" else set())
