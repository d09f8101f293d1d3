"""Random faults are parsed back, and random invalid texts are refused with a proper message."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chaosorca.model.errno import ERRNO_NAMES
from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import EFFECTS, NEVER_RETURN, Fault, parse_fault, read_fault
from chaosorca.model.signals import SIGNALS, STOPPING
from chaosorca.model.syscall_table import syscall_classes, syscall_numbers

SEEDS = range(20_261, 20_265)
ROUNDS = 600
ARCHES = ("x86_64", "aarch64")
# Characters that may be in file names, and those with a meaning in a fault's text, in URLs, in shells and in Unicode.
CHARACTERS = string.printable + ":%=,+*&#\\äß漢\u2028\u202e\x7f\x1b🐋"


@pytest.fixture(params=SEEDS)
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that are the same in every run. The seed is in the test's name."""
    return random.Random(request.param)


def random_text(rng: random.Random, most: int = 30) -> str:
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.randint(1, most)))


def random_syscalls(rng: random.Random, arch: str) -> str:
    families = ["open*", "stat*", "read*", "write*", "fork*", "epoll_*", "fch*", "sched_*"]
    classes = sorted(f"%{name}" for name, members in syscall_classes().items() if members & syscall_numbers(arch).keys())
    names = sorted(syscall_numbers(arch).keys() - set(NEVER_RETURN))
    return ",".join(
        rng.choice([rng.choice(names), rng.choice(names), rng.choice(families), *classes]) for _ in range(rng.randint(1, 4))
    )


def random_duration(rng: random.Random) -> str:
    return rng.choice(["{}us", "{}ms", "{}s", "{}m", "{}h", "0.{}s", "{}.5m"]).format(rng.randint(1, 9))


def random_when(rng: random.Random) -> str:
    first, step = rng.randint(1, 65535), rng.randint(1, 65535)
    last = rng.randint(first, 65535)
    return rng.choice(["{0}", "{0}+", "{0}+{2}", "{0}..{1}", "{0}..{1}+{2}", "00{0}"]).format(first, last, step)


PARTS: dict[str, Callable[[random.Random], Any]] = {
    "error": lambda rng: rng.choice([*ERRNO_NAMES.values(), "EWOULDBLOCK", "enotsup"]),
    "retval": lambda rng: rng.choice([0, 1, "4096", rng.getrandbits(62)]),
    "signal": lambda rng: rng.choice(["kill", "SIGPOLL", *(name for name in SIGNALS if name not in ("SIGKILL", *STOPPING))]),
    "delay_enter": random_duration,
    "delay_exit": random_duration,
    "when": random_when,
    "probability": lambda rng: rng.choice([1, rng.random() + 1e-9, f"{rng.random() + 1e-3:.3f}", 10 ** -(9 * rng.random())]),
    "max_faults": lambda rng: rng.choice([0, 1, str(rng.randint(1, 2**31))]),
    "process": random_text,
    "path": lambda rng: "/" + random_text(rng).replace("\0", ""),
}


def random_fault(rng: random.Random, arch: str) -> Fault:
    """Return a random valid fault, without parts that exclude each other."""
    while True:
        names = rng.sample(sorted(PARTS), rng.randint(1, 6))
        wrong = [{"error", "retval"}, {"signal", "error"}, {"signal", "retval"}, {"signal", "delay_exit"}]
        if not set(names) & set(EFFECTS) or any(pair <= set(names) for pair in wrong):
            continue
        arguments = {name: PARTS[name](rng) for name in names}
        syscalls = "openat," + rng.choice(["open*", "%desc", "read"]) if "path" in names else random_syscalls(rng, arch)
        if not str(arguments.get("process", "x")).strip() or arguments.get("probability", 1) in (0, "0.000"):
            continue
        return parse_fault(arch, syscalls, **arguments, duration="10h", placebo=rng.random() < 0.2)


def test_the_text_of_a_random_fault_is_parsed_back(rng: random.Random) -> None:
    for _ in range(ROUNDS):
        arch = rng.choice(ARCHES)
        fault = random_fault(rng, arch)
        read = read_fault(fault.text, arch)
        assert replace(read, duration=fault.duration) == fault
        assert read.text == fault.text
        assert fault.text.isascii()
        assert fault.text.isprintable()
        assert Fault.from_json(json.loads(json.dumps(fault.to_json()))) == fault


def test_random_faults_with_one_text_are_equal(rng: random.Random) -> None:
    faults = [random_fault(rng, "x86_64") for _ in range(ROUNDS)]
    by_text: dict[str, Fault] = {}
    for fault in faults:
        assert by_text.setdefault(fault.text, fault) == fault
    assert len(by_text) > ROUNDS * 0.9


def refuses_politely(read: Callable[..., Fault], *arguments: Any, **named: Any) -> bool:
    """Return whether a text is refused; check that the message is one printable line without internals."""
    try:
        read(*arguments, **named)
    except InvalidArgument as refused:
        message = str(refused)
        assert message.isprintable()
        assert len(message.splitlines()) == 1
        assert not any(word in message for word in ("Traceback", "Error:", "Exception", "<class", "object at"))
        return True
    return False


def mutated(rng: random.Random, text: str) -> str:
    """Return a text with a few characters or parts removed, inserted, doubled or swapped."""
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randint(0, len(text)), rng.randint(1, 4)
        parts = text.split(":")
        text = rng.choice(
            [
                text[:at] + text[at + length :],
                text[:at] + random_text(rng, 3) + text[at:],
                text[:at]
                + rng.choice(["9" * 5000, "\udcff", "\0", "%", "%ff", ":", "=", ",", "+", "..", "-", "e", "_", " "])
                + text[at:],
                ":".join([*parts, rng.choice(parts)]),
                ":".join(rng.sample(parts, len(parts))),
                text[:at].swapcase() + text[at:],
            ]
        )
    return text


def test_a_mutated_text_is_either_parsed_or_refused(rng: random.Random) -> None:
    refused = 0
    for _ in range(ROUNDS):
        arch = rng.choice(ARCHES)
        text = mutated(rng, random_fault(rng, arch).text)
        if refuses_politely(read_fault, text, arch):
            refused += 1
        else:
            fault = read_fault(text, arch)
            assert read_fault(fault.text, arch) == fault
    assert ROUNDS * 0.5 < refused < ROUNDS


def test_random_text_is_refused(rng: random.Random) -> None:
    for _ in range(ROUNDS):
        text = random_text(rng, 80)
        assert refuses_politely(read_fault, text, "x86_64")


def test_random_arguments_are_either_accepted_or_refused(rng: random.Random) -> None:
    things: list[Any] = [
        None,
        True,
        False,
        0,
        -1,
        1,
        2**64,
        0.5,
        float("nan"),
        float("-inf"),
        "",
        " ",
        "0",
        "1e999",
        "9" * 5000,
        "\0",
        "\ud800",
    ]
    things += [[], {}, ["EIO"], {"error": "EIO"}, b"EIO", "EIO", "SIGHUP", "1s", "3+", "/a", "true", "error_ratio > 0.5"]
    names = [*PARTS, "duration", "placebo", "abort_when"]
    refused = 0
    for _ in range(ROUNDS):
        arguments = {name: rng.choice(things) for name in rng.sample(names, rng.randint(1, 4))}
        refused += refuses_politely(parse_fault, "x86_64", "read", **{"delay_enter": "1us", "duration": "1m", **arguments})
    assert 0 < refused < ROUNDS
