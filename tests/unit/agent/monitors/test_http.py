"""The HTTP monitor: the kernel's parser, compiled for this machine, and the figures that the agent reads from the maps."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("capstone")

from chaosorca.agent.histogram import SLOTS
from chaosorca.agent.linux import proc as procfs
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.agent.monitors import http
from chaosorca.agent.monitors.http import HttpMonitor, _Monitored
from chaosorca.agent.monitors.tls import SWEEP
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError

ROOT = Path(__file__).parents[4]
BPF = Path(http.__file__).parents[1] / "bpf"
HEADERS = (BPF / "http_exchange.h").read_text() + (BPF / "http_parse.h").read_text()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the test of the parser needs gcc")
def test_the_parser_finds_messages_however_they_are_segmented(tmp_path: Path) -> None:
    compile_ = ["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g", "-O1", f"-I{BPF}"]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = ROOT / "tests" / "native" / "http" / "test_parse.c"
    subprocess.run([*compile_, *sanitize, "-o", tmp_path / "parse", source], check=True)
    result = subprocess.run([tmp_path / "parse"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout[-2000:]) == (0, "passed\n")


def names(enum: str, prefix: str) -> list[str]:
    """Return the names of an enumeration without their prefix."""
    inside = re.search(rf"enum {enum} {{(.*?)}}", re.sub(r"/\*.*?\*/", "", HEADERS), re.DOTALL)
    assert inside is not None
    return [name.strip().removeprefix(prefix) for name in inside[1].split(",") if name.strip()]


def test_kernel_and_agent_use_the_same_numbers() -> None:
    assert ["NO_METHOD", *http._METHODS[1:], "PRI"] == names("http_method", "HTTP_")
    assert [role.upper() for role in http._ROLES] == names("role", "")
    reasons = [reason.split(" ")[0].replace("/", "_").upper() for reason in http._REASONS]
    assert [*reasons, "REASONS"] == names("reason", "REASON_")
    assert f"#define TARGETS {http._TARGETS}\n" in HEADERS


class Map:
    """A map without a kernel. A key that is missing has empty figures."""

    def __init__(self, entries: dict[Any, Any]) -> None:
        self.content = entries

    def get(self, key: Any) -> Any:
        return self.content.get(key, [figures()])

    def put(self, key: Any, value: Any) -> None:
        self.content[key] = value

    def entries(self) -> list[tuple[Any, Any]]:
        return list(self.content.items())

    def delete_those(self, chosen: Any) -> None:
        self.content = {key: value for key, value in self.content.items() if not chosen(key)}


class Kernel:
    """A program without a kernel, on two processors. A sweep finds a given number of requests in flight."""

    def __init__(self) -> None:
        self.maps = {name: Map({}) for name in ("counts", "connections", "per_target", "tls_unseen")}
        self.swept = 0
        self.sweeps = 0

    def __getitem__(self, name: str) -> Map:
        return self.maps[name]

    def run(self, function: str, context: bytes) -> bytes:
        assert function == "sweep"
        self.sweeps += 1
        self.maps["per_target"].content[3][0][4] += self.swept
        return SWEEP.pack(0, 0, 12)

    def fd(self, function: str) -> int:
        return 5

    def close(self) -> None:
        pass


def figures(**values: Any) -> list[int]:
    """Return one processor's `struct figures`."""
    numbers = [*values.get("begun", (0, 0)), *values.get("ended", (0, 0)), 0, 0, *values.get("unparsed", [0] * 6)]
    server = [values.get("sum", 0), *values.get("slots", [0] * SLOTS)]
    return [*numbers, values.get("dropped", 0), *server, *[0] * (1 + SLOTS)]


@pytest.fixture
def monitored() -> tuple[HttpMonitor, Kernel]:
    """A monitor with one target, number 3."""
    monitor, program = HttpMonitor(), Kernel()
    monitor._program = program  # type: ignore[assignment]
    monitor._targets["web"] = _Monitored(3, 1, program)  # type: ignore[arg-type]
    program.maps["per_target"].content = {3: [figures(), figures()], 3 + http._TARGETS: [figures(), figures()]}
    return monitor, program


def test_the_counts_of_all_processors_are_added_up(monitored: tuple[HttpMonitor, Kernel]) -> None:
    monitor, program = monitored
    slots = [0] * SLOTS
    slots[4] = 2
    program.maps["counts"].content = {(3, 200, 0, 1): [2, 3], (3, 0, 1, 10): [0, 1], (4, 200, 0, 1): [9, 9]}
    program.maps["counts"].content[3 + http._TARGETS, 404, 0, 2] = [1, 0]
    program.maps["per_target"].content[3 + http._TARGETS] = [figures(begun=(3, 0), ended=(1, 0), unparsed=[0, 0, 1, 0, 1, 0])]
    program.maps["per_target"].content[3] = [
        figures(begun=(5, 1), sum=10**9, slots=slots, unparsed=[1, 0, 2, 0, 0, 0]),
        figures(begun=(2, 0), ended=(6, 1), sum=10**9, slots=slots, unparsed=[0, 0, 1, 0, 0, 4], dropped=7),
    ]
    assert monitor.figures().counts == {
        ("web", "server", "GET", "200", "false"): 5,
        ("web", "client", "OTHER", "none", "false"): 1,
        ("web", "server", "HEAD", "404", "true"): 1,
    }
    assert monitor.figures().unparsed == {
        ("web", "joined mid-message"): 1,
        ("web", "reordered"): 4,
        ("web", "HTTP/2"): 1,
        ("web", "TLS"): 4,
    }
    assert monitor.figures().in_flight == {("web", "server"): 3, ("web", "client"): 0}
    assert monitor.warnings("web") == [
        "TLS connections that do not use OpenSSL's libssl and are not monitored: 4 (processes unknown)",
        "HTTP/2 connections, which are not monitored: 1",
    ]
    assert monitor.warnings("other") == []
    ((key, histogram),) = monitor.figures().durations.items()
    assert (key, histogram.slots[4], sum(histogram.slots), histogram.sum) == (("web", "server", "false"), 4, 4, 2.0)
    assert monitor.figures().dropped == 7


def test_requests_that_are_lost_with_their_connection_are_dropped(monitored: tuple[HttpMonitor, Kernel]) -> None:
    monitor, program = monitored
    program.maps["per_target"].content[3] = [figures(begun=(100, 0)), figures(ended=(60, 0))]
    program.swept = 30
    assert monitor.figures().in_flight["web", "server"] == 40
    monitor.give_up_on_old()
    assert monitor.figures().in_flight["web", "server"] == 30
    program.maps["counts"].content = {(3, 200, 0, 1): [2, 3], (3, 0, 1, 10): [0, 1]}
    assert monitor.figures().entries == {"connections": 12, "secured": 0, "counts": 2}
    assert monitor.figures().dropped == 10
    monitor.give_up_on_old()
    assert program.sweeps == 1, "it sweeps every few seconds only"


def test_the_first_sweep_after_a_boot_has_no_negative_times(
    monitored: tuple[HttpMonitor, Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, program = monitored
    requests: list[Any] = []
    monkeypatch.setattr(program, "run", lambda _, request: requests.append(SWEEP.unpack(request)) or request)
    monkeypatch.setattr("time.monotonic", lambda: 20.0)
    monitor.give_up_on_old()
    assert requests == [(0, 15_000_000_000, 0)]


def test_detaching_deletes_the_counts_of_the_target(monitored: tuple[HttpMonitor, Kernel]) -> None:
    monitor, program = monitored
    by_tls = 3 + http._TARGETS
    program.maps["counts"].content = {(3, 200, 0, 1): [1, 0], (4, 200, 0, 1): [1, 0], (by_tls, 200, 0, 1): [1, 0]}
    program.maps["connections"].content = {(0, 0, 0, 0, 80, 1, 3): b"", (0, 0, 0, 0, 80, 1, 4): b""}
    assert monitor._free_number() == 0
    program.maps["per_target"].content[3] = [figures(dropped=2), figures(dropped=1)]
    monitor.detach("web")
    monitor.detach("web")
    assert list(program.maps["counts"].content) == [(4, 200, 0, 1)]
    assert list(program.maps["connections"].content) == [(0, 0, 0, 0, 80, 1, 4)]
    assert monitor.figures().counts == monitor.figures().unparsed == monitor.figures().in_flight == {}
    assert monitor.figures().dropped == 3, "a counter never decreases"


def test_nothing_is_counted_before_the_first_target() -> None:
    monitor = HttpMonitor()
    monitor.give_up_on_old()
    assert monitor.figures().counts == monitor.figures().durations == monitor.figures().in_flight == {}
    assert monitor.figures().entries == {"connections": 0, "secured": 0, "counts": 0}
    assert monitor.figures().dropped == 0


class Socket:
    """A packet socket without a kernel."""

    opened: list[str] = []  # noqa: RUF012
    gone: set[str] = set()  # noqa: RUF012

    def __init__(self, network_namespace: Path, device: str, filter_fd: int) -> None:
        if device in self.gone:
            raise OSError(19, "no such device")
        self.opened.append(device)
        self.current, self.closed = True, False

    def is_current(self) -> bool:
        return self.current

    def close(self) -> None:
        self.closed = True


def test_each_current_device_has_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7" / "net").mkdir(parents=True)

    def devices(*names: str) -> None:
        lines = ["Inter-| Receive", " face |bytes", *(f"{name:>6}: 1 2 3 4 5 6 7 8 9 10" for name in names)]
        (tmp_path / "7" / "net" / "dev").write_text("\n".join(lines))

    monkeypatch.setattr(http, "PacketSocket", Socket)
    monkeypatch.setattr(Socket, "opened", [])
    one = _Monitored(1, 2, Kernel())  # type: ignore[arg-type]
    devices("lo", "eth0")
    assert procfs.network_devices(tmp_path, 7) == {"lo", "eth0"}
    one.update_sockets(tmp_path, 7)
    one.update_sockets(tmp_path, 7)
    assert sorted(Socket.opened) == ["eth0", "lo"]
    first: Any = one.sockets["eth0"]
    first.current = False  # another device has this name now
    devices("lo", "eth0", "eth1")
    monkeypatch.setattr(Socket, "gone", {"eth1"})
    one.update_sockets(tmp_path, 7)
    assert (first.closed, sorted(one.sockets), Socket.opened.count("eth0")) == (True, ["eth0", "lo"], 2)
    devices("lo")
    one.update_sockets(tmp_path, 7)
    assert list(one.sockets) == ["lo"]


class Host:
    """A container with process 7 and one network device, without a kernel."""

    def __init__(self, proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (proc / "7" / "ns").mkdir(parents=True)
        (proc / "7" / "ns" / "net").write_text("")
        (proc / "7" / "net").mkdir()
        (proc / "7" / "net" / "dev").write_text("Inter-| Receive\n face |bytes\n  eth0: 1 2 3 4 5 6 7 8 9 10")
        (proc / "cgroup.procs").write_text("7\n")
        self.target = Target("web", "1" * 64, Cgroup({}, proc), proc=proc)
        self.monitor, self.kernel = HttpMonitor(proc), Kernel()
        self.monitor._program = self.kernel  # type: ignore[assignment]
        monkeypatch.setattr(http, "Program", lambda *_, **__: self.kernel)
        monkeypatch.setattr(http, "PacketSocket", Socket)
        monkeypatch.setattr(Socket, "opened", [])


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_a_scrape_does_not_wait_while_libraries_are_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, figures_were_read = threading.Event(), threading.Event()

    def slow(*_: Any) -> list[str]:
        reading.set()
        assert figures_were_read.wait(5)
        return []

    for function in ("attach", "problems", "detach"):
        monkeypatch.setattr(host.monitor._tls, function, slow)
    for do in (lambda: host.monitor.attach(host.target), lambda: host.monitor.warnings("web"), lambda: host.monitor.detach("web")):
        reading.clear()
        figures_were_read.clear()
        doing = threading.Thread(target=do)
        doing.start()
        assert reading.wait(5)
        scrape = threading.Thread(target=host.monitor.figures, daemon=True)
        scrape.start()
        scrape.join(1)
        assert not scrape.is_alive()
        figures_were_read.set()
        doing.join()
    assert host.monitor._targets == {}


@pytest.mark.parametrize("refused", [errno.EAFNOSUPPORT, errno.EINVAL, errno.ENOMEM, errno.EPERM])
def test_an_error_of_the_kernel_is_in_the_message(host: Host, refused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(refused, os.strerror(refused))

    monkeypatch.setattr(http, "PacketSocket", refuse)
    why = re.escape(f"[Errno {refused}] {os.strerror(refused)}")
    with pytest.raises(
        AgentError, match=f"^HTTP of container 'web' is not monitored: the agent cannot listen on its network: {why}$"
    ):
        host.monitor.attach(host.target)
    assert host.monitor._targets == {}
    monkeypatch.setattr(http, "PacketSocket", Socket)
    host.monitor.attach(host.target)
    monkeypatch.setattr(http, "PacketSocket", refuse)
    host.monitor._targets["web"].namespace = 1
    host.monitor.attach(host.target)  # no error: the container may be ending
    assert list(host.monitor._targets) == ["web"]


def test_a_suspended_target_keeps_its_figures_and_no_socket(host: Host) -> None:
    host.monitor.attach(host.target)
    host.kernel.maps["counts"].content = {(0, 200, 0, 1): [2]}
    before: Any = host.monitor._targets["web"].sockets["eth0"]
    host.monitor.suspend("web")
    host.monitor.suspend("web")
    host.monitor.suspend("unknown")
    assert before.closed
    assert host.monitor.figures().counts == {("web", "server", "GET", "200", "false"): 2}
    host.monitor.attach(host.target)
    again = host.monitor._targets["web"]
    assert (again.number, again.sockets["eth0"].closed, len(Socket.opened)) == (0, False, 2)  # type: ignore[attr-defined]
    assert host.monitor.figures().counts == {("web", "server", "GET", "200", "false"): 2}
