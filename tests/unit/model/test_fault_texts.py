"""Faults as texts and as arguments: what is read, in which one way it is written again, and what is refused with which sentence."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import Fault, parse_fault, read_fault

X86, ARM = "x86_64", "aarch64"
SAME = None
LONGEST = "/" + 4094 * "a"


def is_a_sentence(message: str) -> bool:
    """Whether a message is one line for a user, with nothing of the program's inside in it."""
    return (
        len(message.splitlines()) == 1
        and message.isprintable()
        and not message.endswith(".")
        and not re.search(r"Traceback|Error\b|Exception|object at|<class|Decimal|re\.Match", message)
    )


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        # system calls: names, families, classes
        ("openat:error=EACCES", SAME),
        ("read,openat:error=EACCES", SAME),
        ("openat, read ,openat:error=EACCES", "openat,read:error=EACCES"),
        ("open*:error=ENOENT", "open,openat,openat2,creat:error=ENOENT"),
        ("stat*:error=ENOENT", "stat,lstat,fstat,newfstatat,statx:error=ENOENT"),
        ("read*:delay_enter=1s", "read,pread64,readv,preadv,preadv2:delay_enter=1s"),
        ("write*:error=ENOSPC", "write,pwrite64,writev,pwritev,pwritev2:error=ENOSPC"),
        ("fork*:error=EAGAIN", "fork,vfork,clone,clone3:error=EAGAIN"),
        ("accept*:error=EMFILE", "accept,accept4:error=EMFILE"),
        ("epoll_wait*:error=EINTR", "epoll_wait,epoll_wait_old:error=EINTR"),
        ("openat*:error=EIO", "openat,openat2:error=EIO"),
        ("%statfs:error=EIO", "statfs:error=EIO"),
        ("%fstatfs,%statfs:error=EIO", "fstatfs,statfs:error=EIO"),
        ("%statfs,stat*,statfs:error=EIO", "statfs,stat,lstat,fstat,newfstatat,statx:error=EIO"),
        ("cachestat:error=EIO", SAME),
        ("file_setattr:error=EPERM", SAME),
        ("set_mempolicy_home_node:error=EIO", SAME),
        ("_sysctl:error=ENOSYS", SAME),
        # those that never return are left out where the fault is on their result, and stay where it is not
        ("exit*:delay_enter=1ms", "exit,exit_group:delay_enter=1ms"),
        ("exit_group:signal=SIGUSR1", SAME),
        ("exit:signal=SIGKILL", SAME),
        ("rt_sigreturn:delay_enter=1ms:signal=SIGUSR2", "rt_sigreturn:signal=SIGUSR2:delay_enter=1ms"),
        ("rt_sigre*,read:error=EIO", "read:error=EIO"),
        # errors
        ("openat:error=eacces", "openat:error=EACCES"),
        ("openat:error= Eacces ", "openat:error=EACCES"),
        ("recv*:error=EWOULDBLOCK", "recvfrom,recvmmsg,recvmsg:error=EAGAIN"),
        ("flock:error=EDEADLOCK", "flock:error=EDEADLK"),
        ("bind:error=ENOTSUP", "bind:error=EOPNOTSUPP"),
        ("open:error=EPERM", SAME),
        ("open:error=EHWPOISON", SAME),
        ("openat:error=ENOSYS", SAME),
        # forged results
        ("read:retval=0", SAME),
        ("read:retval=007", "read:retval=7"),
        ("read:retval=+7", "read:retval=7"),
        ("read:retval=5.0", "read:retval=5"),
        ("read:retval=4096", SAME),
        ("getpid:retval=9007199254740993", SAME),  # which a float would round
        ("mmap:retval=9223372036854775807", SAME),
        # signals
        ("read:signal=SIGHUP", SAME),
        ("read:signal=term", "read:signal=SIGTERM"),
        ("read:signal=SigIot", "read:signal=SIGABRT"),
        ("read:signal=POLL", "read:signal=SIGIO"),
        ("read:signal=CLD", "read:signal=SIGCHLD"),
        ("read:signal=SIGKILL", SAME),
        ("read:signal=SIGKILL:delay_enter=1s:when=3", SAME),
        ("read:signal=SIGCONT:delay_exit=1s", SAME),
        ("read:error=EINTR:signal=SIGALRM", SAME),
        ("read:signal=SIGSYS:retval=1", "read:retval=1:signal=SIGSYS"),
        # delays
        ("read:delay_enter=1us", SAME),
        ("read:delay_enter=250us", SAME),
        ("read:delay_enter=1000us", "read:delay_enter=1ms"),
        ("read:delay_enter=1001us", SAME),
        ("read:delay_enter=0.5ms", "read:delay_enter=500us"),
        ("read:delay_enter=1.50s", "read:delay_enter=1500ms"),
        ("read:delay_enter=60s", "read:delay_enter=1m"),
        ("read:delay_enter=90s", SAME),
        ("read:delay_enter=10m", SAME),
        ("read:delay_exit=3600s", "read:delay_exit=1h"),  # longer than a fault lasts unless told otherwise
        ("read:delay_exit=8784h", SAME),
        ("read:delay_exit= 5s ", "read:delay_exit=5s"),
        ("read:delay_exit=2s:delay_enter=1s", "read:delay_enter=1s:delay_exit=2s"),
        ("read:error=EIO:delay_exit=2s", SAME),
        ("read:retval=3:delay_enter=2s", SAME),
        # on which calls of a thread
        ("read:error=EIO:when=1", SAME),
        ("read:error=EIO:when=3+", SAME),
        ("read:error=EIO:when=1+", SAME),
        ("read:error=EIO:when=1+3", SAME),
        ("read:error=EIO:when=2..9", SAME),
        ("read:error=EIO:when=9..9", SAME),
        ("read:error=EIO:when=2..9+2", SAME),
        ("read:error=EIO:when=02..09+02", "read:error=EIO:when=2..9+2"),
        ("read:error=EIO:when=65535", SAME),
        ("read:error=EIO:when=1..65535+65535", SAME),
        ("read:error=EIO:when= 3+ ", "read:error=EIO:when=3+"),
        # how often
        ("read:error=EIO:probability=0.1", SAME),
        ("read:error=EIO:probability=.5", "read:error=EIO:probability=0.5"),
        ("read:error=EIO:probability=1", "read:error=EIO"),
        ("read:error=EIO:probability=1.000", "read:error=EIO"),
        ("read:error=EIO:probability=1e-05", SAME),
        ("read:error=EIO:probability=0.00001", "read:error=EIO:probability=1e-05"),
        ("read:error=EIO:probability=0.000000001", "read:error=EIO:probability=1e-09"),
        ("read:error=EIO:probability=0.1000000000000000055", "read:error=EIO:probability=0.1"),
        ("read:error=EIO:probability=0.9999999999999999", SAME),
        ("read:error=EIO:probability=0.5:when=2+2", "read:error=EIO:when=2+2:probability=0.5"),
        ("read:error=EIO:max_faults=1", SAME),
        ("read:error=EIO:max_faults=0", "read:error=EIO"),
        ("read:error=EIO:max_faults=2147483648", SAME),
        ("read:error=EIO:max_faults=010", "read:error=EIO:max_faults=10"),
        ("read:error=EIO:max_faults=5:probability=0.5:when=3+", "read:error=EIO:when=3+:probability=0.5:max_faults=5"),
        # on which file
        ("openat:error=EIO:path=/etc/hosts", SAME),
        ("openat:error=EIO:path=/", SAME),
        ("openat:error=EIO:path=/a b", SAME),
        ("openat:error=EIO:path=/a=b,c", SAME),
        ("openat:error=EIO:path=/a%3Ab", SAME),
        ("openat:error=EIO:path=/a%3ab", "openat:error=EIO:path=/a%3Ab"),
        ("openat:error=EIO:path=/100%25", SAME),
        ("openat:error=EIO:path=/%2541", SAME),  # the name is %41, not A
        ("openat:error=EIO:path=/%41", "openat:error=EIO:path=/A"),
        ("openat:error=EIO:path=/gr%C3%BC%C3%9Fe", SAME),
        ("openat:error=EIO:path=/grüße", "openat:error=EIO:path=/gr%C3%BC%C3%9Fe"),
        ("openat:error=EIO:path=/two%0Alines", SAME),
        ("openat:error=EIO:path=/two\nlines", "openat:error=EIO:path=/two%0Alines"),
        ("openat:error=EIO:path=/'quoted' \"twice\"", SAME),
        ("openat:error=EIO:path=/trailing ", SAME),
        ("openat:error=EIO:path=/srv/../etc//hosts/", SAME),
        (f"openat:error=EIO:path={LONGEST}", SAME),
        ("read:error=EIO:path=/data", SAME),
        ("mmap:error=ENOMEM:path=/data", SAME),
        (
            "open*:error=EIO:path=/data:when=3:probability=0.5",
            "open,openat,openat2,creat:error=EIO:when=3:probability=0.5:path=/data",
        ),
        ("fs*:error=EIO:path=/data", "fsetxattr,fspick,fstat,fstatfs,fsync:error=EIO:path=/data"),  # fsopen names none
        # in which processes
        ("read:error=EIO:process=nginx", SAME),
        ("read:error=EIO:process=nginx%3A worker process", SAME),
        ("read:error=EIO:process= -c ", SAME),  # spaces are looked for as well
        ("read:error=EIO:process=--rate=10%25", SAME),
        ("read:error=EIO:process=sh:path=/data", "read:error=EIO:path=/data:process=sh"),
        # a fault that injects nothing
        ("placebo:read:error=EIO", SAME),
        ("placebo:open*:delay_enter=1ms:probability=0.5", "placebo:open,openat,openat2,creat:delay_enter=1ms:probability=0.5"),
        ("placebo:exit_group:signal=SIGTERM", SAME),
        # all at once
        (
            "read,write:process=x:when=2..90+2:max_faults=7:delay_exit=2ms:path=/p:probability=0.25:delay_enter=1ms:signal=usr1:error=eio",
            "read,write:error=EIO:signal=SIGUSR1:delay_enter=1ms:delay_exit=2ms:when=2..90+2"
            ":probability=0.25:max_faults=7:path=/p:process=x",
        ),
    ],
)
def test_a_text_is_read_and_has_one_way_to_be_written(text: str, canonical: str | None) -> None:
    fault = read_fault(text, X86)
    assert fault.text == (canonical or text)
    assert read_fault(fault.text, X86) == fault
    assert Fault.from_json(json.loads(json.dumps(fault.to_json()))) == fault


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("open*:error=EIO", "openat,openat2:error=EIO"),
        ("stat*:error=EIO", "fstat,newfstatat,statx:error=EIO"),
        ("fork*:error=EIO", "clone,clone3:error=EIO"),
        ("%statfs,%lstat,read:error=EIO", "no system call"),
        ("epoll_*:error=EIO:path=/a", "epoll_ctl:error=EIO:path=/a"),
        ("file_getattr:error=EIO", "file_getattr:error=EIO"),
    ],
)
def test_a_text_means_the_calls_of_its_architecture(text: str, canonical: str) -> None:
    if canonical == "no system call":
        with pytest.raises(InvalidArgument, match="%lstat"):
            read_fault(text, ARM)
    else:
        assert read_fault(text, ARM).text == canonical


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
        ({"path": "/a:b%25"}, {"path": "/a:b%25"}),  # nothing is unescaped in an argument
        ({"process": "worker: 100%"}, {"process": "worker: 100%"}),
        ({"path": "/" + 2047 * "ü"}, {"path": "/" + 2047 * "ü"}),  # 4095 bytes
        ({"placebo": "true"}, {"placebo": True}),
        ({"placebo": "no"}, {"placebo": False}),
        ({"delay_enter": "10m"}, {"delay_enter": 600_000_000}),  # as long as the fault lasts: what it holds it holds to its end
        ({"delay_exit": "1h", "duration": "2h"}, {"delay_exit": 3_600_000_000, "duration": 7_200_000_000}),
        ({"duration": "1us"}, {"duration": 1}),
        ({"duration": "8784h"}, {"duration": 8784 * 3_600_000_000}),
        ({"abort_when": "error_ratio>0.5"}, {"abort_when": "error_ratio > 0.5 for 5s"}),
        ({"abort_when": "latency(0.99) > 500ms for 60s"}, {"abort_when": "latency(0.99) > 500ms for 1m"}),
        ({"abort_when": "request_rate < 10 for 20m"}, {"abort_when": "request_rate < 10 for 20m"}),  # it ends before: no harm
    ],
)
def test_arguments_are_taken_as_numbers_or_as_text(arguments: dict[str, Any], fault: dict[str, Any]) -> None:
    found = parse_fault(X86, "read", **{"error": "EIO", **arguments})
    assert {name: getattr(found, name) for name in fault} == fault
    assert read_fault(found.text, X86) == replace(found, duration=max(found.delay_exit or 0, Fault.duration), abort_when=None)
    assert Fault.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # nothing, or not in this order
        ("", "syscall '' names no system call"),
        ("::", "syscall '' names no system call"),
        ("openat", "the fault on 'openat' has no effect: give one of"),
        ("openat:", "has an empty part: write one colon between two parts, and none at the end"),
        ("openat::error=EIO", "has an empty part"),
        ("openat:error=EIO:", "has an empty part"),
        (":error=EIO", "syscall '' names no system call"),
        ("error=EIO", "system call 'error=EIO' does not exist"),
        ("error=EIO:openat", "system call 'error=EIO' does not exist"),
        ("openat error=EIO", "system call 'openat error=EIO' does not exist"),
        ("openat:EIO", "has no part 'EIO'"),
        ("openat;error=EIO", "system call 'openat;error=EIO' does not exist"),
        ("openat:error=EIO;read", "error 'EIO;read' is no errno"),
        ("openat:error=EIO,when=3", "error 'EIO,when=3' is no errno"),
        ("inject=openat:error=EIO", "system call 'inject=openat' does not exist"),
        # placebo
        ("placebo", "system call 'placebo' does not exist"),
        ("placebo:", "syscall '' names no system call"),
        ("placebo:openat", "has no effect"),
        ("placebo:error=EIO", "system call 'error=EIO' does not exist"),
        ("placebo:placebo:openat:error=EIO", "system call 'placebo' does not exist"),
        ("Placebo:openat:error=EIO", "system call 'Placebo' does not exist"),
        ("openat:placebo:error=EIO", "has placebo in its middle: write it at the beginning"),
        ("openat:error=EIO:placebo=true", "has placebo in its middle"),
        # parts
        ("openat:eror=EIO", "has no part 'eror': did you mean 'error'? (there are error,"),
        ("openat:ERROR=EIO", "has no part 'ERROR': did you mean 'error'?"),
        ("openat: error=EIO", "has no part ' error': did you mean 'error'?"),
        ("openat:error =EIO", "has no part 'error ': did you mean 'error'?"),
        ("openat:=EIO", "has no part ''"),
        ("openat:delay=1s", "has no part 'delay': did you mean"),
        ("openat:fault=EIO", "has no part 'fault'"),
        ("openat:syscall=read:error=EIO", "has no part 'syscall'"),
        ("openat:error=EIO:probabilty=0.5", "has no part 'probabilty': did you mean 'probability'?"),
        ("openat:error=EIO:injector=strace", "has no part 'injector'"),
        (
            "openat:error=EIO:duration=5s",
            "has duration in it, which is no part of a fault's text: give it as an argument of its own",
        ),
        ("openat:error=EIO:abort_when=error_ratio > 0.5", "has abort_when in it, which is no part of a fault's text"),
        ("openat:error", "gives no value for error: write it as in 'error=…', or leave it out"),
        ("openat:error=", "gives no value for error"),
        ("openat:error=:delay_enter=1s", "gives no value for error"),
        ("openat:error=EIO:when=", "gives no value for when"),
        ("openat:error=EIO:path", "gives no value for path"),
        ("openat:error=EIO:process=", "gives no value for process"),
        ("openat:error=EIO:error=EIO", "gives error twice: leave one of them out"),
        ("openat:error=EIO:error=EPERM", "gives error twice"),
        ("openat:when=1:error=EIO:when=2", "gives when twice"),
        ("openat:error=EIO:path=/a:path=/b", "gives path twice"),
        ("openat:error=EIO:max_faults=0:max_faults=0", "gives max_faults twice"),
        # system calls
        ("opennat:error=EIO", "system call 'opennat' does not exist on x86_64: did you mean 'openat'"),
        ("openat,:error=EIO", "syscall 'openat,' names no system call"),
        ("open**:error=EIO", "syscall 'open**' means no system call"),
        ("o*at:error=EIO", "system call 'o*at' does not exist"),
        ("%%file:error=EIO", "class '%%file' of system calls does not exist: did you mean 'file'"),
        ("%FILE:error=EIO", "class '%FILE' of system calls does not exist: did you mean 'file'"),
        ("%file*:error=EIO", "class '%file*' of system calls does not exist"),
        ("trace=%file:error=EIO", "system call 'trace=%file' does not exist"),
        ("semop\nread:error=EIO", "system call 'semop\\nread' does not exist"),
        ("\u043epenat:error=EIO", "does not exist"),  # a Cyrillic letter
        # errors
        ("openat:error=EACCESS", "error 'EACCESS' is no errno of Linux: did you mean 'EACCES'"),
        ("openat:error=13", "error '13' is no errno of Linux: did you mean 'EACCES'?"),
        ("openat:error=-13", "error '-13' is no errno of Linux: did you mean 'EACCES'?"),
        ("openat:error=0", "error '0' is no errno of Linux"),
        ("openat:error=41", "error '41' is no errno of Linux"),  # a number that Linux leaves out
        ("openat:error=ACCES", "error 'ACCES' is no errno of Linux: did you mean 'EACCES'"),
        ("openat:error=ERESTARTSYS", "error 'ERESTARTSYS' is no errno of Linux"),  # no program ever gets it
        ("openat:error=any", "error 'any' is no errno of Linux"),
        ("openat:error= ", "error ' ' is no errno of Linux"),
        ("openat:error=E", "error 'E' is no errno of Linux"),
        # forged results
        ("read:retval=-1", "from 0 to 9223372036854775807: an error is given by its name, as in error='EACCES'"),
        ("read:retval=-EIO", "retval '-EIO' is no number: an error is given by its name"),
        ("read:retval=9223372036854775808", "is not a number from 0 to 9223372036854775807"),
        ("read:retval=18446744073709551615", "is not a number from 0 to 9223372036854775807"),
        ("read:retval=1.5", "retval '1.5' is no whole number"),
        ("read:retval=0x10", "retval '0x10' is no number"),
        ("read:retval=1_000", "retval '1_000' is no number"),
        ("read:retval=\u0663", "retval '\u0663' is no number"),
        ("read:retval=EIO", "retval 'EIO' is no number"),
        ("read:retval=nan", "retval 'nan' is not a number from 0"),
        (f"read:retval={5000 * '9'}", "is not a number from 0"),
        # signals
        ("read:signal=SIGUSR3", "signal 'SIGUSR3' does not exist: did you mean 'SIGUSR"),
        ("read:signal=10", "signal '10' is a number: give a name, as in 'SIGUSR1'"),
        ("read:signal=9", "signal '9' is a number: give a name, as in 'SIGKILL'"),
        ("read:signal=0", "signal '0' is a number: give a name"),
        ("read:signal=64", "signal '64' is a number: give a name"),
        ("read:signal=-9", "signal '-9' does not exist"),
        ("read:signal=SIGRTMIN", "signal 'SIGRTMIN' is a real-time signal: only the standard ones can be sent"),
        ("read:signal=rtmax-1", "signal 'rtmax-1' is a real-time signal"),
        ("read:signal=SIG", "signal 'SIG' does not exist"),
        ("read:signal=SIGSIGHUP", "signal 'SIGSIGHUP' does not exist"),
        ("read:signal=SIGHUP,SIGINT", "signal 'SIGHUP,SIGINT' does not exist"),
        # delays
        ("read:delay_enter=100", "delay_enter '100' has no unit: write it with one of us, ms, s, m, h"),
        ("read:delay_exit=1.5", "delay_exit '1.5' has no unit"),
        ("read:delay_enter=0", "delay_enter '0' has no unit"),
        ("read:delay_enter=0ms", "delay_enter '0ms' is no time at all"),
        ("read:delay_exit=-1s", "delay_exit '-1s' is no duration"),
        ("read:delay_enter=1m30s", "delay_enter '1m30s' is no duration"),
        ("read:delay_enter=1d", "delay_enter '1d' is no duration"),
        ("read:delay_enter=100ns", "delay_enter '100ns' is no duration"),
        ("read:delay_enter=1µs", "delay_enter '1µs' is no duration"),
        ("read:delay_enter=\u0661s", "delay_enter '\u0661s' is no duration"),
        ("read:delay_enter=infs", "delay_enter 'infs' is no duration"),
        ("read:delay_enter=1ms-2ms", "delay_enter '1ms-2ms' is no duration"),
        ("read:delay_enter=0.0001ms", "delay_enter '0.0001ms' is finer than a microsecond"),
        ("read:delay_enter=1.0000000000000000000000000000000001s", "is no duration"),
        ("read:delay_enter=8785h", "delay_enter '8785h' is longer than a year"),
        (f"read:delay_exit={5000 * '9'}h", "is no duration"),
        # on which calls of a thread
        ("read:error=EIO:when=0", "when '0' has 0, which is not in 1 to 65535: calls are counted from 1"),
        ("read:error=EIO:when=65536", "when '65536' has 65536, which is not in 1 to 65535"),
        ("read:error=EIO:when=1+0", "when '1+0' has 0, which is not in 1 to 65535"),
        ("read:error=EIO:when=9..2", "when '9..2' ends at call 2, before it begins at call 9"),
        ("read:error=EIO:when=2..9+", "when '2..9+' is not one of F, F+, F+S, F..L, F..L+S"),
        ("read:error=EIO:when=..9", "when '..9' is not one of"),
        ("read:error=EIO:when=2-9", "when '2-9' is not one of"),
        ("read:error=EIO:when=1,2", "when '1,2' is not one of"),
        ("read:error=EIO:when=even", "when 'even' is not one of"),
        ("read:error=EIO:when=\u0663", "when '\u0663' is not one of"),
        (f"read:error=EIO:when={5000 * '9'}", "is not one of"),
        ("read:when=3+", "the fault on 'read' has no effect"),
        # how often
        ("read:error=EIO:probability=0", "probability '0' means never: give a number above 0, up to 1"),
        ("read:error=EIO:probability=-0.0", "probability '-0.0' means never"),
        ("read:error=EIO:probability=1e-400", "probability '1e-400' means never"),
        ("read:error=EIO:probability=1e-10", "probability '1e-10' is less than one call in a billion: give at least 1e-09"),
        ("read:error=EIO:probability=1.1", "probability '1.1' is not a number from 0 to 1"),
        ("read:error=EIO:probability=-0.1", "probability '-0.1' is not a number from 0 to 1"),
        ("read:error=EIO:probability=10%", "probability '10%' is no number"),
        ("read:error=EIO:probability=0,1", "probability '0,1' is no number"),
        ("read:error=EIO:probability=1/2", "probability '1/2' is no number"),
        ("read:error=EIO:probability=0_1", "probability '0_1' is no number"),
        ("read:error=EIO:probability=\u0660.\u0665", "probability '\u0660.\u0665' is no number"),
        ("read:error=EIO:probability=nan", "probability 'nan' is not a number from 0 to 1"),
        ("read:error=EIO:probability=inf", "probability 'inf' is not a number from 0 to 1"),
        ("read:error=EIO:probability=half", "probability 'half' is no number"),
        ("read:probability=0.5", "the fault on 'read' has no effect"),
        ("read:error=EIO:max_faults=-1", "max_faults '-1' is not a number from 0 to 2147483648"),
        ("read:error=EIO:max_faults=2147483649", "max_faults '2147483649' is not a number from 0 to 2147483648"),
        ("read:error=EIO:max_faults=0.5", "max_faults '0.5' is no whole number"),
        ("read:error=EIO:max_faults=1e3", "max_faults '1e3' is no whole number"),
        ("read:error=EIO:max_faults=all", "max_faults 'all' is no number"),
        ("read:max_faults=3", "the fault on 'read' has no effect"),
        # on which file
        ("openat:error=EIO:path=etc/hosts", "path 'etc/hosts' is not absolute: write it as the container sees it"),
        ("openat:error=EIO:path=./hosts", "path './hosts' is not absolute"),
        ("openat:error=EIO:path=~/hosts", "path '~/hosts' is not absolute"),
        ("openat:error=EIO:path=%2E/hosts", "path './hosts' is not absolute"),
        ("openat:error=EIO:path= /etc/hosts", "path ' /etc/hosts' is not absolute"),
        ("openat:error=EIO:path= ", "path ' ' is no text to look for"),
        ("openat:error=EIO:path=/a%00b", "path '/a\\x00b' is no text to look for"),
        (f"openat:error=EIO:path={LONGEST}a", "is longer than 4095 bytes: give a shorter one"),
        (f"openat:error=EIO:path=/{2048 * 'ü'}", "is longer than 4095 bytes"),  # 2049 characters
        ("openat:error=EIO:path=/a:b", "has no part 'b' (there are error, retval, signal"),
        ("openat:error=EIO:path=/a:b", "a colon in path or process is written %3A"),
        ("openat:error=EIO:path=/100%", "has a percent sign without two hexadecimal digits after it: write it as %25"),
        ("openat:error=EIO:path=/%zz", "has a percent sign without two hexadecimal digits"),
        ("openat:error=EIO:path=/%2", "has a percent sign without two hexadecimal digits"),
        ("openat:error=EIO:path=/%ff", "path '/%ff' stands for bytes that are no UTF-8"),
        ("openat:error=EIO:path=/\udcff", "path '/\\udcff' cannot be written in UTF-8"),
        ("openat:path=/etc/hosts", "has no effect"),
        ("getpid:error=EIO:path=/a", "system call 'getpid' names no file, so it cannot be limited to path '/a'"),
        ("openat,socket:error=EIO:path=/a", "system call 'socket' names no file"),
        ("connect:error=EIO:path=/run/db.sock", "system call 'connect' names no file"),
        ("getcwd:error=EIO:path=/a", "system call 'getcwd' names no file"),
        ("%creds:error=EIO:path=/a", "names no file, so it cannot be limited to path '/a': choose another system call"),
        # in which processes
        ("read:error=EIO:process= ", "process ' ' is no text to look for"),
        ("read:error=EIO:process=a%00b", "process 'a\\x00b' is no text to look for"),
        (f"read:error=EIO:process={4096 * 'x'}", "is longer than 4095 bytes"),
        ("read:error=EIO:process=nginx: worker", "a colon in path or process is written %3A"),
        ("read:error=EIO:process=100%", "process '100%' has a percent sign"),
        ("read:process=nginx", "has no effect"),
        # what makes no sense together
        ("read:error=EIO:retval=0", "a call cannot both fail with EIO and return 0: give either error or retval"),
        ("placebo:read:error=EIO:retval=0", "a call cannot both fail with EIO and return 0"),
        ("read:signal=SIGKILL:error=EIO", "SIGKILL ends the process in the call, so error can never be seen: leave it out"),
        *[
            (f"read:signal={name}:delay_exit=1s", f"signal '{name}' would leave the process stopped after the fault")
            for name in ("SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU")
        ],
        ("read:signal=kill:retval=1", "so retval can never be seen"),
        ("read:signal=SIGKILL:delay_exit=1s", "so delay_exit can never be seen"),
        ("exit_group:error=EIO", "system call 'exit_group' never returns, so error cannot act on it: choose another system call"),
        ("exit:retval=0", "system call 'exit' never returns, so retval cannot act on it"),
        ("rt_sigreturn:delay_exit=1s", "system call 'rt_sigreturn' never returns, so delay_exit cannot act on it"),
        ("read,exit:error=EIO", "system call 'exit' never returns"),
        ("%process,exit_group:error=EIO", "system call 'exit_group' never returns"),
        ("exit*:error=EIO", "system call 'exit' never returns"),
        ("exit:delay_enter=1s:path=/a", "system call 'exit' names no file"),
    ],
)
def test_a_text_that_makes_no_sense_is_refused_with_its_reason(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_fault(text, X86)
    assert says in str(refused.value)
    assert is_a_sentence(str(refused.value))


@pytest.mark.parametrize("text", [None, 5, True, b"openat:error=EIO", ["openat:error=EIO"], {"syscall": "openat"}])
def test_what_is_no_text_is_no_fault(text: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"is no text: write it as in 'openat:error=EACCES'$"):
        read_fault(text, X86)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "open:error=EIO",
            "system call 'open' exists on x86_64 but can never be made on aarch64: programs there make 'openat' instead",
        ),
        ("fork:error=EIO", "programs there make 'clone' instead"),
        ("epoll_wait:error=EIO", "exists on x86_64 but can never be made on aarch64: did you mean 'epoll_pwait"),
        ("read,map_shadow_stack:error=EIO", "'map_shadow_stack' exists on x86_64 but can never be made on aarch64"),
        ("vfork*:error=EIO", "syscall 'vfork*' means no system call of aarch64"),
        ("%stat:error=EIO", "syscall '%stat' means no system call of aarch64"),
        ("opennat:error=EIO", "system call 'opennat' does not exist on aarch64: did you mean 'openat'"),
    ],
)
def test_a_call_that_the_architecture_does_not_have_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_fault(text, ARM)
    assert says in str(refused.value)
    assert is_a_sentence(str(refused.value))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # probability
        ({"probability": 0}, "probability 0 means never"),
        ({"probability": 0.0}, "probability 0.0 means never"),
        ({"probability": 5e-324}, "probability 5e-324 is less than one call in a billion"),
        ({"probability": 1.1}, "probability 1.1 is not a number from 0 to 1"),
        ({"probability": 1.0000000000000002}, "probability 1.0000000000000002 is not a number from 0 to 1"),
        ({"probability": 10}, "probability 10 is not a number from 0 to 1"),
        ({"probability": -0.1}, "probability -0.1 is not a number from 0 to 1"),
        ({"probability": float("nan")}, "probability nan is not a number from 0 to 1"),
        ({"probability": float("inf")}, "probability inf is not a number from 0 to 1"),
        ({"probability": ""}, "probability '' is no number"),
        ({"probability": "${p}"}, "probability '${p}' is no number"),
        ({"probability": True}, "probability True is not a number from 0 to 1"),
        ({"probability": None}, "probability None is no number"),
        ({"probability": [0.5]}, "probability [0.5] is no number"),
        # max_faults
        ({"max_faults": -1}, "max_faults -1 is not a number from 0 to 2147483648"),
        ({"max_faults": 2**31 + 1}, "is not a number from 0 to 2147483648"),
        ({"max_faults": 1e20}, "max_faults 1e+20 is not a number from 0 to 2147483648"),
        ({"max_faults": 1.5}, "max_faults 1.5 is no whole number"),
        ({"max_faults": True}, "max_faults True is not a number from 0"),
        ({"max_faults": None}, "max_faults None is no number"),
        ({"max_faults": ""}, "max_faults '' is no number"),
        # path and process
        ({"path": ""}, "path '' is no text to look for: leave it out, or say what it has to be"),
        ({"path": 7}, "path 7 is no text to look for"),
        ({"path": b"/etc/hosts"}, "path b'/etc/hosts' is no text to look for"),
        ({"path": ["/a", "/b"]}, "path ['/a', '/b'] is no text to look for"),
        ({"path": "/a\0b"}, "path '/a\\x00b' is no text to look for"),
        ({"path": "/\udcff"}, "path '/\\udcff' cannot be written in UTF-8"),
        ({"path": "%2Fetc"}, "path '%2Fetc' is not absolute"),
        ({"path": "C:/data"}, "path 'C:/data' is not absolute"),
        ({"process": ""}, "process '' is no text to look for"),
        ({"process": "\n\t"}, "process '\\n\\t' is no text to look for"),
        ({"process": 4711}, "process 4711 is no text to look for"),
        ({"process": True}, "process True is no text to look for"),
        ({"process": "\ud800"}, "process '\\ud800' cannot be written in UTF-8"),
        # placebo
        ({"placebo": "maybe"}, "placebo 'maybe' is neither true nor false"),
        ({"placebo": None}, "placebo None is neither true nor false"),
        ({"placebo": 2}, "placebo 2 is neither true nor false"),
        # effects
        ({"signal": ""}, "signal '' does not exist"),
        ({"signal": 9}, "signal 9 is no name of a signal: write it as in 'SIGUSR1'"),
        ({"signal": True}, "signal True is no name of a signal"),
        ({"signal": ["SIGHUP"]}, "signal ['SIGHUP'] is no name of a signal"),
        ({"error": None, "retval": ""}, "retval '' is no number"),
        ({"error": None, "retval": 1e20}, "retval 1e+20 is not a number from 0 to 9223372036854775807"),
        ({"error": None, "retval": [1]}, "retval [1] is no number"),
        ({"error": None, "retval": -4095}, "retval -4095 is not a number from 0"),
        ({"error": False}, "error False is no name of an errno"),
        ({"error": 0}, "error 0 is no name of an errno"),
        ({"error": None}, "has no effect"),
        ({"error": None, "probability": 0.5, "path": "/a", "placebo": True}, "has no effect"),
        # how long
        (
            {"delay_enter": "1h"},
            "delay_enter 1h is longer than the fault's duration 10m, whose end lets go of the calls that it holds: "
            "give a shorter delay, or a longer duration",
        ),
        ({"delay_exit": "5001ms", "duration": "5s"}, "delay_exit 5001ms is longer than the fault's duration 5s"),
        ({"delay_enter": "2s", "duration": "1s", "placebo": True}, "delay_enter 2s is longer than the fault's duration 1s"),
        ({"duration": "0s"}, "duration '0s' is no time at all"),
        ({"duration": "forever"}, "duration 'forever' is no duration"),
        ({"duration": 10}, "duration 10 has no unit"),
        ({"duration": ""}, "duration '' is no duration"),
        ({"duration": "400d"}, "duration '400d' is no duration"),
        # when it ends by itself
        ({"abort_when": ""}, "abort_when '' is no condition: write it as in 'error_ratio > 0.5 for 10s'"),
        ({"abort_when": True}, "abort_when True is no condition"),
        ({"abort_when": "error_ratio"}, "abort_when 'error_ratio' is no condition"),
        ({"abort_when": "error_rate > 0.5"}, "abort_when knows no 'error_rate': did you mean 'error_ratio'"),
        ({"abort_when": "error_ratio > 1.5"}, "abort_when's error_ratio '1.5' is not a number from 0 to 1"),
        ({"abort_when": "request_rate < 1e10"}, "abort_when's request_rate '1e10' is not a number from 0 to 1000000000"),
        ({"abort_when": "latency > 0.5"}, "abort_when's latency '0.5' has no unit"),
        ({"abort_when": "latency(95) > 1s"}, "abort_when's quantile '95' is not a number from 0 to 1"),
        ({"abort_when": "error_ratio > 0.5 for 10"}, "abort_when's duration '10' has no unit"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_with_their_reason(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_fault(X86, "read", **{"error": "EIO", **arguments})
    assert says in str(refused.value)
    assert is_a_sentence(str(refused.value))
