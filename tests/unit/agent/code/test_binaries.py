"""Which files processes execute, and when their code is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("capstone")

from chaosorca.agent.code import binaries
from chaosorca.agent.code.binaries import Binaries, FileCode

MAPS = """\
00400000-00401000 r--p 00000000 00:27 2056674                            /l
00401000-00479000 r-xp 00001000 00:27 2056674                            /l
1ad4a000-1ad6c000 rw-p 00000000 00:00 0                                  [heap]
7f00e40e9000-7f00e40eb000 r-xp 00000000 fe:01 77                         /usr/lib/a b.so (deleted)
7f00e50e9000-7f00e50eb000 r-xp 00000000 00:00 0                          [vdso]
7f00e60e9000-7f00e60eb000 r-xp 00000000 00:00 0
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def binaries_of(proc: Path) -> Binaries:
    return Binaries(proc, lambda file: False)


def mapped(proc: Path, content: bytes | None) -> Binaries:
    """The binaries of process 10, which executes one file; None: it cannot be opened."""
    file = proc / "10" / "map_files" / "401000-479000"
    file.parent.mkdir(parents=True)
    (proc / "10" / "maps").write_text(MAPS.splitlines()[1] + "\n")
    if content is not None:
        file.write_bytes(content)
    return binaries_of(proc)


def test_files_that_a_process_executes_by_their_mappings(tmp_path: Path) -> None:
    for pid in ("10", "11"):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "maps").write_text(MAPS)
    assert binaries_of(tmp_path).files([10, 11, 12]) == [
        (tmp_path / "10/map_files/401000-479000", (os.makedev(0, 0x27), 2056674)),
        (tmp_path / "10/map_files/7f00e40e9000-7f00e40eb000", (os.makedev(0xFE, 1), 77)),
    ]


def test_a_file_of_an_image_is_the_same_on_each_device(tmp_path: Path) -> None:
    (tmp_path / "library").write_bytes(b"code")
    for pid, device in (("10", "00:27"), ("11", "00:31")):
        (tmp_path / pid / "map_files").mkdir(parents=True)
        (tmp_path / pid / "maps").write_text(f"00401000-00479000 r-xp 00001000 {device} 77   /l\n")
        os.link(tmp_path / "library", tmp_path / pid / "map_files" / "401000-479000")
    ((path, _),) = binaries_of(tmp_path).files([10, 11])
    assert path.read_bytes() == b"code"


def test_a_file_that_is_no_program_of_this_machine_is_a_problem(tmp_path: Path) -> None:
    problem = mapped(tmp_path, b"#! no program at all").cannot([10])
    assert "10/map_files/401000-479000 cannot be read: " in problem


def test_a_process_that_has_ended_is_no_problem(tmp_path: Path) -> None:
    assert mapped(tmp_path, None).cannot([10]) == ""


def test_a_file_that_is_too_large_is_not_disassembled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_LARGEST", 1 << 20)
    problem = mapped(tmp_path, b"\x7fELF" + bytes(1 << 20)).cannot([10])
    assert problem.endswith("is larger than 1 MiB, too large to be disassembled")


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    known = mapped(tmp_path, b"no program")
    first = known.cannot([10])
    (tmp_path / "10" / "map_files" / "401000-479000").write_bytes(b"\x7fELF\x02\x01" + bytes(100))
    assert first
    assert known.cannot([10]) != first


def test_the_most_recently_used_files_stay_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read: list[str] = []
    monkeypatch.setattr(binaries, "_MOST_CACHED", 2)
    monkeypatch.setattr(binaries, "_read_code", lambda path, size: read.append(path.name) or FileCode((), ""))
    one = binaries_of(Path("/proc"))
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    for name in ("a", "b", "a", "c", "a", "b"):
        one.code(tmp_path / name, (1, ord(name)))
        assert len(one._cache) <= 2
    assert read == ["a", "b", "c", "b"]


def test_code_of_an_ended_process_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mapped(tmp_path, None).code(tmp_path / "10" / "map_files" / "401000-479000", (1, 2))
