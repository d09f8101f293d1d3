"""The injectors, and which of them can inject which faults."""

from __future__ import annotations

from chaosorca.model.errors import InvalidArgument
from chaosorca.model.fault import Fault
from chaosorca.model.nearest import nearest
from chaosorca.model.syscall_table import syscall_numbers

INJECTORS = ("auto", "uprobe", "ptrace", "strace")

_NEWEST_OF_STRACE = 450
_MISSING_IN_STRACE = {"uretprobe"}
_CALLED_WITH_SIGNALS_BLOCKED = {"fork", "vfork", "clone", "clone3"}


def check_injector(injector: object, fault: Fault, arch: str) -> str:
    """Check that an injector can inject a fault, and return the injector's name.

    For `auto`, the agent chooses the cheapest injector that can inject the fault.

    Raises:
        InvalidArgument: there is no such injector, or the injector cannot inject this fault.
    """
    if injector not in INJECTORS:
        raise InvalidArgument(
            f"injector {injector!r} does not exist{nearest(str(injector), INJECTORS)}: there are {', '.join(INJECTORS)}"
        )
    cannot = {"strace": strace_cannot, "uprobe": uprobe_cannot}.get(str(injector))
    reason = cannot(fault, arch) if cannot else None
    if reason:
        raise InvalidArgument(f"injector {injector!r} does not support {reason}: use 'ptrace' or 'auto'")
    return str(injector)


def expected_injector(injector: str, fault: Fault, arch: str) -> str:
    """Return the injector that the agent will probably use. The agent makes the final choice for `auto`."""
    if injector != "auto":
        return injector
    return "ptrace" if uprobe_cannot(fault, arch) else "uprobe"


def uprobe_cannot(fault: Fault, arch: str) -> str | None:
    """Return why uprobes cannot inject a fault; None if uprobes can inject it."""
    if arch != "x86_64":
        return f"a fault on {arch}"
    blocked = [name for name in fault.syscalls if name in _CALLED_WITH_SIGNALS_BLOCKED]
    return f"a fault on {blocked[0]}, which C libraries call with all signals blocked" if blocked else None


def strace_cannot(fault: Fault, arch: str) -> str | None:
    """Return why strace 6.1 cannot inject a fault; None if strace can inject it."""
    reasons = {
        "a probability": fault.probability < 1,
        "a budget (max_faults)": fault.max_faults > 0,
        "a path": fault.path is not None,
        "a process": fault.process is not None,
        "a signal with delay_enter": bool(fault.signal and fault.delay_enter),  # strace sends no signal to a delayed call
        "a range of calls that ends at 65535": "..65535" in (fault.when or ""),  # for strace, 65535 means "no end"
    }
    numbers = syscall_numbers(arch)
    newer = [name for name in fault.syscalls if numbers[name] > _NEWEST_OF_STRACE or name in _MISSING_IN_STRACE]
    return next(
        (what for what, is_so in reasons.items() if is_so),
        f"system call {newer[0]!r}, which strace 6.1 does not have" if newer else None,
    )
