"""What uprobes are told, and which files they are put on; the kernel's part is tested on real containers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from chaosorca.agent.code.sites import Site
from chaosorca.agent.ebpf import uprobes
from chaosorca.agent.injectors import arming
from chaosorca.agent.injectors.arming import Arming
from chaosorca.model.errors import AgentError

MAPS = """\
00400000-00401000 r--p 00000000 00:27 2056674                            /l
00401000-00479000 r-xp 00001000 00:27 2056674                            /l
1ad4a000-1ad6c000 rw-p 00000000 00:00 0                                  [heap]
7f00e40e9000-7f00e40eb000 r-xp 00000000 fe:01 77                         /usr/lib/a b.so (deleted)
7f00e50e9000-7f00e50eb000 r-xp 00000000 00:00 0                          [vdso]
7f00e60e9000-7f00e60eb000 r-xp 00000000 00:00 0
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_files_that_a_process_executes_by_their_mappings(tmp_path: Path) -> None:
    for pid in ("10", "11"):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "maps").write_text(MAPS)
    found = Arming(tmp_path)._files([10, 11, 12])
    assert found == [
        (tmp_path / "10/map_files/401000-479000", (os.makedev(0, 0x27), 2056674)),
        (tmp_path / "10/map_files/7f00e40e9000-7f00e40eb000", (os.makedev(0xFE, 1), 77)),
    ]


def test_a_file_of_an_image_is_one_on_whatever_device_a_container_sees_it(tmp_path: Path) -> None:
    (tmp_path / "library").write_bytes(b"code")
    for pid, device in (("10", "00:27"), ("11", "00:31")):
        (tmp_path / pid / "map_files").mkdir(parents=True)
        (tmp_path / pid / "maps").write_text(f"00401000-00479000 r-xp 00001000 {device} 77   /l\n")
        os.link(tmp_path / "library", tmp_path / pid / "map_files" / "401000-479000")
    ((path, _),) = Arming(tmp_path)._files([10, 11])
    assert path.read_bytes() == b"code"


@pytest.mark.parametrize(
    ("site", "number", "way", "register", "memory"),
    [
        (Site(0, 5, 257, None), 257, 5, 0, None),
        (Site(0, 2, None, "rax"), 0xFFFF, 2, 0, None),
        (Site(0, 3, None, "r9"), 0xFFFF, 3, 8, None),
        (Site(0, -7, None, "rbx"), 0xFFFF, 0xFFF9, 1, None),
        (Site(0, 5, None, "rsp", held_at=8), 0xFFFF, 5, 15, 8),
        (Site(0, 5, None, "rsp", held_at=-8), 0xFFFF, 5, 15, 0xFFF8),
    ],
)
def test_a_cookie_holds_all_that_a_probe_has_to_know(site: Site, number: int, way: int, register: int, memory: int | None) -> None:
    cookie = arming._cookie(site)
    assert (cookie & 0xFFFF, cookie >> 16 & 0xFFFF, cookie >> 32 & 0xFF) == (number, way, register)
    assert (cookie >> 40 & 0xFFFF if cookie >> 60 & 1 else None) == memory
    assert cookie >> 61 == 0


@pytest.mark.parametrize(
    ("site", "way", "next_way", "condition"),
    [
        (Site(0, 12, 257, None, to_next=2), 12, 2, None),
        (Site(0, -100, 257, None, to_next=-112, condition=5), 0xFF9C, 0xFF90, 5),
        (Site(0, 12, 257, None, condition=0), 12, None, 0),
    ],
)
def test_the_cookie_of_a_probe_before_the_last_instruction(
    site: Site, way: int, next_way: int | None, condition: int | None
) -> None:
    cookie = arming._cookie(site)
    assert (cookie & 0xFFFF, cookie >> 16 & 0xFFFF) == (257, way)
    assert (cookie >> 32 & 0xFFFF if cookie >> 61 & 1 else None) == next_way
    assert (cookie >> 56 & 15 if cookie >> 62 & 1 else None) == condition
    assert not cookie >> 60 & 1 and cookie < 2**63


@pytest.mark.parametrize(
    ("site", "near", "far", "straight_is_far"),
    [
        (Site(0, 12, 0, None, to_next=2, condition=5, detour=25), 2, 25, 0),
        (Site(0, 6, 0, None, condition=5, detour=-300), 6, 0x10000 - 300, 0),
        (Site(0, -92, 0, None, to_next=-107, condition=5, detour=2), 2, 0x10000 - 107, 1),
        (Site(0, 400, 0, None, to_next=300, condition=5, detour=6), 6, 300, 1),
    ],
)
def test_the_cookie_of_a_jump_to_two_places(site: Site, near: int, far: int, straight_is_far: int) -> None:
    cookie = arming._cookie(site)
    assert (cookie >> 16 & 0xFFFF, cookie >> 48 & 0xFF, cookie >> 32 & 0xFFFF) == (site.to_syscall & 0xFFFF, near, far)
    assert (cookie >> 56 & 15, cookie >> 60) == (5, 8 | straight_is_far << 1)


def mapped(tmp_path: Path, content: bytes | None) -> Arming:
    """A process that executes one file; None: it may not be opened."""
    file = tmp_path / "10" / "map_files" / "401000-479000"
    file.parent.mkdir(parents=True)
    (tmp_path / "10" / "maps").write_text(MAPS.splitlines()[1] + "\n")
    if content is not None:
        file.write_bytes(content)
    return Arming(tmp_path)


def test_code_that_is_no_program_of_this_machine_cannot_be_met(tmp_path: Path) -> None:
    told = mapped(tmp_path, b"#! no program at all").cannot([10])
    assert "10/map_files/401000-479000 cannot be read: " in told


def test_a_process_that_is_gone_speaks_against_nothing(tmp_path: Path) -> None:
    assert mapped(tmp_path, None).cannot([10]) == ""


def test_a_file_that_is_too_large_is_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arming, "_LARGEST", 1 << 20)
    told = mapped(tmp_path, b"\x7fELF" + bytes(1 << 20)).cannot([10])
    assert told.endswith("is larger than 1 MiB, and is not looked through")


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    known = mapped(tmp_path, b"no program")
    first = known.cannot([10])
    (tmp_path / "10" / "map_files" / "401000-479000").write_bytes(b"\x7fELF\x02\x01" + bytes(100))
    assert first
    assert known.cannot([10]) != first


def test_another_machine_is_told_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(AgentError, match="on x86-64 only, and this is aarch64"):
        Arming().prepare()


def test_an_engine_in_a_container_is_told_that_it_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(AgentError, match="the engine runs in a container itself"):
        Arming(tmp_path).prepare()


class Loaded:
    """A program that remembers how it was loaded, and where it has probes."""

    all: list[Loaded]

    def __init__(self, name: str, layouts: object, constants: dict[str, int], attach_types: dict[str, int]) -> None:
        self.told = (name, attach_types)
        self.closed = False
        self.probes: dict[int, tuple[str, int, int]] = {}
        self.refused: int | None = None
        Loaded.all.append(self)

    def fd(self, function: str) -> int:
        return 3

    def close(self) -> None:
        self.closed = True

    def attach_uprobe(self, function: str, path: str, offset: int, cookie: int, at_return: bool) -> int:
        if offset == self.refused:
            raise OSError(95, "Operation not supported")
        self.probes[offset] = (path, offset, cookie)
        return offset

    def detach(self, link: int) -> None:
        del self.probes[link]


def prepared(monkeypatch: pytest.MonkeyPatch, many: bool, **options: bool) -> Arming:
    Loaded.all = []
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(arming, "Program", Loaded)
    monkeypatch.setattr(
        arming, "member_offsets", lambda btf, wanted: {one: dict.fromkeys(members, 8) for one, members in wanted.items()}
    )
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"")
    monkeypatch.setattr(uprobes, "supports_uprobe_multi", lambda fd: many)
    monkeypatch.setattr(arming.procfs, "command_name", lambda proc, pid: "kthreadd")
    one = Arming(**options)
    one.prepare()
    one.prepare()
    return one


@pytest.mark.parametrize(
    ("many", "options", "loaded"),
    [
        (True, {}, [({"at_site": 48}, False)]),
        (False, {}, [({"at_site": 48}, True), ({}, False)]),
        (True, {"one_by_one": True}, [({}, False)]),
    ],
)
def test_probes_are_put_one_by_one_where_the_kernel_takes_no_many(
    monkeypatch: pytest.MonkeyPatch, many: bool, options: dict[str, bool], loaded: list[tuple[dict[str, int], bool]]
) -> None:
    prepared(monkeypatch, many, **options)
    assert [(one.told, one.closed) for one in Loaded.all] == [(("arm", types), closed) for types, closed in loaded]


SITES = [Site(at, 5, 257, None) for at in (10, 20, 30)]
PLACES = [(site.offset, arming._cookie(site)) for site in SITES]


def test_probes_one_by_one_are_taken_away_together(monkeypatch: pytest.MonkeyPatch) -> None:
    close = prepared(monkeypatch, False)._prepared.attach("at_site", Path("/lib"), PLACES)
    assert list(Loaded.all[-1].probes.values()) == [("/lib", *place) for place in PLACES]
    close()
    assert Loaded.all[-1].probes == {}


def test_none_of_them_stays_where_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = prepared(monkeypatch, False)
    Loaded.all[-1].refused = 30
    with pytest.raises(OSError, match="Operation not supported"):
        one._prepared.attach("at_site", Path("/lib"), PLACES)
    assert Loaded.all[-1].probes == {}


def test_probes_that_are_only_tried_out_go_also_where_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = prepared(monkeypatch, False)
    monkeypatch.setattr(arming, "_KEPT_FOR", 0.0)
    code = {Path("/a"): arming._Code((SITES[0],), ""), Path("/b"): arming._Code((SITES[2],), "")}
    monkeypatch.setattr(one, "_files", lambda pids: [(path, (1, number)) for number, path in enumerate(code)])
    monkeypatch.setattr(one, "_code", lambda path, file: code[path])
    Loaded.all[-1].refused = SITES[2].offset
    with pytest.raises(AgentError, match="no probe could be put on /b"):
        one.try_out([10], [257])
    end = time.monotonic() + 20
    while Loaded.all[-1].probes and time.monotonic() < end:
        time.sleep(0.005)
    assert Loaded.all[-1].probes == {}


def test_of_the_files_that_were_read_the_latest_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read: list[str] = []
    monkeypatch.setattr(arming, "_MOST_KNOWN", 2)
    monkeypatch.setattr(arming, "_read_code", lambda path, size: read.append(path.name) or arming._Code((), ""))
    one = Arming()
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    for name in ("a", "b", "a", "c", "a", "b"):
        one._code(tmp_path / name, (1, ord(name)))
        assert len(one._known) <= 2
    assert read == ["a", "b", "c", "b"]
