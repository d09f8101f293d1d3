"""Faults as texts: what is refused, and the message."""

from __future__ import annotations

from typing import Any

import pytest

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import read_fault
from tests.support.sentences import is_a_sentence

X86, ARM = "x86_64", "aarch64"
LONGEST = "/" + 4094 * "a"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # empty, or in another order
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
        ("openat:EIO", "has an unknown part 'EIO'"),
        ("openat;error=EIO", "system call 'openat;error=EIO' does not exist"),
        ("openat:error=EIO;read", "error 'EIO;read' is not a Linux errno"),
        ("openat:error=EIO,when=3", "error 'EIO,when=3' is not a Linux errno"),
        ("inject=openat:error=EIO", "system call 'inject=openat' does not exist"),
        # placebo
        ("placebo", "system call 'placebo' does not exist"),
        ("placebo:", "syscall '' names no system call"),
        ("placebo:openat", "has no effect"),
        ("placebo:error=EIO", "system call 'error=EIO' does not exist"),
        ("placebo:placebo:openat:error=EIO", "system call 'placebo' does not exist"),
        ("Placebo:openat:error=EIO", "system call 'Placebo' does not exist"),
        ("openat:placebo:error=EIO", "has placebo in the middle: write it at the beginning"),
        ("openat:error=EIO:placebo=true", "has placebo in the middle"),
        # parts
        ("openat:eror=EIO", "has an unknown part 'eror': did you mean 'error'? (there are error,"),
        ("openat:ERROR=EIO", "has an unknown part 'ERROR': did you mean 'error'?"),
        ("openat: error=EIO", "has an unknown part ' error': did you mean 'error'?"),
        ("openat:error =EIO", "has an unknown part 'error ': did you mean 'error'?"),
        ("openat:=EIO", "has an unknown part ''"),
        ("openat:delay=1s", "has an unknown part 'delay': did you mean"),
        ("openat:fault=EIO", "has an unknown part 'fault'"),
        ("openat:syscall=read:error=EIO", "has an unknown part 'syscall'"),
        ("openat:error=EIO:probabilty=0.5", "has an unknown part 'probabilty': did you mean 'probability'?"),
        ("openat:error=EIO:injector=strace", "has an unknown part 'injector'"),
        (
            "openat:error=EIO:duration=5s",
            "contains duration, which is not part of a fault's text: give it as a separate argument",
        ),
        ("openat:error=EIO:abort_when=error_ratio > 0.5", "contains abort_when, which is not part of a fault's text"),
        ("openat:error", "gives no value for error: write it as in 'error=…', or leave it out"),
        ("openat:error=", "gives no value for error"),
        ("openat:error=:delay_enter=1s", "gives no value for error"),
        ("openat:error=EIO:when=", "gives no value for when"),
        ("openat:error=EIO:path", "gives no value for path"),
        ("openat:error=EIO:process=", "gives no value for process"),
        ("openat:error=EIO:error=EIO", "gives error twice: remove one of them"),
        ("openat:error=EIO:error=EPERM", "gives error twice"),
        ("openat:when=1:error=EIO:when=2", "gives when twice"),
        ("openat:error=EIO:path=/a:path=/b", "gives path twice"),
        ("openat:error=EIO:max_faults=0:max_faults=0", "gives max_faults twice"),
        # system calls
        ("opennat:error=EIO", "system call 'opennat' does not exist on x86_64: did you mean 'openat'"),
        ("openat,:error=EIO", "syscall 'openat,' names no system call"),
        ("open**:error=EIO", "syscall 'open**' matches no system call"),
        ("o*at:error=EIO", "system call 'o*at' does not exist"),
        ("%%file:error=EIO", "class '%%file' of system calls does not exist: did you mean 'file'"),
        ("%FILE:error=EIO", "class '%FILE' of system calls does not exist: did you mean 'file'"),
        ("%file*:error=EIO", "class '%file*' of system calls does not exist"),
        ("trace=%file:error=EIO", "system call 'trace=%file' does not exist"),
        ("semop\nread:error=EIO", "system call 'semop\\nread' does not exist"),
        ("\u043epenat:error=EIO", "does not exist"),  # a Cyrillic letter
        # errors
        ("openat:error=EACCESS", "error 'EACCESS' is not a Linux errno: did you mean 'EACCES'"),
        ("openat:error=13", "error '13' is not a Linux errno: did you mean 'EACCES'?"),
        ("openat:error=-13", "error '-13' is not a Linux errno: did you mean 'EACCES'?"),
        ("openat:error=0", "error '0' is not a Linux errno"),
        ("openat:error=41", "error '41' is not a Linux errno"),  # a number that Linux leaves out
        ("openat:error=ACCES", "error 'ACCES' is not a Linux errno: did you mean 'EACCES'"),
        ("openat:error=ERESTARTSYS", "error 'ERESTARTSYS' is not a Linux errno"),  # programs never get this one
        ("openat:error=any", "error 'any' is not a Linux errno"),
        ("openat:error= ", "error ' ' is not a Linux errno"),
        ("openat:error=E", "error 'E' is not a Linux errno"),
        # forged results
        ("read:retval=-1", "is not between 0 and 9223372036854775807: give an error by its name, as in error='EACCES'"),
        ("read:retval=-EIO", "retval '-EIO' is not a number: give an error by its name"),
        ("read:retval=9223372036854775808", "is not between 0 and 9223372036854775807"),
        ("read:retval=18446744073709551615", "is not between 0 and 9223372036854775807"),
        ("read:retval=1.5", "retval '1.5' is not a whole number"),
        ("read:retval=0x10", "retval '0x10' is not a number"),
        ("read:retval=1_000", "retval '1_000' is not a number"),
        ("read:retval=\u0663", "retval '\u0663' is not a number"),
        ("read:retval=EIO", "retval 'EIO' is not a number"),
        ("read:retval=nan", "retval 'nan' is not between 0 and"),
        (f"read:retval={5000 * '9'}", "is not between 0 and"),
        # signals
        ("read:signal=SIGUSR3", "signal 'SIGUSR3' does not exist: did you mean 'SIGUSR"),
        ("read:signal=10", "signal '10' is a number: give a name, as in 'SIGUSR1'"),
        ("read:signal=9", "signal '9' is a number: give a name, as in 'SIGKILL'"),
        ("read:signal=0", "signal '0' is a number: give a name"),
        ("read:signal=64", "signal '64' is a number: give a name"),
        ("read:signal=-9", "signal '-9' does not exist"),
        ("read:signal=SIGRTMIN", "signal 'SIGRTMIN' is a real-time signal: give a standard one"),
        ("read:signal=rtmax-1", "signal 'rtmax-1' is a real-time signal"),
        ("read:signal=SIG", "signal 'SIG' does not exist"),
        ("read:signal=SIGSIGHUP", "signal 'SIGSIGHUP' does not exist"),
        ("read:signal=SIGHUP,SIGINT", "signal 'SIGHUP,SIGINT' does not exist"),
        # delays
        ("read:delay_enter=100", "delay_enter '100' has no unit: add one of us, ms, s, m, h"),
        ("read:delay_exit=1.5", "delay_exit '1.5' has no unit"),
        ("read:delay_enter=0", "delay_enter '0' has no unit"),
        ("read:delay_enter=0ms", "delay_enter '0ms' is zero"),
        ("read:delay_exit=-1s", "delay_exit '-1s' is not a duration"),
        ("read:delay_enter=1m30s", "delay_enter '1m30s' is not a duration"),
        ("read:delay_enter=1d", "delay_enter '1d' is not a duration"),
        ("read:delay_enter=100ns", "delay_enter '100ns' is not a duration"),
        ("read:delay_enter=1µs", "delay_enter '1µs' is not a duration"),
        ("read:delay_enter=\u0661s", "delay_enter '\u0661s' is not a duration"),
        ("read:delay_enter=infs", "delay_enter 'infs' is not a duration"),
        ("read:delay_enter=1ms-2ms", "delay_enter '1ms-2ms' is not a duration"),
        ("read:delay_enter=0.0001ms", "delay_enter '0.0001ms' is finer than a microsecond"),
        ("read:delay_enter=1.0000000000000000000000000000000001s", "is not a duration"),
        ("read:delay_enter=8785h", "delay_enter '8785h' is longer than a year"),
        (f"read:delay_exit={5000 * '9'}h", "is not a duration"),
        # on which calls of a thread
        ("read:error=EIO:when=0", "when '0' has 0, which is outside 1 to 65535: calls are counted from 1"),
        ("read:error=EIO:when=65536", "when '65536' has 65536, which is outside 1 to 65535"),
        ("read:error=EIO:when=1+0", "when '1+0' has 0, which is outside 1 to 65535"),
        ("read:error=EIO:when=9..2", "when '9..2' ends at call 2 before it begins at call 9"),
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
        ("read:error=EIO:probability=1.1", "probability '1.1' is not between 0 and 1"),
        ("read:error=EIO:probability=-0.1", "probability '-0.1' is not between 0 and 1"),
        ("read:error=EIO:probability=10%", "probability '10%' is not a number"),
        ("read:error=EIO:probability=0,1", "probability '0,1' is not a number"),
        ("read:error=EIO:probability=1/2", "probability '1/2' is not a number"),
        ("read:error=EIO:probability=0_1", "probability '0_1' is not a number"),
        ("read:error=EIO:probability=\u0660.\u0665", "probability '\u0660.\u0665' is not a number"),
        ("read:error=EIO:probability=nan", "probability 'nan' is not between 0 and 1"),
        ("read:error=EIO:probability=inf", "probability 'inf' is not between 0 and 1"),
        ("read:error=EIO:probability=half", "probability 'half' is not a number"),
        ("read:probability=0.5", "the fault on 'read' has no effect"),
        ("read:error=EIO:max_faults=-1", "max_faults '-1' is not between 0 and 2147483648"),
        ("read:error=EIO:max_faults=2147483649", "max_faults '2147483649' is not between 0 and 2147483648"),
        ("read:error=EIO:max_faults=0.5", "max_faults '0.5' is not a whole number"),
        ("read:error=EIO:max_faults=1e3", "max_faults '1e3' is not a whole number"),
        ("read:error=EIO:max_faults=all", "max_faults 'all' is not a number"),
        ("read:max_faults=3", "the fault on 'read' has no effect"),
        # on which file
        ("openat:error=EIO:path=etc/hosts", "path 'etc/hosts' is not absolute: give the path inside the container"),
        ("openat:error=EIO:path=./hosts", "path './hosts' is not absolute"),
        ("openat:error=EIO:path=~/hosts", "path '~/hosts' is not absolute"),
        ("openat:error=EIO:path=%2E/hosts", "path './hosts' is not absolute"),
        ("openat:error=EIO:path= /etc/hosts", "path ' /etc/hosts' is not absolute"),
        ("openat:error=EIO:path= ", "path ' ' is not text to match"),
        ("openat:error=EIO:path=/a%00b", "path '/a\\x00b' is not text to match"),
        (f"openat:error=EIO:path={LONGEST}a", "is longer than 4095 bytes: give a shorter one"),
        (f"openat:error=EIO:path=/{2048 * 'ü'}", "is longer than 4095 bytes"),  # 2049 characters
        ("openat:error=EIO:path=/a:b", "has an unknown part 'b' (there are error, retval, signal"),
        ("openat:error=EIO:path=/a:b", "write a colon in path or process as %3A"),
        ("openat:error=EIO:path=/100%", "has a percent sign without two hexadecimal digits after it: write it as %25"),
        ("openat:error=EIO:path=/%zz", "has a percent sign without two hexadecimal digits"),
        ("openat:error=EIO:path=/%2", "has a percent sign without two hexadecimal digits"),
        ("openat:error=EIO:path=/%ff", "path '/%ff' does not decode to UTF-8"),
        ("openat:error=EIO:path=/\udcff", "path '/\\udcff' cannot be encoded in UTF-8"),
        ("openat:path=/etc/hosts", "has no effect"),
        ("getpid:error=EIO:path=/a", "system call 'getpid' names no file, so it cannot be limited to path '/a'"),
        ("openat,socket:error=EIO:path=/a", "system call 'socket' names no file"),
        ("connect:error=EIO:path=/run/db.sock", "system call 'connect' names no file"),
        ("getcwd:error=EIO:path=/a", "system call 'getcwd' names no file"),
        ("%creds:error=EIO:path=/a", "names no file, so it cannot be limited to path '/a': choose another system call"),
        # in which processes
        ("read:error=EIO:process= ", "process ' ' is not text to match"),
        ("read:error=EIO:process=a%00b", "process 'a\\x00b' is not text to match"),
        (f"read:error=EIO:process={4096 * 'x'}", "is longer than 4095 bytes"),
        ("read:error=EIO:process=nginx: worker", "write a colon in path or process as %3A"),
        ("read:error=EIO:process=100%", "process '100%' has a percent sign"),
        ("read:process=nginx", "has no effect"),
        # parts that exclude each other
        ("read:error=EIO:retval=0", "a call cannot both fail with EIO and return 0: give either error or retval"),
        ("placebo:read:error=EIO:retval=0", "a call cannot both fail with EIO and return 0"),
        ("read:signal=SIGKILL:error=EIO", "SIGKILL ends the process during the call, so error would have no effect: leave it out"),
        *[
            (f"read:signal={name}:delay_exit=1s", f"signal '{name}' would leave the process stopped after the fault")
            for name in ("SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU")
        ],
        ("read:signal=kill:retval=1", "so retval would have no effect"),
        ("read:signal=SIGKILL:delay_exit=1s", "so delay_exit would have no effect"),
        ("exit_group:error=EIO", "system call 'exit_group' never returns, so error cannot act on it: choose another system call"),
        ("exit:retval=0", "system call 'exit' never returns, so retval cannot act on it"),
        ("rt_sigreturn:delay_exit=1s", "system call 'rt_sigreturn' never returns, so delay_exit cannot act on it"),
        ("read,exit:error=EIO", "system call 'exit' never returns"),
        ("%process,exit_group:error=EIO", "system call 'exit_group' never returns"),
        ("exit*:error=EIO", "system call 'exit' never returns"),
        ("exit:delay_enter=1s:path=/a", "system call 'exit' names no file"),
    ],
)
def test_an_invalid_text_is_refused_with_its_reason(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_fault(text, X86)
    assert says in str(refused.value)
    assert is_a_sentence(str(refused.value))


@pytest.mark.parametrize("text", [None, 5, True, b"openat:error=EIO", ["openat:error=EIO"], {"syscall": "openat"}])
def test_a_value_that_is_not_text_is_refused(text: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"is not text: write it as in 'openat:error=EACCES'$"):
        read_fault(text, X86)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "open:error=EIO",
            "system call 'open' exists on x86_64 but not on aarch64: programs there call 'openat' instead",
        ),
        ("fork:error=EIO", "programs there call 'clone' instead"),
        ("epoll_wait:error=EIO", "exists on x86_64 but not on aarch64: did you mean 'epoll_pwait"),
        ("read,map_shadow_stack:error=EIO", "'map_shadow_stack' exists on x86_64 but not on aarch64"),
        ("vfork*:error=EIO", "syscall 'vfork*' matches no system call of aarch64"),
        ("%stat:error=EIO", "syscall '%stat' matches no system call of aarch64"),
        ("opennat:error=EIO", "system call 'opennat' does not exist on aarch64: did you mean 'openat'"),
    ],
)
def test_a_call_that_the_architecture_does_not_have_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_fault(text, ARM)
    assert says in str(refused.value)
    assert is_a_sentence(str(refused.value))
