"""HTTP in the kernel: its parser, compiled for this machine, and what the agent reads of its counts."""

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
from chaosorca.agent.monitors.http import HttpMonitor, _Watched
from chaosorca.agent.monitors.tls import SWEEP
from chaosorca.agent.targets.target import Target
from chaosorca.model.errors import AgentError

ROOT = Path(__file__).parents[4]
BPF = Path(http.__file__).parents[1] / "bpf"
HEADERS = (BPF / "http_exchange.h").read_text() + (BPF / "http_parse.h").read_text()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the parser's own test needs gcc")
def test_the_parser_finds_messages_however_they_are_cut(tmp_path: Path) -> None:
    compile_ = ["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g", "-O1", f"-I{BPF}"]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = ROOT / "tests" / "native" / "http" / "test_parse.c"
    subprocess.run([*compile_, *sanitize, "-o", tmp_path / "parse", source], check=True)
    result = subprocess.run([tmp_path / "parse"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout[-2000:]) == (0, "passed\n")


def names(enum: str, prefix: str) -> list[str]:
    """The names of an enumeration, without their prefix."""
    inside = re.search(rf"enum {enum} {{(.*?)}}", re.sub(r"/\*.*?\*/", "", HEADERS), re.DOTALL)
    assert inside is not None
    return [name.strip().removeprefix(prefix) for name in inside[1].split(",") if name.strip()]


def test_numbers_mean_the_same_to_the_kernel_and_to_the_agent() -> None:
    assert ["NO_METHOD", *http._METHODS[1:], "PRI"] == names("http_method", "HTTP_")
    assert [role.upper() for role in http._ROLES] == names("role", "")
    reasons = [reason.split(" ")[0].replace("/", "_").upper() for reason in http._REASONS]
    assert [*reasons, "REASONS"] == names("reason", "REASON_")
    assert f"#define TARGETS {http._TARGETS}\n" in HEADERS


class Map:
    """A map without a kernel."""

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
    """The program without a kernel: two processors, and what a look for old requests finds."""

    def __init__(self) -> None:
        self.maps = {name: Map({}) for name in ("counts", "connections", "per_target", "tls_unseen")}
        self.found_waiting = 0
        self.asked = 0

    def __getitem__(self, name: str) -> Map:
        return self.maps[name]

    def run(self, function: str, context: bytes) -> bytes:
        assert function == "sweep"
        self.asked += 1
        self.maps["per_target"].content[3][0][4] += self.found_waiting
        return SWEEP.pack(0, 0, 12)

    def fd(self, function: str) -> int:
        return 5

    def close(self) -> None:
        pass


def figures(**values: Any) -> list[int]:
    """One processor's `struct figures`."""
    numbers = [*values.get("begun", (0, 0)), *values.get("ended", (0, 0)), 0, 0, *values.get("unparsed", [0] * 6)]
    server = [values.get("sum", 0), *values.get("slots", [0] * SLOTS)]
    return [*numbers, values.get("dropped", 0), *server, *[0] * (1 + SLOTS)]


@pytest.fixture
def watching() -> tuple[HttpMonitor, Kernel]:
    """A monitor of one target, number 3."""
    monitor, program = HttpMonitor(), Kernel()
    monitor._program = program  # type: ignore[assignment]
    monitor._targets["web"] = _Watched(3, 1, program)  # type: ignore[arg-type]
    program.maps["per_target"].content = {3: [figures(), figures()], 3 + http._TARGETS: [figures(), figures()]}
    return monitor, program


def test_what_processors_have_counted_is_added_up(watching: tuple[HttpMonitor, Kernel]) -> None:
    monitor, program = watching
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
        "TLS connections that could not be looked into, not being by OpenSSL's libssl: 4 (by whom is not known)",
        "connections with HTTP/2, which is not followed: 1",
    ]
    assert monitor.warnings("other") == []
    ((key, histogram),) = monitor.figures().durations.items()
    assert (key, histogram.slots[4], sum(histogram.slots), histogram.sum) == (("web", "server", "false"), 4, 4, 2.0)
    assert monitor.figures().dropped == 7


def test_requests_that_went_with_their_connection_are_dropped_not_in_flight(watching: tuple[HttpMonitor, Kernel]) -> None:
    monitor, program = watching
    program.maps["per_target"].content[3] = [figures(begun=(100, 0)), figures(ended=(60, 0))]
    program.found_waiting = 30
    assert monitor.figures().in_flight["web", "server"] == 40
    monitor.give_up_on_old()
    assert monitor.figures().in_flight["web", "server"] == 30
    program.maps["counts"].content = {(3, 200, 0, 1): [2, 3], (3, 0, 1, 10): [0, 1]}
    assert monitor.figures().entries == {"connections": 12, "secured": 0, "counts": 2}
    assert monitor.figures().dropped == 10
    monitor.give_up_on_old()
    assert program.asked == 1, "it looks every few seconds only"


def test_a_machine_that_was_just_booted_has_no_old_requests(
    watching: tuple[HttpMonitor, Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, program = watching
    told = []
    monkeypatch.setattr(program, "run", lambda _, asked: told.append(SWEEP.unpack(asked)) or asked)
    monkeypatch.setattr("time.monotonic", lambda: 20.0)
    monitor.give_up_on_old()
    assert told == [(0, 15_000_000_000, 0)]


def test_what_is_no_longer_watched_is_forgotten(watching: tuple[HttpMonitor, Kernel]) -> None:
    monitor, program = watching
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
    assert monitor.figures().dropped == 3, "a counter never falls"


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


def test_there_is_a_socket_on_each_device_as_it_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7" / "net").mkdir(parents=True)

    def devices(*names: str) -> None:
        lines = ["Inter-| Receive", " face |bytes", *(f"{name:>6}: 1 2 3 4 5 6 7 8 9 10" for name in names)]
        (tmp_path / "7" / "net" / "dev").write_text("\n".join(lines))

    monkeypatch.setattr(http, "PacketSocket", Socket)
    monkeypatch.setattr(Socket, "opened", [])
    watched = _Watched(1, 2, Kernel())  # type: ignore[arg-type]
    devices("lo", "eth0")
    assert procfs.network_devices(tmp_path, 7) == {"lo", "eth0"}
    watched.follow_devices(tmp_path, 7)
    watched.follow_devices(tmp_path, 7)
    assert sorted(Socket.opened) == ["eth0", "lo"]
    first: Any = watched.sockets["eth0"]
    first.current = False  # another one of this name
    devices("lo", "eth0", "eth1")
    monkeypatch.setattr(Socket, "gone", {"eth1"})
    watched.follow_devices(tmp_path, 7)
    assert (first.closed, sorted(watched.sockets), Socket.opened.count("eth0")) == (True, ["eth0", "lo"], 2)
    devices("lo")
    watched.follow_devices(tmp_path, 7)
    assert list(watched.sockets) == ["lo"]


class Host:
    """Process 7 of a container, whose network has one device; nothing of it is in a kernel."""

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


def test_a_scrape_does_not_wait_for_libraries_to_be_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, figures_were_read = threading.Event(), threading.Event()

    def slow(*_: Any) -> list[str]:
        reading.set()
        assert figures_were_read.wait(5)
        return []

    for slow_one in ("attach", "problems", "detach"):
        monkeypatch.setattr(host.monitor._tls, slow_one, slow)
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
def test_whatever_the_kernel_refuses_is_told_of_http(host: Host, refused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(refused, os.strerror(refused))

    monkeypatch.setattr(http, "PacketSocket", refuse)
    why = re.escape(f"[Errno {refused}] {os.strerror(refused)}")
    with pytest.raises(AgentError, match=f"^HTTP of container 'web' is not monitored: its network cannot be listened to: {why}$"):
        host.monitor.attach(host.target)
    assert host.monitor._targets == {}
    monkeypatch.setattr(http, "PacketSocket", Socket)
    host.monitor.attach(host.target)
    monkeypatch.setattr(http, "PacketSocket", refuse)
    host.monitor._targets["web"].namespace = 1
    host.monitor.attach(host.target)  # of one that is followed the next time tells
    assert list(host.monitor._targets) == ["web"]


def test_the_network_of_a_container_that_has_ended_is_let_go_and_its_figures_stay(host: Host) -> None:
    host.monitor.attach(host.target)
    host.kernel.maps["counts"].content = {(0, 200, 0, 1): [2]}
    before: Any = host.monitor._targets["web"].sockets["eth0"]
    host.monitor.suspend("web")
    host.monitor.suspend("web")
    host.monitor.suspend("nobody")
    assert before.closed
    assert host.monitor.figures().counts == {("web", "server", "GET", "200", "false"): 2}
    host.monitor.attach(host.target)
    watched = host.monitor._targets["web"]
    assert (watched.number, watched.sockets["eth0"].closed, len(Socket.opened)) == (0, False, 2)  # type: ignore[attr-defined]
    assert host.monitor.figures().counts == {("web", "server", "GET", "200", "false"): 2}
