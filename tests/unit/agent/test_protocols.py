"""C and Python agree: the tracer's commands and records, armed threads, cookies, and the eBPF maps."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import chaosorca.agent
from chaosorca.agent import histogram
from chaosorca.agent.code import openssl, sites
from chaosorca.agent.code.sites import Site
from chaosorca.agent.injectors import arming, cookie, pool, records, tracer
from chaosorca.agent.monitors import http, syscalls, tls
from tests.support.c_source import CSource, same_layout

AGENT = Path(chaosorca.agent.__file__).parent
BPF, NATIVE = AGENT / "bpf", AGENT / "injectors" / "native"
ARM, SYSCALLS, HTTP, TLS = (CSource(BPF / f"{name}.c") for name in ("arm", "syscalls", "http", "tls"))
RECORDS, ARMED, COMMANDS, EMULATION = (CSource(NATIVE / name) for name in ("rule.h", "armed.c", "commands.c", "ahead.h"))


def number_of(module: ModuleType, name: str) -> int:
    """A constant of a module, private or not."""
    return int(vars(module)[name if name in vars(module) else f"_{name}"])


def test_records_have_the_layout_that_the_agent_reads() -> None:
    assert same_layout(RECORDS.structure("record"), records.RECORD.format)
    assert list(RECORDS.structure("record").offsets)[-1] == "serial"


@pytest.mark.parametrize("kind", ["CALL", "DONE", "REFUSED", "ENDED", "FOREIGN", "LOST", "EXEC"])
def test_kinds_of_records_have_the_same_numbers(kind: str) -> None:
    assert number_of(records, kind) == RECORDS.constants[kind]


def test_the_agent_reads_every_kind_of_record() -> None:
    kinds = re.search(r"enum record_kind \{([^}]*)\}", RECORDS.text)
    assert kinds and len(re.findall(r"\w+ = \d+", kinds[1])) == 7


def test_shared_memory_has_the_layout_that_the_agent_reads() -> None:
    state, ring = RECORDS.structure("state"), RECORDS.structure("ring")
    assert same_layout(RECORDS.structure("slot"), pool._SLOT.format)
    assert (state.offsets["seen"], state.size) == (pool._SEEN_AT, pool._STATE_SIZE)
    assert (ring.offsets["taken"], ring.offsets["last_calls"], ring.size) == (0, tracer._TAKEN.size, tracer._RING_SIZE)


@pytest.mark.parametrize(
    ("module", "name"),
    [(records, "REPLACED"), (records, "RETURNED"), (records, "SPENT"), (pool, "SLOTS"), (pool, "NR_MAX"), (tracer, "KEPT")],
)
def test_numbers_of_the_tracer_are_the_same(module: ModuleType, name: str) -> None:
    assert number_of(module, name) == RECORDS.constants[name]


def test_effects_have_the_same_bits() -> None:
    assert {name: bit for bit, name in records._EFFECT_BITS.items()} == {
        name.lower(): RECORDS.constants[name] for name in ("DELAY_ENTER", "ERROR", "RETVAL", "SIGNAL", "DELAY_EXIT")
    }


def test_commands_that_the_agent_sends_are_those_that_the_tracer_takes() -> None:
    text = "\n".join(path.read_text() for path in (AGENT / "injectors").glob("*.py"))
    sent = set(re.findall(r'\.(?:send|call)\(\s*f?"([a-z-]+)[ "]', text))
    assert sent == set(re.findall(r'strcmp\(what, "([^"]+)"\)', COMMANDS.text))
    assert all(len(command) <= 15 for command in sent), "commands.c reads 15 letters"


def test_words_of_rules_are_those_that_the_tracer_takes() -> None:
    text = (AGENT / "injectors" / "rules.py").read_text()
    sent = set(re.findall(r'f?"([a-z_]+)=[^"]*"', text))
    assert sent == set(re.findall(r'strcmp\(name, "([^"]+)"\)', CSource(NATIVE / "rule.c").text))


def test_an_armed_thread_is_the_same_to_both_programs() -> None:
    decided, read = ARM.structure("armed"), ARMED.structure("armed_call")
    assert (decided.offsets, decided.size) == (read.offsets, read.size)


def test_distances_to_a_call_are_the_same() -> None:
    assert ARM.constants["AHEAD"] == EMULATION.constants["AHEAD_BYTES"] == sites._FAR_BYTES
    assert ARMED.constants["DETOUR_BYTES"] == sites.DETOUR


@pytest.mark.parametrize("flag", ["IN_MEMORY", "IS_EARLY", "HAS_CONDITION", "HAS_DETOUR"])
def test_flags_of_cookies_are_the_same(flag: str) -> None:
    assert number_of(cookie, flag) == ARM.constants[f"COOKIE_{flag}"]


def test_unknown_numbers_in_cookies_are_the_same() -> None:
    assert ARM.constants["COOKIE_NR_UNKNOWN"] == cookie.UNKNOWN_NR


@pytest.mark.parametrize(
    ("site", "fields"),
    [
        (Site(0, to_syscall=-9, nr=257), {"NR": 257, "TO_SYSCALL": -9}),
        (Site(0, to_syscall=5, nr=None, held_in="r12"), {"NR": 0xFFFF, "TO_SYSCALL": 5, "REGISTER": 11}),
        (Site(0, to_syscall=5, nr=None, held_in="rsp", held_at=-8), {"REGISTER": 15, "DISPLACEMENT": -8, "IN_MEMORY": 1}),
        (Site(0, to_syscall=40, nr=3, to_next=-300), {"TO_SYSCALL": 40, "FAR": -300, "IS_EARLY": 1}),
        (Site(0, to_syscall=7, nr=3, condition=13), {"CONDITION": 13, "HAS_CONDITION": 1}),
        (Site(0, to_syscall=7, nr=3, condition=4, detour=300), {"NEAR": 7, "FAR": 300, "CONDITION": 4, "HAS_DETOUR": 1}),
        (Site(0, to_syscall=-99, nr=3, condition=4, detour=2), {"NEAR": 2, "FAR": -99, "HAS_DETOUR": 1, "IS_EARLY": 1}),
    ],
)
def test_cookies_hold_what_the_program_takes_from_them(site: Site, fields: dict[str, int]) -> None:
    macros, bits = ARM.constants, cookie.cookie_of(site)

    def signed(shift: int) -> int:
        return ((bits >> shift & 0xFFFF) ^ 0x8000) - 0x8000

    taken = {name: signed(macros[f"COOKIE_{name}_SHIFT"]) for name in ("TO_SYSCALL", "FAR", "DISPLACEMENT")}
    taken |= {name: int(bool(bits & macros[f"COOKIE_{name}"])) for name in ("IN_MEMORY", "IS_EARLY", "HAS_CONDITION", "HAS_DETOUR")}
    taken |= {name: bits >> macros[f"COOKIE_{name}_SHIFT"] & macros[f"COOKIE_{name}"] for name in ("REGISTER", "CONDITION")}
    taken |= {"NR": bits & macros["COOKIE_NR"], "NEAR": bits >> macros["COOKIE_NEAR_SHIFT"] & 0xFF}
    assert {name: taken[name] for name in fields} == fields


def test_registers_in_cookies_have_the_same_numbers() -> None:
    held = {int(number): name for number, name in re.findall(r"HELD_IN\((\d+), (\w+)\)", ARM.text)}
    assert held == {number: name if name[1:].isdigit() else name[1:] for number, name in enumerate(cookie._REGISTERS) if number}


@pytest.mark.parametrize(
    ("source", "layouts"),
    [
        pytest.param(ARM, arming._LAYOUTS, id="arm"),
        pytest.param(SYSCALLS, {name: layout for name, layout in syscalls._LAYOUTS.items() if name != ".bss"}, id="syscalls"),
        pytest.param(SYSCALLS, syscalls._OWN_LAYOUTS["syscalls_plain"], id="syscalls_plain"),
        pytest.param(HTTP, http._LAYOUTS, id="http"),
        pytest.param(TLS, tls._LAYOUTS, id="tls"),
    ],
)
def test_maps_have_the_layouts_that_the_agent_reads(source: CSource, layouts: dict[str, tuple[str, str]]) -> None:
    maps = source.maps()
    assert layouts.keys() <= maps.keys()
    wrong = [
        (name, format_)
        for name, formats in layouts.items()
        for type_, format_ in zip(maps[name], formats, strict=True)
        if not same_layout(type_, format_)
    ]
    assert wrong == []


def test_variables_of_the_syscalls_program_have_the_same_layout() -> None:
    assert same_layout(SYSCALLS.structure("switches"), syscalls._LAYOUTS[".bss"][1])
    assert SYSCALLS.constants["GROUPS"] == syscalls._GROUPS


def test_sweeps_have_the_same_argument() -> None:
    assert same_layout(HTTP.structure("sweep"), tls.SWEEP.format)


@pytest.mark.parametrize(
    ("source", "constants"),
    [
        (ARM, {*arming._OFFSETS, "SIGNAL", "OTHER_SIGNAL", "NR_MMAP", "PROT_EXEC"}),
        (TLS, {*tls._OFFSETS}),
    ],
)
def test_programs_get_exactly_their_constants(source: CSource, constants: set[str]) -> None:
    assert set(re.findall(r"const volatile u32 (\w+);", source.text)) == constants


@pytest.mark.parametrize(
    ("source", "module", "name"),
    [
        (SYSCALLS, histogram, "FIRST_SLOT"),
        (SYSCALLS, histogram, "SLOTS"),
        (SYSCALLS, syscalls, "TIMED_BY_CALL"),
        (SYSCALLS, syscalls, "TIMED_BY_THREAD"),
        (SYSCALLS, syscalls, "OF_32_BIT"),
        (HTTP, http, "TARGETS"),
        (TLS, openssl, "WRITES"),
        (TLS, openssl, "LENGTH_APART"),
        (TLS, openssl, "IS_FREE"),
        (TLS, openssl, "IS_HANDSHAKE"),
    ],
)
def test_numbers_of_programs_are_the_same(source: CSource, module: ModuleType, name: str) -> None:
    assert number_of(module, name) == source.constants[name]


def test_http_has_the_same_methods_roles_and_reasons() -> None:
    methods = sorted((HTTP.constants[f"HTTP_{name}"], name) for name in http._METHODS if name)
    assert [name for _, name in methods] == http._METHODS[1:] and methods[0][0] == 1
    assert [HTTP.constants[role.upper()] for role in http._ROLES] == [0, 1]
    assert HTTP.constants["REASONS"] == len(http._REASONS)
    assert HTTP.constants["REASON_TLS"] == http._REASONS.index("TLS")


@pytest.mark.parametrize(
    ("format_", "is_same"),
    [("=IIiiqQQII", True), ("=IIiiqQQ8s", True), ("=IIiiqQQI", False), ("=IIiiQQQII", False), ("=IiIiqQQII", False)],
)
def test_a_layout_that_differs_is_noticed(format_: str, is_same: bool) -> None:
    assert same_layout(RECORDS.structure("record"), format_) == is_same
