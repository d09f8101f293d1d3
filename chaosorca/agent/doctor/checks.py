"""Checks of the files that show what this host supports. Most functions take the text of a file as an argument."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from chaosorca.agent import timeouts
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.model.capabilities import CAPABILITIES
from chaosorca.model.finding import Finding, no, note, ok

_ALL_USERS = "0 0 4294967295"
_UNCONFINED_TYPES = {"spc_t", "unconfined_t", "container_runtime_t"}


@dataclass(frozen=True)
class Security:
    """The content of securityfs. A field is empty if the kernel has no such file, and None if securityfs cannot be read.

    Attributes:
        modules: the enabled security modules.
        lockdown: the kernel's lockdown modes.
    """

    modules: str | None = None
    lockdown: str | None = None


def read_security() -> Security:
    """Read securityfs. A child process mounts it in a mount namespace of its own.

    Raises:
        OSError: securityfs cannot be mounted.
        subprocess.TimeoutExpired: reading takes too long.
    """
    script = "mount -t securityfs none /mnt && for file in lsm lockdown; do cat /mnt/$file 2>/dev/null; echo; echo --; done"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=timeouts.SECURITYFS_READ_WITHIN,
        check=False,
    )
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    modules, lockdown, *_ = [part.strip() for part in done.stdout.split("--\n")] + ["", ""]
    return Security(modules, lockdown)


def kernel(release: str, machine: str) -> Finding:
    """Check the machine, and report the kernel's version."""
    what = f"Linux {release} on {machine}"
    if machine not in ("x86_64", "aarch64"):
        return no("kernel", what, "use a host with x86-64 or arm64")
    return ok("kernel", what)


def capabilities(status: str) -> Finding:
    """Check the capabilities of a process, from its /proc/PID/status."""
    field = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    mask = int(field[1], 16) if field else 0
    missing = [name for name, bit in CAPABILITIES.items() if not mask >> bit & 1]
    if missing:
        return no(
            "capabilities", f"the agent lacks {', '.join(missing)}", "let the engine, and any authorization plugin, grant them"
        )
    return ok("capabilities", f"the agent has {', '.join(CAPABILITIES)}")


def user_namespace(uid_map: str) -> Finding:
    """Check whether a process is in the initial user namespace, from its /proc/PID/uid_map."""
    if " ".join(uid_map.split()) == _ALL_USERS:
        return ok("user namespace", "the agent is in the host's user namespace")
    return no(
        "user namespace",
        "the agent is in another than the host's, where no eBPF program can be loaded",
        "use an engine that runs as root and allows `--userns=host`",
    )


def pid_namespace(second: str | None) -> Finding:
    """Check whether the agent is in the initial pid namespace, where process 2 is named `kthreadd`."""
    if (second or "").strip() == "kthreadd":
        return ok("pid namespace", "the agent is in the initial pid namespace")
    return no(
        "pid namespace",
        "the agent is not in the initial one, so eBPF programs see other thread ids than the agent",
        'give faults injector="ptrace", or use an engine that does not run in a container',
    )


def apparmor(enabled: str, profile: str) -> Finding:
    """Check whether AppArmor confines the agent, from AppArmor's parameter `enabled` and the agent's /proc/PID/attr/current."""
    if not enabled.strip().upper().startswith("Y"):
        return ok("AppArmor", "is not on")
    own = profile.strip("\0\n ")
    if own == "unconfined":
        return ok("AppArmor", "does not confine the agent (docker-default can deny ptrace and mounts)")
    return no("AppArmor", f"confines the agent with {own or 'a profile'}", "let the engine start it with apparmor=unconfined")


def selinux(modules: str | None, context: str) -> Finding:
    """Check whether SELinux confines the agent, from the list of security modules and the agent's /proc/PID/attr/current."""
    own = context.strip("\0\n ")
    if "selinux" not in modules.split(",") if modules is not None else own.count(":") < 3:
        return ok("SELinux", "is not on")
    if (own.split(":") + [""] * 3)[2] in _UNCONFINED_TYPES:
        return ok("SELinux", f"does not confine the agent ({own})")
    return no("SELinux", f"confines the agent as {own or 'an unknown type'}", "let the engine start it with label=disable")


def yama(scope: str | None) -> Finding:
    """Check whether the agent may trace, from /proc/sys/kernel/yama/ptrace_scope. `scope` is None if there is no such file."""
    name = "yama.ptrace_scope"
    if scope is None:
        return ok(name, "this kernel has no Yama")
    if scope.strip() == "3":
        return no(name, "is 3, which forbids tracing", "set kernel.yama.ptrace_scope to 2 or less in /etc/sysctl.d, and reboot")
    return ok(name, f"is {scope.strip()}, which lets the agent trace by its CAP_SYS_PTRACE")


def lockdown(text: str | None) -> Finding:
    """Check the kernel's lockdown mode, from the text of `lockdown` in securityfs, such as `none [integrity] confidentiality`."""
    if text is None:
        return note("lockdown", "the agent cannot read it")
    now = re.search(r"\[(\w+)\]", text)
    if now is None:
        return ok("lockdown", "this kernel has none")
    if now[1] == "confidentiality":
        return no(
            "lockdown", "is confidentiality, so eBPF programs may not read kernel memory", "boot with lockdown=integrity or none"
        )
    return ok("lockdown", f"is {now[1]}, which allows everything that is needed")


def type_information(offsets: dict[str, int]) -> Finding:
    """Check whether the kernel has type information (BTF). Without BTF, `offsets` is empty."""
    if offsets:
        return ok("BTF", "the kernel has type information")
    return no(
        "BTF",
        "the kernel has no type information: `auto` chooses ptrace, and the I/O of ended processes is lost",
        "use a kernel with CONFIG_DEBUG_INFO_BTF",
    )


def control_groups(own: Cgroup | None) -> Finding:
    """Check whether control groups show which container made a system call. Report the version of the control groups."""
    name = "control groups"
    if own is None:
        return no(
            name, "the agent has none of its own", "let the engine start it with `--cgroupns=host` and /sys/fs/cgroup mounted"
        )
    version = "version 2" if not own.v1 else "version 1"
    if not own.ids():
        return no(
            name,
            f"{version} only, by which system calls of containers cannot be distinguished",
            "mount the unified hierarchy beside it (`mount -t cgroup2 none /sys/fs/cgroup/unified`), or boot with version 2",
        )
    return ok(name, version if not own.v1 else "version 1 with the unified hierarchy beside it (hybrid)")


def read_text(path: Path) -> str | None:
    """Return the text of a file, None if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
