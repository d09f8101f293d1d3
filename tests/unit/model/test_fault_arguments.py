"""Faults as arguments: what is accepted, and what is refused with which message."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import Fault, parse_fault, read_fault
from tests.support.sentences import is_a_sentence

X86 = "x86_64"


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"probability": "0.1"}, {"probability": 0.1}),
        ({"probability": " 0.5 "}, {"probability": 0.5}),
        ({"probability": 1}, {"probability": 1.0}),
        ({"probability": "1e-9"}, {"probability": 1e-9}),
        ({"max_faults": "12"}, {"max_faults": 12}),
        ({"max_faults": 12.0}, {"max_faults": 12}),
        ({"max_faults": 2**31}, {"max_faults": 2**31}),
        ({"error": "", "retval": "0"}, {"error": None, "retval": 0}),
        ({"error": "", "delay_enter": "1s"}, {"error": None, "delay_enter": 1_000_000}),
        ({"retval": 2**53 + 1, "error": None}, {"error": None, "retval": 2**53 + 1}),
        ({"when": 7}, {"when": "7"}),
        ({"path": "/a:b%25"}, {"path": "/a:b%25"}),  # arguments are not unescaped
        ({"process": "worker: 100%"}, {"process": "worker: 100%"}),
        ({"path": "/" + 2047 * "ü"}, {"path": "/" + 2047 * "ü"}),  # 4095 bytes
        ({"placebo": "true"}, {"placebo": True}),
        ({"placebo": "no"}, {"placebo": False}),
        ({"delay_enter": "10m"}, {"delay_enter": 600_000_000}),  # as long as the fault
        ({"delay_exit": "1h", "duration": "2h"}, {"delay_exit": 3_600_000_000, "duration": 7_200_000_000}),
        ({"duration": "1us"}, {"duration": 1}),
        ({"duration": "8784h"}, {"duration": 8784 * 3_600_000_000}),
        ({"abort_when": "error_ratio>0.5"}, {"abort_when": "error_ratio > 0.5 for 5s"}),
        ({"abort_when": "latency(0.99) > 500ms for 60s"}, {"abort_when": "latency(0.99) > 500ms for 1m"}),
        (
            {"abort_when": "request_rate < 10 for 20m"},
            {"abort_when": "request_rate < 10 for 20m"},
        ),  # longer than the fault is allowed
    ],
)
def test_arguments_may_be_numbers_or_text(arguments: dict[str, Any], fault: dict[str, Any]) -> None:
    found = parse_fault(X86, "read", **{"error": "EIO", **arguments})
    assert {name: getattr(found, name) for name in fault} == fault
    assert read_fault(found.text, X86) == replace(found, duration=max(found.delay_exit or 0, Fault.duration), abort_when=None)
    assert Fault.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # probability
        ({"probability": 0}, "probability 0 means never"),
        ({"probability": 0.0}, "probability 0.0 means never"),
        ({"probability": 5e-324}, "probability 5e-324 is less than one call in a billion"),
        ({"probability": 1.1}, "probability 1.1 is not between 0 and 1"),
        ({"probability": 1.0000000000000002}, "probability 1.0000000000000002 is not between 0 and 1"),
        ({"probability": 10}, "probability 10 is not between 0 and 1"),
        ({"probability": -0.1}, "probability -0.1 is not between 0 and 1"),
        ({"probability": float("nan")}, "probability nan is not between 0 and 1"),
        ({"probability": float("inf")}, "probability inf is not between 0 and 1"),
        ({"probability": ""}, "probability '' is not a number"),
        ({"probability": "${p}"}, "probability '${p}' is not a number"),
        ({"probability": True}, "probability True is not a number"),
        ({"probability": None}, "probability None is not a number"),
        ({"probability": [0.5]}, "probability [0.5] is not a number"),
        # max_faults
        ({"max_faults": -1}, "max_faults -1 is not between 0 and 2147483648"),
        ({"max_faults": 2**31 + 1}, "is not between 0 and 2147483648"),
        ({"max_faults": 1e20}, "max_faults 1e+20 is not between 0 and 2147483648"),
        ({"max_faults": 1.5}, "max_faults 1.5 is not a whole number"),
        ({"max_faults": True}, "max_faults True is not a number"),
        ({"max_faults": None}, "max_faults None is not a number"),
        ({"max_faults": ""}, "max_faults '' is not a number"),
        # path and process
        ({"path": ""}, "path '' is not text to match: give some text, or leave it out"),
        ({"path": 7}, "path 7 is not text to match"),
        ({"path": b"/etc/hosts"}, "path b'/etc/hosts' is not text to match"),
        ({"path": ["/a", "/b"]}, "path ['/a', '/b'] is not text to match"),
        ({"path": "/a\0b"}, "path '/a\\x00b' is not text to match"),
        ({"path": "/\udcff"}, "path '/\\udcff' cannot be encoded in UTF-8"),
        ({"path": "%2Fetc"}, "path '%2Fetc' is not absolute"),
        ({"path": "C:/data"}, "path 'C:/data' is not absolute"),
        ({"process": ""}, "process '' is not text to match"),
        ({"process": "\n\t"}, "process '\\n\\t' is not text to match"),
        ({"process": 4711}, "process 4711 is not text to match"),
        ({"process": True}, "process True is not text to match"),
        ({"process": "\ud800"}, "process '\\ud800' cannot be encoded in UTF-8"),
        # placebo
        ({"placebo": "maybe"}, "placebo 'maybe' is not a boolean"),
        ({"placebo": None}, "placebo None is not a boolean"),
        ({"placebo": 2}, "placebo 2 is not a boolean"),
        # effects
        ({"signal": ""}, "signal '' does not exist"),
        ({"signal": 9}, "signal 9 is not the name of a signal: write it as in 'SIGUSR1'"),
        ({"signal": True}, "signal True is not the name of a signal"),
        ({"signal": ["SIGHUP"]}, "signal ['SIGHUP'] is not the name of a signal"),
        ({"error": None, "retval": ""}, "retval '' is not a number"),
        ({"error": None, "retval": 1e20}, "retval 1e+20 is not between 0 and 9223372036854775807"),
        ({"error": None, "retval": [1]}, "retval [1] is not a number"),
        ({"error": None, "retval": -4095}, "retval -4095 is not between 0 and"),
        ({"error": False}, "error False is not the name of an errno"),
        ({"error": 0}, "error 0 is not the name of an errno"),
        ({"error": None}, "has no effect"),
        ({"error": None, "probability": 0.5, "path": "/a", "placebo": True}, "has no effect"),
        # how long
        (
            {"delay_enter": "1h"},
            "delay_enter 1h is longer than the fault's duration 10m, and the fault's end releases held calls: "
            "give a shorter delay or a longer duration",
        ),
        ({"delay_exit": "5001ms", "duration": "5s"}, "delay_exit 5001ms is longer than the fault's duration 5s"),
        ({"delay_enter": "2s", "duration": "1s", "placebo": True}, "delay_enter 2s is longer than the fault's duration 1s"),
        ({"duration": "0s"}, "duration '0s' is zero"),
        ({"duration": "forever"}, "duration 'forever' is not a duration"),
        ({"duration": 10}, "duration 10 has no unit"),
        ({"duration": ""}, "duration '' is not a duration"),
        ({"duration": "400d"}, "duration '400d' is not a duration"),
        # early end
        ({"abort_when": ""}, "abort_when '' is not a condition: write it as in 'error_ratio > 0.5 for 10s'"),
        ({"abort_when": True}, "abort_when True is not a condition"),
        ({"abort_when": "error_ratio"}, "abort_when 'error_ratio' is not a condition"),
        ({"abort_when": "error_rate > 0.5"}, "abort_when has no measure 'error_rate': did you mean 'error_ratio'"),
        ({"abort_when": "error_ratio > 1.5"}, "abort_when's error_ratio '1.5' is not between 0 and 1"),
        ({"abort_when": "request_rate < 1e10"}, "abort_when's request_rate '1e10' is not between 0 and 1000000000"),
        ({"abort_when": "latency > 0.5"}, "abort_when's latency '0.5' has no unit"),
        ({"abort_when": "latency(95) > 1s"}, "abort_when's quantile '95' is not between 0 and 1"),
        ({"abort_when": "error_ratio > 0.5 for 10"}, "abort_when's duration '10' has no unit"),
    ],
)
def test_invalid_arguments_are_refused_with_their_reason(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_fault(X86, "read", **{"error": "EIO", **arguments})
    assert says in str(refused.value)
    assert is_a_sentence(str(refused.value))
