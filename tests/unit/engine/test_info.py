"""Findings from `docker info` and `docker version`. Each example has the relevant fields of one kind of engine."""

from __future__ import annotations

from typing import Any

import pytest

from chaosorca.engine.info import engine_findings
from chaosorca.model.finding import Finding

V20 = {"ApiVersion": "1.41", "Version": "20.10.24", "Components": [{"Name": "Engine"}, {"Name": "containerd"}]}
V28 = {"ApiVersion": "1.51", "Version": "28.4.0", "Components": [{"Name": "Engine"}]}
DEBIAN = {
    "ServerVersion": "20.10.24+dfsg1",
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
    "OSType": "linux",
    "Architecture": "x86_64",
    "KernelVersion": "6.1.0-25-amd64",
    "CgroupDriver": "cgroupfs",
    "CgroupVersion": "1",
    "SecurityOptions": ["name=seccomp,profile=default"],
}
UBUNTU = {
    **DEBIAN,
    "ServerVersion": "28.4.0",
    "OperatingSystem": "Ubuntu 24.04.3 LTS",
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"],
}
DESKTOP = {
    **UBUNTU,
    "OperatingSystem": "Docker Desktop",
    "CgroupDriver": "cgroupfs",
    "SecurityOptions": ["name=seccomp,profile=unconfined", "name=cgroupns"],
}
ROOTLESS = {**UBUNTU, "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]}
REMAPPED = {**DEBIAN, "SecurityOptions": ["name=seccomp,profile=default", "name=userns"]}
FEDORA = {
    **UBUNTU,
    "OperatingSystem": "Fedora Linux 42",
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=selinux", "name=cgroupns"],
}
PODMAN = {**FEDORA, "ServerVersion": "5.5.2", "SecurityOptions": ["name=seccomp,profile=default", "name=selinux"]}
WINDOWS = {"ServerVersion": "28.4.0", "OperatingSystem": "Windows Server 2022", "OSType": "windows", "SecurityOptions": []}

NAMES = ["Docker", "user namespace", "AppArmor", "SELinux", "control groups"]


@pytest.mark.parametrize(
    ("info", "version", "marks", "says"),
    [
        (
            DEBIAN,
            V20,
            "ok ok ok ok ok",
            ["Docker Engine 20.10.24+dfsg1 with API 1.41 on Debian GNU/Linux 12", "version 1, managed by cgroupfs"],
        ),
        (
            UBUNTU,
            V28,
            "ok ok ok ok ok",
            ["AppArmor             is on; the agent runs with apparmor=unconfined", "version 2, managed by systemd"],
        ),
        (DESKTOP, V28, "ok ok ok ok ok", ["on Docker Desktop, at here", "does not remap users"]),
        (ROOTLESS, V28, "ok no ok ok ok", ["runs without root", "use an engine that runs as root"]),
        (REMAPPED, V20, "ok ok ok ok ok", ["`--userns=host`"]),
        (FEDORA, V28, "ok ok ok ok ok", ["SELinux              is on; the agent runs with label=disable"]),
        (PODMAN, {**V20, "Components": [{"Name": "Podman Engine"}]}, "note ok ok ok ok", ["Podman Engine 5.5.2", "is not tested"]),
        (WINDOWS, V28, "no ok ok ok ok", ["switch the engine to Linux containers"]),
        (DEBIAN, {"ApiVersion": "1.40"}, "no ok ok ok ok", ["use Docker 20.10 or newer"]),
        (DEBIAN, {"ApiVersion": "1.9"}, "no ok ok ok ok", ["use Docker 20.10 or newer"]),
        ({}, {}, "no ok ok ok ok", ["(no version) with API 0 on an unknown system"]),
        ({**DEBIAN, "SecurityOptions": None}, V20, "ok ok ok ok ok", ["AppArmor             is not on"]),
        # The format of engines before 18.03.
        ({**DEBIAN, "SecurityOptions": ["seccomp", "apparmor"]}, V20, "ok ok ok ok ok", ["AppArmor             is on"]),
    ],
    ids=[
        "debian",
        "ubuntu",
        "desktop",
        "rootless",
        "remapped",
        "fedora",
        "podman",
        "windows",
        "old",
        "older",
        "nothing",
        "none",
        "bare",
    ],
)
def test_findings(info: dict[str, Any], version: dict[str, Any], marks: str, says: list[str]) -> None:
    findings = engine_findings(info, version, "here")
    assert [finding.name for finding in findings] == NAMES
    assert [finding.mark for finding in findings] == marks.split()
    lines = "\n".join(map(str, findings))
    assert [text for text in says if text not in lines] == []
    assert all(finding.todo for finding in findings if finding.mark == "no")


def test_the_address_is_in_the_finding() -> None:
    first: Finding = engine_findings(DEBIAN, V20, "/var/run/docker.sock")[0]
    assert first.found.endswith(", at /var/run/docker.sock")
