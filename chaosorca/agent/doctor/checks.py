"""What the files of this host and kernel say of what can be done here; each reader takes text, or the root of a file system."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.model.contract import CAPABILITIES
from chaosorca.model.finding import Finding, no, note, ok

_ALL_USERS = "0 0 4294967295"
_UNCONFINED_TYPES = {"spc_t", "unconfined_t", "container_runtime_t"}


@dataclass(frozen=True)
class Security:
    """The files of securityfs: the security modules that are on, and the kernel's lockdown.

    Each is empty where there is none, and None where that cannot be read.
    """

    modules: str | None = None
    lockdown: str | None = None


def read_security() -> Security:
    """Read securityfs, which is mounted for that in a mount namespace that ends with the reader.

    Raises:
        OSError: it cannot be mounted.
    """
    script = "mount -t securityfs none /mnt && for file in lsm lockdown; do cat /mnt/$file 2>/dev/null; echo; echo --; done"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=5, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    modules, lockdown, *_ = [part.strip() for part in done.stdout.split("--\n")] + ["", ""]
    return Security(modules, lockdown)


def kernel(release: str, machine: str) -> Finding:
    """The kernel's version and the machine."""
    what = f"Linux {release} on {machine}"
    if machine not in ("x86_64", "aarch64"):
        return no("kernel", what, "use a host with x86-64 or arm64")
    return ok("kernel", what)


def capabilities(status: str) -> Finding:
    """The capabilities of a process, from its /proc/PID/status."""
    field = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    mask = int(field[1], 16) if field else 0
    missing = [name for name, bit in CAPABILITIES.items() if not mask >> bit & 1]
    if missing:
        return no(
            "capabilities", f"the agent lacks {', '.join(missing)}", "have the engine, and what checks its requests, grant them"
        )
    return ok("capabilities", f"the agent has {', '.join(CAPABILITIES)}")


def user_namespace(uid_map: str) -> Finding:
    """Whether root is root, from /proc/PID/uid_map."""
    if " ".join(uid_map.split()) == _ALL_USERS:
        return ok("user namespace", "the agent is in the host's")
    return no(
        "user namespace",
        "the agent is in one of its own, where no eBPF program can be loaded",
        "use an engine that runs as root, and allows `--userns=host`",
    )


def pid_namespace(second: str | None) -> Finding:
    """Whether the kernel numbers processes as the agent does, from the name of process 2, which is the kernel's own there."""
    if (second or "").strip() == "kthreadd":
        return ok("pid namespace", "the agent is in the kernel's first one")
    return no(
        "pid namespace",
        "the agent is not in the kernel's first one, so that eBPF programs have other numbers for threads than it has",
        'give faults injector="ptrace", or use an engine that does not run in a container',
    )


def apparmor(enabled: str, profile: str) -> Finding:
    """Whether AppArmor confines the agent, from its module's parameter `enabled`, and the attribute `current` of its process."""
    if not enabled.strip().upper().startswith("Y"):
        return ok("AppArmor", "is not on")
    own = profile.strip("\0\n ")
    if own == "unconfined":
        return ok("AppArmor", "does not confine the agent (docker-default can deny ptrace and mounts)")
    return no("AppArmor", f"confines the agent by {own or 'a profile'}", "let the engine start it with apparmor=unconfined")


def selinux(modules: str | None, context: str) -> Finding:
    """Whether SELinux confines the agent, from the list of modules, and the attribute `current` of its process."""
    own = context.strip("\0\n ")
    if "selinux" not in modules.split(",") if modules is not None else own.count(":") < 3:
        return ok("SELinux", "is not on")
    if (own.split(":") + [""] * 3)[2] in _UNCONFINED_TYPES:
        return ok("SELinux", f"does not confine the agent ({own})")
    return no("SELinux", f"confines the agent as {own or 'nobody knows what'}", "let the engine start it with label=disable")


def yama(scope: str | None) -> Finding:
    """Who may trace, from /proc/sys/kernel/yama/ptrace_scope; None where there is no such file."""
    name = "yama.ptrace_scope"
    if scope is None:
        return ok(name, "this kernel has no Yama")
    if scope.strip() == "3":
        return no(name, "is 3: nobody may trace", "set kernel.yama.ptrace_scope to 2 or less in /etc/sysctl.d, and boot again")
    return ok(name, f"is {scope.strip()}, which allows the agent's CAP_SYS_PTRACE to trace")


def lockdown(text: str | None) -> Finding:
    """What root may not do, from securityfs's `lockdown`: `none [integrity] confidentiality`."""
    if text is None:
        return note("lockdown", "the agent cannot look it up")
    now = re.search(r"\[(\w+)\]", text)
    if now is None:
        return ok("lockdown", "this kernel has none")
    if now[1] == "confidentiality":
        return no(
            "lockdown", "is confidentiality: eBPF programs may not read the kernel's memory", "boot with lockdown=integrity or less"
        )
    return ok("lockdown", f"is {now[1]}, which takes nothing away that is needed")


def type_information(offsets: dict[str, int]) -> Finding:
    """Whether the kernel tells where its fields are, from the offsets that were found."""
    if offsets:
        return ok("BTF", "the kernel tells where its fields are")
    return no(
        "BTF",
        "the kernel does not tell where its fields are: `auto` takes ptrace, and what ended processes read and wrote is lost",
        "use a kernel with CONFIG_DEBUG_INFO_BTF",
    )


def control_groups(own: Cgroup | None) -> Finding:
    """Which control groups there are, and whether a container's system calls can be told apart by them."""
    name = "control groups"
    if own is None:
        return no(
            name, "the agent found none of its own", "let the engine start it with `--cgroupns=host` and /sys/fs/cgroup mounted"
        )
    version = "version 2" if not own.v1 else "version 1"
    if not own.ids():
        return no(
            name,
            f"{version} alone, by which containers' system calls cannot be told apart",
            "mount the unified hierarchy beside it (`mount -t cgroup2 none /sys/fs/cgroup/unified`), or boot with version 2",
        )
    return ok(name, version if not own.v1 else "version 1, and the unified hierarchy beside it (hybrid)")


def read_text(path: Path) -> str | None:
    """The text of a file, None if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
