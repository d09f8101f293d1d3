"""Control groups of version 1, version 2 and hybrid, on trees of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chaosorca.agent.linux import cgroups
from chaosorca.agent.linux.cgroups import Cgroup, cgroup_of
from chaosorca.agent.targets.target import find_target
from chaosorca.model.errors import AgentError

ID = "0123456789abcdef" * 4

# The mounts in the agent's container: its own, and the host's below HOST.
OWN_V1 = """\
700 690 0:60 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755
701 700 0:29 /docker/agent /sys/fs/cgroup/cpu,cpuacct ro,nosuid,nodev,noexec,relatime master:11 - cgroup cgroup rw,cpu,cpuacct
702 700 0:30 /docker/agent /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:12 - cgroup cgroup rw,memory
"""
OWN_V2 = "710 690 0:25 /docker/agent /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n"
OTHERS = """\
690 600 0:50 / / rw,relatime master:300 - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
691 690 0:51 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
692 690 0:52 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
"""
HOST_V1 = """\
800 690 0:26 / HOST ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
801 800 0:29 / HOST/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,cpu,cpuacct
802 800 0:30 / HOST/memory rw,nosuid,nodev,noexec,relatime shared:12 - cgroup cgroup rw,memory
803 800 0:31 / HOST/pids rw,nosuid,nodev,noexec,relatime shared:13 - cgroup cgroup rw,pids
804 800 0:32 / HOST/systemd rw,nosuid,nodev,noexec,relatime shared:14 - cgroup cgroup rw,xattr,name=systemd
805 800 0:33 / HOST/net_cls,net_prio rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,net_cls,net_prio
"""
HOST_UNIFIED = "810 800 0:34 / HOST/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate\n"
HOST_V2 = "820 690 0:25 / HOST ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"

V1_OF_PROCESS = f"""\
12:net_cls,net_prio:/docker/{ID}
9:pids:/docker/{ID}
7:memory:/docker/{ID}
3:cpu,cpuacct:/docker/{ID}
1:name=systemd:/docker/{ID}
"""


@pytest.fixture
def find_group(tmp_path: Path) -> Any:
    """Return a function that finds the control group of process 10, with paths relative to the host's mount."""
    host = tmp_path / "host" / "cgroup"

    def find(mounts: str, cgroup: str) -> tuple[dict[str, str], str | None]:
        proc = tmp_path / "proc"
        for name in ("self", "10"):
            (proc / name).mkdir(parents=True, exist_ok=True)
        (proc / "self" / "mountinfo").write_text(mounts.replace("HOST", str(host)))
        (proc / "10" / "cgroup").write_text(cgroup)
        found = cgroup_of(proc, 10, host)
        v1 = {controller: str(path.relative_to(host)) for controller, path in found.v1.items()}
        return v1, str(found.unified.relative_to(host)) if found.unified else None

    return find


V1_FOUND = {
    "pids": f"pids/docker/{ID}",
    "memory": f"memory/docker/{ID}",
    "cpu": f"cpu,cpuacct/docker/{ID}",
    "cpuacct": f"cpu,cpuacct/docker/{ID}",
}


@pytest.mark.parametrize(
    ("mounts", "cgroup", "v1", "unified"),
    [
        (OTHERS + OWN_V1 + HOST_V1, V1_OF_PROCESS, V1_FOUND, None),
        (OTHERS + OWN_V1 + HOST_V1, V1_OF_PROCESS + "0::/\n", V1_FOUND, None),
        (OTHERS + OWN_V1 + HOST_V1 + HOST_UNIFIED, V1_OF_PROCESS + f"0::/docker/{ID}\n", V1_FOUND, f"unified/docker/{ID}"),
        (OTHERS + OWN_V1 + HOST_V1 + HOST_UNIFIED, V1_OF_PROCESS + "0::/\n", V1_FOUND, None),
        (OTHERS + OWN_V2 + HOST_V2, f"0::/docker/{ID}\n", {}, f"docker/{ID}"),
        (OTHERS + HOST_V2 + OWN_V2, f"0::/docker/{ID}\n", {}, f"docker/{ID}"),
        (OTHERS + OWN_V2 + HOST_V2, f"0::/system.slice/docker-{ID}.scope\n", {}, f"system.slice/docker-{ID}.scope"),
        (OTHERS + OWN_V2 + HOST_V2, f"0::/a/b:c/{ID}\n", {}, f"a/b:c/{ID}"),
    ],
    ids=["v1", "v1-root-unified", "hybrid", "hybrid-root-unified", "v2", "v2-own-last", "v2-systemd", "v2-colon"],
)
def test_the_control_group_is_found_in_the_hosts_mounts(
    find_group: Any, mounts: str, cgroup: str, v1: dict[str, str], unified: str | None
) -> None:
    assert find_group(mounts, cgroup) == (v1, unified)


@pytest.mark.parametrize(
    ("mounts", "cgroup"),
    [
        (HOST_V2, "0::/\n"),
        (HOST_V1 + HOST_UNIFIED, "7:memory:/\n3:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n"),
        (HOST_V1, f"12:net_cls,net_prio:/docker/{ID}\n1:name=systemd:/docker/{ID}\n"),
        (OWN_V2, f"0::/docker/{ID}\n"),
        (OTHERS + OWN_V1, V1_OF_PROCESS),
        (HOST_V2, ""),
    ],
    ids=["v2-root", "hybrid-root", "no-controller-of-use", "only-own-v2", "only-own-v1", "none"],
)
def test_a_process_in_no_control_group_of_its_own_is_an_error(find_group: Any, mounts: str, cgroup: str) -> None:
    with pytest.raises(ValueError, match="process 10 is in no control group of its own"):
        find_group(mounts, cgroup)


def test_a_process_that_has_ended_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(HOST_V2)
    with pytest.raises(FileNotFoundError):
        cgroup_of(tmp_path, 10, Path("/host/cgroup"))


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write files below a directory."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_version_2_figures(tmp_path: Path) -> None:
    stat = "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnr_periods 0\n"
    group = Cgroup({}, tree(tmp_path / "g", {"cpu.stat": stat, "memory.current": "4096\n"}))
    assert (group.cpu_seconds(), group.memory_bytes(), group.exists()) == (2.5, 4096, True)


def test_version_1_figures(tmp_path: Path) -> None:
    cpu = tree(tmp_path / "cpu", {"cpuacct.usage": "2500000000\n"})
    memory = tree(tmp_path / "memory", {"memory.usage_in_bytes": "4096\n"})
    group = Cgroup({"cpu": cpu, "cpuacct": cpu, "memory": memory}, None)
    assert (group.cpu_seconds(), group.memory_bytes(), group.exists(), group.ids()) == (2.5, 4096, True, [])


def test_hybrid_figures_come_from_the_controllers_of_version_1(tmp_path: Path) -> None:
    unified = tree(tmp_path / "unified", {"cgroup.procs": "5\n", "cpu.stat": "nr_periods 0\n"})
    cpu = tree(tmp_path / "cpu", {"cpuacct.usage": "1000000000\n", "cgroup.procs": "5\n"})
    memory = tree(tmp_path / "memory", {"memory.usage_in_bytes": "8192\n"})
    group = Cgroup({"cpuacct": cpu, "memory": memory}, unified)
    assert (group.cpu_seconds(), group.memory_bytes(), group.pids()) == (1.0, 8192, [5])
    assert group.ids() == [unified.stat().st_ino]


@pytest.mark.parametrize("files", [{"cpu.stat": "nr_periods 0\n"}, {"memory.current": "1\n"}], ids=["no usage", "no file"])
def test_missing_cpu_figures_are_an_error_of_reading(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(OSError, match=r"cpu\.stat"):
        Cgroup({}, tree(tmp_path / "g", files)).cpu_seconds()


@pytest.mark.parametrize("figure", ["cpu_seconds", "memory_bytes"])
def test_a_group_without_the_controller_is_an_error_of_reading(tmp_path: Path, figure: str) -> None:
    with pytest.raises(OSError, match="no unified control group"):
        getattr(Cgroup({"pids": tmp_path}, None), figure)()


@pytest.mark.parametrize(
    ("files", "pids"),
    [
        ({"cgroup.procs": ""}, []),
        ({"cgroup.procs": "30\n4\n"}, [4, 30]),
        ({"cgroup.procs": "4\n0\n4\n"}, [4]),  # 0: not of this pid namespace
        ({"cgroup.procs": "4\n", "init.scope/cgroup.procs": "5\n", "a/b/cgroup.procs": "7\n6\n"}, [4, 5, 6, 7]),
        ({"cgroup.procs": "4\n", "a/cgroup.type": "threaded\n"}, [4]),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_processes_are_those_in_the_group_and_below(tmp_path: Path, version: int, files: dict[str, str], pids: list[int]) -> None:
    root = tree(tmp_path / "g", files)
    assert (Cgroup({"pids": root}, None) if version == 1 else Cgroup({}, root)).pids() == pids


def test_ids_are_the_inodes_of_the_group_and_those_below(tmp_path: Path) -> None:
    root = tree(tmp_path / "g", {"cgroup.procs": "", "a/b/cgroup.procs": "", "c/cgroup.procs": ""})
    below = [root, root / "a", root / "a" / "b", root / "c"]
    assert sorted(Cgroup({}, root).ids()) == sorted(path.stat().st_ino for path in below)


@pytest.mark.parametrize("version", [1, 2])
def test_a_new_group_at_the_same_path_has_another_identity(tmp_path: Path, version: int) -> None:
    place = tmp_path / "g"
    group = Cgroup({"pids": place}, None) if version == 1 else Cgroup({}, place)
    place.mkdir()
    first = group.identity()
    assert group.identity() == first
    place.rename(tmp_path / "old")
    with pytest.raises(FileNotFoundError):
        group.identity()
    place.mkdir()
    assert group.identity() != first


def test_a_removed_group_is_empty(tmp_path: Path) -> None:
    for group in (Cgroup({}, tmp_path / "gone"), Cgroup({"pids": tmp_path / "gone"}, None)):
        assert (group.exists(), group.pids(), group.ids()) == (False, [], [])


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_group_that_is_removed_meanwhile_is_left_out(tmp_path: Path, gone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "g", {"a/cgroup.procs": "", "b/cgroup.procs": ""})
    found = [root, root / "a", root / "b"]
    expected = [path.stat().st_ino for path in found]
    del expected[gone]
    found[gone] = tmp_path / "gone"
    monkeypatch.setattr(cgroups, "_tree", lambda _: found)
    assert Cgroup({}, root).ids() == expected


RUNNING, EXITING, ZOMBIE = (f"10 (a) b) {state} 1 10 10 0 -1 {flags} 9\n" for state, flags in (("S", 256), ("R", 260), ("Z", 268)))


@pytest.mark.parametrize(
    ("cgroup", "stat", "message"),
    [
        (None, None, "container 'web' has ended: its process 10 is gone"),
        ("0::/\n", RUNNING, "container 'web' shares a control group with the host"),
        ("0::/\n", None, "container 'web' has ended: its process 10 is gone"),
        ("0::/\n", EXITING, "container 'web' has ended: its process 10 is gone"),
        ("0::/\n", ZOMBIE, "container 'web' has ended: its process 10 is gone"),
    ],
)
def test_a_missing_target_is_an_error_of_the_agent(tmp_path: Path, cgroup: str | None, stat: str | None, message: str) -> None:
    tree(tmp_path, {"self/mountinfo": HOST_V2.replace("HOST", "/host/cgroup")})
    tree(tmp_path, {f"10/{name}": text for name, text in (("cgroup", cgroup), ("stat", stat)) if text is not None})
    with pytest.raises(AgentError, match=message):
        find_target({"name": "web", "id": ID, "pid": 10}, tmp_path)


@pytest.mark.parametrize("stat", [RUNNING, ZOMBIE])  # a first thread may have ended before the others
def test_a_target_has_the_containers_name_and_control_group(tmp_path: Path, stat: str) -> None:
    tree(tmp_path, {"self/mountinfo": HOST_V2.replace("HOST", "/host/cgroup")})
    tree(tmp_path, {"10/cgroup": f"0::/docker/{ID}\n", "10/stat": stat})
    target = find_target({"name": "web", "id": ID, "pid": "10", "host_network": True}, tmp_path)
    assert (target.name, target.id, target.host_network) == ("web", ID, True)
    assert target.cgroup == Cgroup({}, Path(f"/host/cgroup/docker/{ID}"))
