"""Boots Debian's kernels in QEMU, to see which eBPF programs their verifiers load.

QEMU emulates the processor, so this works without KVM. A kernel boots without a disk, with an initramfs that holds busybox, bpftool
and the programs. A boot takes 10 to 30 seconds of processor time.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
BOOT_WITHIN = 580.0
"""The longest time for a boot in seconds. It is enough on a loaded machine."""


@dataclass(frozen=True)
class Series:
    """A series of kernels. `versions` is a regular expression for its versions. `suite` is the Debian suite with these versions."""

    suite: str
    versions: str


SERIES = {
    "6.1": Series("bookworm", r"6\.1\."),
    "6.12": Series("trixie", r"6\.12\."),
    "6.18": Series("trixie-backports", r"6\.18\."),
    "7": Series("trixie-backports", r"7\."),
}

INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b mount -t bpf bpf /sys/fs/bpf
export LD_LIBRARY_PATH=/lib
for object in /programs/*.o; do
    name=${object##*/}
    name=${name%.o}
    if bpftool prog loadall $object /sys/fs/bpf/$name >/log 2>&1; then
        echo "LAB ok $name"
    else
        echo "LAB no $name $($b grep -v -E '^(libbpf|Error|Warning|-- |If it|processed)' /log | $b tail -2 | $b tr '\\n' ' ')"
    fi
    $b rm -rf /sys/fs/bpf/$name
done
echo "LAB end"
$b poweroff -f
"""


def newest(packages: Iterable[str], series: Series) -> str:
    """Return the package with the newest cloud kernel of a series. From 7.x on, `linux-binary-*` packages hold the kernel image.

    Raises:
        LookupError: no package has a kernel of the series.
    """
    found = {}
    for package in packages:
        match = re.fullmatch(rf"linux-(image|binary)-({series.versions}\S*)-cloud-amd64", package)
        if match:
            numbers = tuple(int(number) for number in re.findall(r"\d+", match[2].split("+")[0]))
            found[numbers, match[1] == "binary"] = package
    if not found:
        raise LookupError(f"no package has a kernel {series.versions} in {series.suite}")
    return found[max(found)]


def results(console: str) -> dict[str, str]:
    """Return why the kernel refused each program. The reason is empty for a program that was loaded.

    Raises:
        ValueError: the guest did not run to its end.
    """
    lines = [line.strip() for line in console.replace("\r", "").splitlines() if line.startswith("LAB ")]
    if "LAB end" not in lines:
        raise ValueError(f"the kernel did not boot to its end: {console[-500:]}")
    found = {}
    for line in lines:
        match = re.fullmatch(r"LAB (ok|no) (\S+)(.*)", line)
        if match:
            found[match[2]] = "" if match[1] == "ok" else match[3].strip() or "it was refused without a reason"
    return found


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command, and return its standard output."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


class Mirror:
    """Debian's kernels, from the mirror that this machine uses. Their lists and packages are kept apart from the machine's own."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        uri = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian").split()[0]
        for folder in ("lists/partial", "archives/partial", "packages"):
            (cache / folder).mkdir(parents=True, exist_ok=True)
        sources = cache / "sources.list"
        suites = sorted({series.suite for series in SERIES.values()})
        sources.write_text("".join(f"deb [signed-by={KEYRING}] {uri} {suite} main\n" for suite in suites))
        self._options = [
            f"-oDir::Etc::sourcelist={sources}",
            "-oDir::Etc::sourceparts=/dev/null",
            f"-oDir::State::lists={cache / 'lists'}",
            f"-oDir::Cache={cache}",
            "-oAPT::Architectures=amd64",
        ]
        run("apt-get", *self._options, "-qq", "update")
        names = run("apt-cache", *self._options, "search", "--names-only", "^linux-(image|binary)-.*-cloud-amd64$")
        self._names = [line.split()[0] for line in names.splitlines()]

    def kernel(self, name: str) -> Path:
        """Return the image of the newest kernel of a series. It is downloaded if it is not in the cache."""
        package = newest(self._names, SERIES[name])
        folder = self._cache / "packages" / package
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=self._cache) as made:
                run("apt-get", *self._options, "-qq", "download", package, cwd=Path(made))
                (archive,) = Path(made).glob("*.deb")
                run("dpkg-deb", "-x", archive, Path(made) / "content")
                (image,) = (path for path in (Path(made) / "content").rglob("vmlinuz*") if path.is_file())
                folder.mkdir()
                shutil.move(image, folder / "vmlinuz")
        return folder / "vmlinuz"


def make_initramfs(programs: Path, initramfs: Path) -> None:
    """Write an initramfs that loads each `*.o` of a folder, and reports the results on the console."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        for folder in ("bin", "lib", "lib64", "programs"):
            (root / folder).mkdir()
        shutil.copy("/bin/busybox", root / "bin")
        shutil.copy("/usr/sbin/bpftool", root / "bin")
        for library in re.findall(r"=> (/\S+)", run("ldd", "/usr/sbin/bpftool")):
            shutil.copy(library, root / "lib")
        shutil.copy("/lib64/ld-linux-x86-64.so.2", root / "lib64")
        for program in programs.glob("*.o"):
            shutil.copy(program, root / "programs")
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
        packed = subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), capture_output=True, cwd=root, check=True
        )
        initramfs.write_bytes(gzip.compress(packed.stdout, 1))


def boot(kernel: Path, initramfs: Path) -> Mapping[str, str]:
    """Boot a kernel with an initramfs of `make_initramfs`, and return the `results` of the programs.

    Raises:
        ValueError: the guest did not run to its end in time.
    """
    command = [
        *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "512", "-nodefaults"),
        *("-no-reboot", "-display", "none", "-serial", "stdio", "-monitor", "none"),
        *("-kernel", str(kernel), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet loglevel=3 mitigations=off no_timer_check panic=-1 random.trust_cpu=on"),
    ]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=BOOT_WITHIN, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"the kernel did not end within {BOOT_WITHIN:g} s: {(error.stdout or b'')[-500:]!r}") from None
    return results((done.stdout + done.stderr).decode(errors="replace"))
