"""Faults as texts: what is accepted, and its canonical text."""

from __future__ import annotations

import json

import pytest

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import Fault, read_fault

X86, ARM = "x86_64", "aarch64"
SAME = None
LONGEST = "/" + 4094 * "a"


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
        # calls that never return are left out only if the fault is on their result
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
        ("getpid:retval=9007199254740993", SAME),  # a float would round this
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
        ("read:delay_exit=3600s", "read:delay_exit=1h"),  # longer than the default duration
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
        ("fs*:error=EIO:path=/data", "fsetxattr,fspick,fstat,fstatfs,fsync:error=EIO:path=/data"),  # fsopen names no file
        # in which processes
        ("read:error=EIO:process=nginx", SAME),
        ("read:error=EIO:process=nginx%3A worker process", SAME),
        ("read:error=EIO:process= -c ", SAME),  # spaces are significant
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
def test_a_text_has_one_canonical_form(text: str, canonical: str | None) -> None:
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
def test_a_text_selects_the_calls_of_its_architecture(text: str, canonical: str) -> None:
    if canonical == "no system call":
        with pytest.raises(InvalidArgument, match="%lstat"):
            read_fault(text, ARM)
    else:
        assert read_fault(text, ARM).text == canonical
