"""The sites of uprobes in libraries that are similar to OpenSSL, or are not."""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("capstone")

from chaosorca.agent.code.elf import Elf
from chaosorca.agent.code.openssl import IS_FREE, IS_HANDSHAKE, LENGTH_APART, WRITES, Place, places
from chaosorca.agent.linux.proc import code_files

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("gcc"), reason="x86-64 and gcc are needed")

COMMON = """
    .globl {0}, {0}_ex
    .type {0}, @function
    .type {0}_ex, @function
    {0}:
        .cfi_startproc
        sub $0x18, %rsp
        mov %rsp, %rcx
        movslq %edx, %rdx
        call {0}_internal
        mov (%rsp), %eax
        add $0x18, %rsp
        ret
        .cfi_endproc
    {0}_ex:
        .cfi_startproc
        sub $8, %rsp
        {1}
        call {0}_internal
        add $8, %rsp
        ret
        .cfi_endproc
    {0}_internal:
        .cfi_startproc
        {2}
        mov %rdi, %rbx
        pop %rbx
        ret
        .cfi_endproc
"""
ALONE = """
    .globl {0}
    .type {0}, @function
    {0}: .cfi_startproc
        push %rbx
        pop %rbx
        ret
        .cfi_endproc
"""


def library(folder: Path, *functions: str) -> tuple[list[Place], dict[str, int]]:
    """Return the sites of a library with these functions, and the offsets of its functions."""
    (folder / "one.s").write_text(".text\n" + "".join(functions) + '\n.section .note.GNU-stack,"",@progbits\n')
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", folder / "one.so", folder / "one.s"], check=True)
    elf = Elf((folder / "one.so").read_bytes())
    return places(elf), {one.name.decode(): elf.offset(one.address) for one in elf.symbols() if one.is_defined and one.address}


def test_the_common_function_has_the_site(tmp_path: Path) -> None:
    found, at = library(
        tmp_path,
        COMMON.format("SSL_read", "", "push %rbx"),
        COMMON.format("SSL_write", "", "push %r12"),
        ALONE.format("SSL_free"),
        ALONE.format("SSL_do_handshake"),
    )
    assert found == [
        Place(at["SSL_read_internal"], LENGTH_APART, True),
        Place(at["SSL_write_internal"], WRITES | LENGTH_APART, True),
        Place(at["SSL_free"], IS_FREE, False),
        Place(at["SSL_do_handshake"], IS_HANDSHAKE, False),
    ]


@pytest.mark.parametrize(
    ("before", "begins"),
    [
        ("mov %rcx, %r8; xor %ecx, %ecx", "push %rbx"),  # another argument in place of the length
        ("mov $1, %dl", "push %rbx"),
        ("test %edi, %edi; js 1f; 1:", "push %rbx"),
        ("", "sub $8, %rsp"),
    ],
)
def test_each_function_has_a_site_if_the_common_one_is_uncertain(tmp_path: Path, before: str, begins: str) -> None:
    found, at = library(tmp_path, COMMON.format("SSL_write", before, begins))
    assert found == [Place(at["SSL_write"], WRITES, True), Place(at["SSL_write_ex"], WRITES | LENGTH_APART, True)]


def test_an_old_library_has_only_some_of_them(tmp_path: Path) -> None:
    found, at = library(tmp_path, ALONE.format("SSL_read"), ALONE.format("SSL_write"), ALONE.format("SSL_free"))
    assert found == [
        Place(at["SSL_read"], 0, True),
        Place(at["SSL_write"], WRITES, True),
        Place(at["SSL_free"], IS_FREE, False),
    ]


def test_other_libraries_have_none(tmp_path: Path) -> None:
    assert library(tmp_path, ALONE.format("SSL_ReadNothing"), ALONE.format("SSL_free"))[0] == []


def test_the_library_that_python_uses() -> None:
    assert ssl.OPENSSL_VERSION
    path = next((one.name for one in code_files(Path("/proc"), os.getpid()) if "libssl" in one.name), None)
    if path is None:
        pytest.skip("this Python is linked to OpenSSL statically")
    found = {(place.cookie & ~LENGTH_APART, place.returns) for place in places(Elf(Path(path).read_bytes()))}
    assert found == {(0, True), (WRITES, True), (IS_FREE, False), (IS_HANDSHAKE, False)}
