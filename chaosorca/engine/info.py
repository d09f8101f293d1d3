"""Findings about the Docker Engine, based on the engine's description of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chaosorca.model.finding import Finding, no, note, ok

_OLDEST_API = (1, 41)


def engine_findings(info: Mapping[str, Any], version: Mapping[str, Any], where: str) -> list[Finding]:
    """Return the findings that follow from an engine's answers to `docker info` and `docker version`.

    Arguments:
        info: the answer to GET /info.
        version: the answer to GET /version.
        where: the address of the engine.
    """
    options = _security_options(info)
    return [_engine(info, version, where), _rootless(options), _apparmor(options), _selinux(options), _control_groups(info)]


def _engine(info: Mapping[str, Any], version: Mapping[str, Any], where: str) -> Finding:
    names = [str(part.get("Name", "")) for part in version.get("Components") or []]
    name = next((name for name in names if name.startswith("Podman")), "Docker Engine")
    system = str(info.get("OperatingSystem") or "an unknown system")
    api = str(version.get("ApiVersion") or "0")
    found = f"{name} {info.get('ServerVersion') or '(no version)'} with API {api} on {system}, at {where}"
    if _numbers(api) < _OLDEST_API:
        return no("Docker", found, "use Docker 20.10 or newer, which supports --cgroupns")
    if info.get("OSType", "linux") != "linux":
        return no("Docker", found, "switch the engine to Linux containers")
    if name != "Docker Engine":
        return note("Docker", f"{found}; chaosorca is not tested with {name}")
    return ok("Docker", found)


def _rootless(options: Mapping[str, str]) -> Finding:
    name = "user namespace"
    if "rootless" in options:
        return no(
            name,
            "the engine runs without root, so the agent would lack capabilities",
            "use an engine that runs as root (DOCKER_HOST)",
        )
    if "userns" in options:
        return ok(name, "the engine remaps the users of containers; the agent runs with `--userns=host`")
    return ok(name, "the engine runs as root and does not remap users")


def _apparmor(options: Mapping[str, str]) -> Finding:
    on = "is on; the agent runs with apparmor=unconfined" if "apparmor" in options else "is not on"
    return ok("AppArmor", on)


def _selinux(options: Mapping[str, str]) -> Finding:
    return ok("SELinux", "is on; the agent runs with label=disable" if "selinux" in options else "is not on")


def _control_groups(info: Mapping[str, Any]) -> Finding:
    driver = info.get("CgroupDriver") or "no driver"
    return ok("control groups", f"version {info.get('CgroupVersion') or '1'}, managed by {driver}")


def _security_options(info: Mapping[str, Any]) -> dict[str, str]:
    """Return the engine's security options by name. An example of an option is `name=seccomp,profile=default`."""
    found = {}
    for option in info.get("SecurityOptions") or []:
        parts = dict(part.partition("=")[::2] for part in str(option).split(","))
        found[parts.get("name", str(option))] = str(option)
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
