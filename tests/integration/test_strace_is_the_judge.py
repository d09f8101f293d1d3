"""Faults and file arguments mean the same here as to strace. The strace of the agent's image decides."""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from typing import Any

import docker
import pytest

from chaosorca.agent.injectors.strace import strace_command
from chaosorca.engine.images import ensure_image
from chaosorca.model.arguments import file_arguments
from chaosorca.model.errno import ERRNO_NAMES
from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import NEVER_RETURN, Fault, parse_fault, read_fault
from chaosorca.model.injectors import strace_cannot
from chaosorca.model.signals import SIGNALS, STOPPING
from chaosorca.model.syscall_table import machine, syscall_classes, syscall_numbers

# strace parses all options first, so with -V it checks them and traces no process.
_JUDGE = """
import json, subprocess
says = []
for options in json.load(open("/asked.json")):
    done = subprocess.run(["strace", *options], capture_output=True, text=True, timeout=10)
    says.append([done.returncode, done.stderr.strip()])
print(json.dumps(says))
"""

# Make each call with a file's path and with its descriptor, as each of its arguments in turn. No call is really made: a seccomp
# filter fails each call that has a mark in its sixth argument, with an errno that names the argument.
_PROBE = """
import ctypes, json, os, struct
MARK, LOAD, IF_EQUAL, RETURN, ALLOW, ERRNO = 0x7A7A7A00, 0x20, 0x15, 0x06, 0x7FFF0000, 0x50000
calls = json.load(open("/asked.json"))
libc = ctypes.CDLL(None)
rules = [(LOAD, 0, 0, 16 + 5 * 8)]
for number in range(1, 11):
    rules += [(IF_EQUAL, 0, 1, MARK + number), (RETURN, 0, 0, ERRNO | number)]
rules.append((RETURN, 0, 0, ALLOW))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))) == 0
path = ctypes.create_string_buffer(b"/asked.json")
file = os.open(b"/asked.json", os.O_RDONLY)
for number in calls:
    for at in range(5):
        for kind, value in enumerate((ctypes.addressof(path), file)):
            values = [value if one == at else 0 for one in range(5)]
            libc.syscall(*map(ctypes.c_long, [number, *values, MARK + 1 + 2 * at + kind]))
"""

ONLY_WE_REFUSE = {
    "two separators in a row, or one at the end": ["getpid::error=EIO", "getpid:error=EIO:", "getpid,:error=EIO"],
    "a part that is given twice": ["getpid:error=EIO:when=1:when=2"],
    "numbers, where names are clearer": ["getpid:error=13", "getpid:signal=10", "39:error=EIO"],
    "errors that no program ever gets": ["getpid:error=ERESTARTSYS"],
    "real-time signals": ["getpid:signal=SIGRTMIN", "getpid:signal=64"],
    "malformed numbers": [
        "getpid:retval=0x10",
        "getpid:delay_exit=1e3us",
        "getpid:error=EIO:when=+3",
        "getpid:error=EIO:when=2..9+",
    ],
    "results that are errors": ["getpid:retval=-1", "getpid:retval=9223372036854775808"],
    "delays without a unit, of zero, below a microsecond, or of centuries": [
        *("getpid:delay_enter=100", "getpid:delay_enter=0ms", "getpid:delay_exit=0.1us", "getpid:delay_enter=9000000000000s"),
    ],
    "results of calls that never return": ["exit_group:error=EIO", "exit_group:retval=0", "getpid:signal=SIGKILL:error=EIO"],
    "strace's other ways to select calls": [
        "all:error=EIO",
        "!getpid:error=EIO",
        "/^getp:error=EIO",
        "?nosuch:error=EIO",
        "file:error=EIO",
    ],
}

BOTH_REFUSE = [
    *("getpid", "getpid:", ":error=EIO", "getpid:when=3", "getpid error=EIO"),
    *("opennat:error=EIO", "GETPID:error=EIO", "%fil:error=EIO", "%:error=EIO", "*:error=EIO"),
    *(
        "getpid:eror=EIO",
        "getpid:ERROR=EIO",
        "getpid:error",
        "getpid:error=",
        "getpid:error=EFOO",
        "getpid:error=0",
        "getpid:error=-13",
    ),
    *("getpid:error=EIO:error=EIO", "getpid:error=EIO:retval=0", "getpid:error=4096", "getpid:error=EIO,EPERM"),
    *("getpid:retval=", "getpid:retval=x", "getpid:retval=1.5", "getpid:retval=18446744073709551616"),
    *("getpid:signal=SIGUSR3", "getpid:signal=", "getpid:signal=0", "getpid:signal=65", "getpid:signal=HUP,INT"),
    *(
        "getpid:delay_enter=",
        "getpid:delay_enter=-1s",
        "getpid:delay_enter=1m30s",
        "getpid:delay_enter=1 s",
        "getpid:delay_enter=1S",
    ),
    *("getpid:delay_enter=soon", "getpid:delay_enter=1s:delay_enter=2s", "getpid:signal=SIGHUP:signal=SIGINT"),
    *(f"getpid:error=EIO:when={when}" for when in ("", "0", "0+", "1+0", "0..3", "65536", "1+65536", "1..65536", "9..2", "9..2+1")),
    *(
        f"getpid:error=EIO:when={when}"
        for when in ("..9", "1..", "2-9", "1,2", "-1", "3++", "0x3", "1e3", "a", "1+2+3", "1.5", "1...3")
    ),
]

NOT_FILES = {
    "sockets": """bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto
        setsockopt shutdown""",
    "processes": "pidfd_getfd pidfd_send_signal process_madvise process_mrelease",
    "namespaces": "setns",
    "calls that only wait": "epoll_wait epoll_pwait epoll_pwait2 inotify_rm_watch",
    "calls that Linux does not implement": "getpmsg putpmsg",
}
ONLY_STRACE = {
    **{(name, 0, "fd"): why for why, names in NOT_FILES.items() for name in names.split()},
    ("inotify_add_watch", 0, "fd"): "calls that only wait",
    ("dup2", 1, "fd"): "the number for the new descriptor",
    ("dup3", 1, "fd"): "the number for the new descriptor",
    ("getcwd", 0, "path"): "a result",
}
ONLY_WE = {("rename", 1, "path"): "strace 6.1 checks the old name only"}


@pytest.fixture
def arch(client: docker.DockerClient) -> str:
    return machine(client.version()["Arch"])


def ask(client: docker.DockerClient, asked: Any, command: list[str]) -> str:
    """Run a command in a container of the agent's image, with a request in a file; return its output."""
    content, archive = json.dumps(asked).encode(), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("asked.json")
        entry.size, entry.mode = len(content), 0o644
        tar.addfile(entry, io.BytesIO(content))
    container = client.containers.create(
        ensure_image(client, "agent", None),
        command[1:],
        entrypoint=command[0],
        network_mode="none",
        cap_drop=["ALL"],
        cap_add=["SYS_PTRACE"],
        security_opt=["seccomp=unconfined"],
    )
    try:
        container.put_archive("/", archive.getvalue())
        container.start()
        status = container.wait(timeout=60)["StatusCode"]
        output = container.logs(stdout=True, stderr=False).decode()
        assert status == 0, container.logs().decode()
        return output
    finally:
        container.remove(force=True, v=True)


def options_of(fault: Fault) -> list[str]:
    """Return strace's options for a fault, as the agent gives them, without those that name the processes."""
    return strace_command(fault, [1], 1)[1:-2]


def some_fault_on(name: str, arch: str) -> Fault:
    return parse_fault(arch, name, **({"delay_enter": "1ms"} if name in NEVER_RETURN else {"error": "EIO"}))


def expressible_faults(arch: str) -> list[Fault]:
    """Return faults with every system call, class, error, signal and form of `when`, and with all combinations of effects."""
    faults = [some_fault_on(name, arch) for name in syscall_numbers(arch)]
    groups = [f"%{name}" for name, members in syscall_classes().items() if members & syscall_numbers(arch).keys()]
    faults += [parse_fault(arch, group, "EIO") for group in (*groups, "open*", "stat*", "read*", "write*", "fork*", "epoll_*")]
    faults += [parse_fault(arch, "getpid", error) for error in ERRNO_NAMES.values()]
    faults += [parse_fault(arch, "getpid", signal=signal) for signal in SIGNALS if signal not in STOPPING]
    whens = ["1", "3", "65535", "1+", "65535+", "1+3", "65535+65535", "1..1", "2..9", "1..65534", "2..9+2", "1..65534+65535", "007"]
    faults += [parse_fault(arch, "getpid", "EIO", when=when) for when in whens]
    spans = ["1us", "999us", "1ms", "0.5ms", "1s", "90s", "59m", "24h", "8784h"]
    delays = itertools.product(("delay_enter", "delay_exit"), spans)
    faults += [parse_fault(arch, "getpid", duration="8784h", **{name: span}) for name, span in delays]
    faults += [parse_fault(arch, "getpid", retval=retval) for retval in (0, 1, 4096, 2**31, 2**32, 2**63 - 1)]
    results: tuple[dict[str, Any], ...] = ({}, {"error": "EAGAIN"}, {"retval": 7})
    for result, signal, enter, leave, when in itertools.product(
        results, (None, "SIGUSR1"), (None, "1ms"), (None, "2s"), (None, "2..9+2")
    ):
        if result or signal or enter or leave:
            faults.append(
                parse_fault(arch, "getpid,openat", **result, signal=signal, delay_enter=enter, delay_exit=leave, when=when)
            )
    faults += [parse_fault(arch, "getpid,openat", "EIO", when="3+", placebo=True)]
    return [fault for fault in faults if strace_cannot(fault, arch) is None]


def test_strace_takes_every_fault_that_it_can_express(client: docker.DockerClient, arch: str) -> None:
    faults = expressible_faults(arch)
    unmade = [fault for fault in faults if fault.syscalls == ("getpid",)]  # `true` never calls it, so these can run
    asked = [[*options_of(fault), "-V"] for fault in faults]
    asked += [[*options_of(fault), "-o", "/dev/null", "true"] for fault in unmade]
    says = json.loads(ask(client, asked, ["python3", "-c", _JUDGE]))
    refused = [(" ".join(options), error) for options, (status, error) in zip(asked, says, strict=True) if status != 0]
    assert refused == []
    assert len(faults) > 550
    assert len(unmade) > 180
    warnings = [error for _status, error in says if error]
    assert all("in compat personality" in warning for warning in warnings)  # a 32-bit program would see this of a large retval


def test_strace_refuses_calls_that_are_newer_than_it(client: docker.DockerClient, arch: str) -> None:
    newer = [fault for fault in (some_fault_on(name, arch) for name in syscall_numbers(arch)) if strace_cannot(fault, arch)]
    says = json.loads(ask(client, [[*options_of(fault), "-V"] for fault in newer], ["python3", "-c", _JUDGE]))
    assert len(newer) > 10
    wanted = [[1, f"strace: invalid system call '{fault.syscalls[0]}'"] for fault in newer]
    assert says == wanted


def test_strace_refuses_the_same_faults_except_for_listed_differences(client: docker.DockerClient, arch: str) -> None:
    only_we = [text for texts in ONLY_WE_REFUSE.values() for text in texts]
    texts = [*BOTH_REFUSE, *only_we]
    for text in texts:
        with pytest.raises(InvalidArgument):
            read_fault(text, arch)
    says = json.loads(ask(client, [["-e", f"inject={text}", "-V"] for text in texts], ["python3", "-c", _JUDGE]))
    assert [text for text, (status, _error) in zip(texts, says, strict=True) if status == 0] == only_we


def test_strace_finds_files_in_the_same_arguments(client: docker.DockerClient, arch: str) -> None:
    numbers_of = syscall_numbers(arch)
    supported = {name: number for name, number in numbers_of.items() if not strace_cannot(some_fault_on(name, arch), arch)}
    command = ["strace", "-qq", "-e", "signal=none", "-P", "/asked.json", "-o", "/dev/stdout", "python3", "-c", _PROBE]
    numbers = {name: number for number, name in ERRNO_NAMES.items()}
    found = set()
    for line in ask(client, list(supported.values()), command).splitlines():
        match = re.fullmatch(r"(\w+)\(.*\)? += -1 (E\w+) .*", line)
        if match and numbers[match[2]] <= 10:
            at, is_fd = divmod(numbers[match[2]] - 1, 2)
            found.add((match[1], at, "fd" if is_fd else "path"))
    ours = set()
    for name in supported:
        for argument in file_arguments(name):
            ours.add((name, argument.index, "path" if argument.is_path else "fd"))
            if argument.directory is not None:
                ours.add((name, argument.directory, "fd"))
    assert len(found) > 150 - 40 * (arch == "aarch64")
    assert found - ours == {one for one in ONLY_STRACE if one[0] in supported}
    assert ours - found == {one for one in ONLY_WE if one[0] in supported}
