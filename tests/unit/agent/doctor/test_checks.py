"""Findings from the files of a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaosorca.agent.doctor import checks
from chaosorca.agent.linux.cgroups import Cgroup
from chaosorca.model.capabilities import CAPABILITIES
from chaosorca.model.finding import Finding

ALL = sum(1 << bit for bit in CAPABILITIES.values())


def mark_and_line(finding: Finding) -> tuple[str, str]:
    """Return the mark of a finding, and its line, which says what to do about a `no`."""
    assert bool(finding.todo) or finding.mark != "no"
    return finding.mark, str(finding)


@pytest.mark.parametrize(
    ("finding", "mark", "text"),
    [
        (checks.kernel("6.18.44", "x86_64"), "ok", "Linux 6.18.44 on x86_64"),
        (checks.kernel("5.4.0-150-generic", "aarch64"), "ok", "Linux 5.4.0-150-generic on aarch64"),
        (checks.kernel("6.1.0", "riscv64"), "no", "use a host with x86-64 or arm64"),
        (checks.capabilities(f"Name:\tx\nCapPrm:\t0\nCapEff:\t{ALL:016x}\n"), "ok", "SYS_ADMIN"),
        (checks.capabilities("CapEff:\t000001ffffffffff\n"), "ok", "SYS_PTRACE"),
        (checks.capabilities(f"CapEff:\t{ALL & ~(1 << 19):016x}\n"), "no", "lacks SYS_PTRACE: let the engine"),
        (
            checks.capabilities("CapEff:\t00000000a80425fb\n"),
            "no",
            "lacks DAC_READ_SEARCH, NET_ADMIN, SYS_PTRACE, SYS_ADMIN, SYS_NICE",
        ),
        (checks.capabilities(""), "no", "lacks DAC_READ_SEARCH"),
        (checks.user_namespace("         0          0 4294967295\n"), "ok", "the host's"),
        (checks.user_namespace("         0     100000      65536\n"), "no", "--userns=host"),
        (checks.user_namespace(""), "no", "runs as root"),
        (checks.pid_namespace("kthreadd\n"), "ok", "initial"),
        (checks.pid_namespace("sh\n"), "no", 'injector="ptrace"'),
        (checks.pid_namespace(None), "no", 'injector="ptrace"'),
        (checks.apparmor("", ""), "ok", "is not on"),
        (checks.apparmor("N\n", "\0"), "ok", "is not on"),
        (checks.apparmor("Y\n", "unconfined\n"), "ok", "does not confine"),
        (checks.apparmor("Y\n", "docker-default (enforce)\n"), "no", "docker-default (enforce): let the engine"),
        (checks.apparmor("Y\n", ""), "no", "confines the agent with a profile"),
        (checks.selinux("lockdown,capability,yama", ""), "ok", "is not on"),
        (checks.selinux("", "unconfined\n"), "ok", "is not on"),
        (checks.selinux("lockdown,capability,yama,selinux,bpf", "system_u:system_r:spc_t:s0\0"), "ok", "does not confine"),
        (checks.selinux("selinux", "system_u:system_r:container_t:s0:c1,c2\0"), "no", "container_t:s0:c1,c2: let the engine"),
        (checks.selinux("selinux", ""), "no", "label=disable"),
        (checks.selinux(None, "unconfined\n"), "ok", "is not on"),
        (checks.selinux(None, "system_u:system_r:container_t:s0:c1,c2\0"), "no", "label=disable"),
        (checks.yama(None), "ok", "no Yama"),
        (checks.yama("0\n"), "ok", "is 0"),
        (checks.yama("1\n"), "ok", "is 1"),
        (checks.yama("2\n"), "ok", "is 2"),
        (checks.yama("3\n"), "no", "reboot"),
        (checks.lockdown(None), "note", "cannot read it"),
        (checks.lockdown(""), "ok", "has none"),
        (checks.lockdown("[none] integrity confidentiality"), "ok", "is none"),
        (checks.lockdown("none [integrity] confidentiality\n"), "ok", "is integrity"),
        (checks.lockdown("none integrity [confidentiality]"), "no", "lockdown=integrity"),
        (checks.type_information({"IOAC_READ": 8}), "ok", "has type information"),
        (checks.type_information({}), "no", "CONFIG_DEBUG_INFO_BTF"),
        (checks.control_groups(None), "no", "--cgroupns=host"),
        (checks.control_groups(Cgroup({"pids": Path("/p")}, None)), "no", "version 1 only"),
    ],
)
def test_a_finding_says_what_to_do_about_it(finding: Finding, mark: str, text: str) -> None:
    found, line = mark_and_line(finding)
    assert found == mark
    assert text in line


@pytest.mark.parametrize(("v1", "text"), [(True, "version 1 with the unified hierarchy beside it (hybrid)"), (False, "version 2")])
def test_unified_control_groups_tell_containers_apart(v1: bool, text: str, tmp_path: Path) -> None:
    finding = checks.control_groups(Cgroup({"pids": tmp_path} if v1 else {}, tmp_path))
    assert (finding.mark, finding.found) == ("ok", text)


def test_a_file_that_cannot_be_read_has_no_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff1\n")
    assert (checks.read_text(tmp_path / "a"), checks.read_text(tmp_path / "b")) == ("\ufffd1\n", None)
