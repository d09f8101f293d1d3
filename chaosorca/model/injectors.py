"""Which injector carries out a fault."""

from __future__ import annotations

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import Fault
from chaosorca.model.nearest import nearest
from chaosorca.model.syscalls import syscall_numbers

INJECTORS = ("auto", "uprobe", "ptrace", "strace")

_NEWEST_TO_STRACE = 450
_NEVER_KNOWN_TO_STRACE = {"uretprobe"}
_MADE_WITH_SIGNALS_BLOCKED = {"fork", "vfork", "clone", "clone3"}


def check_injector(injector: object, fault: Fault, arch: str) -> str:
    """Return the injector that is to carry out a fault. For `auto` the agent takes the cheapest that can, there and then.

    Raises:
        InvalidArgument: there is no such injector, or it cannot do this fault.
    """
    if injector not in INJECTORS:
        raise InvalidArgument(
            f"injector {injector!r} does not exist{nearest(str(injector), INJECTORS)}: there are {', '.join(INJECTORS)}"
        )
    cannot = {"strace": strace_cannot, "uprobe": uprobe_cannot}.get(str(injector))
    reason = cannot(fault, arch) if cannot else None
    if reason:
        raise InvalidArgument(f"injector {injector!r} cannot do {reason}: use 'ptrace', or leave the injector to 'auto'")
    return str(injector)


def expected_injector(injector: str, fault: Fault, arch: str) -> str:
    """Return what the agent is likely to take for an injector that `check_injector` has returned; it has the last word."""
    if injector != "auto":
        return injector
    return "ptrace" if uprobe_cannot(fault, arch) else "uprobe"


def uprobe_cannot(fault: Fault, arch: str) -> str | None:
    """Return what uprobes cannot do of a fault, None if they can do all of it."""
    if arch != "x86_64":
        return f"a fault on {arch}"
    deaf = [name for name in fault.syscalls if name in _MADE_WITH_SIGNALS_BLOCKED]
    return f"a fault on {deaf[0]}, which C libraries make with all signals blocked" if deaf else None


def strace_cannot(fault: Fault, arch: str) -> str | None:
    """Return what strace (6.1) cannot do of a fault, None if it can do all of it."""
    reasons = {
        "a probability": fault.probability < 1,
        "a budget (max_faults)": fault.max_faults > 0,
        "a path": fault.path is not None,
        "a process": fault.process is not None,
        "a signal with delay_enter": bool(fault.signal and fault.delay_enter),  # it forgets the signal of a call that it has held
        "a range of calls that ends at 65535": "..65535" in (fault.when or ""),  # its own mark of one without an end
    }
    numbers = syscall_numbers(arch)
    newer = [name for name in fault.syscalls if numbers[name] > _NEWEST_TO_STRACE or name in _NEVER_KNOWN_TO_STRACE]
    return next(
        (what for what, is_so in reasons.items() if is_so), f"system call {newer[0]!r}, which it is too old for" if newer else None
    )
