#!/usr/bin/env python3
"""Measure how fast a fault begins and ends, and how fast the kill switch is, in many rounds on a real nginx.

    .venv/bin/python benchmarks/timing.py [ROUNDS]

Each round runs with the agent already started. It measures from `start_fault` to the first 403, from `stop_fault` to the last 403,
and, after another `start_fault`, from `docker rm -f chaosorca-agent` to the first 200. Requests go to 127.0.0.1, one at a time. The
benchmark needs what `scripts/setup` installs, and prints medians and extremes.
"""

import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import docker

from chaosorca.actions.faults import start_fault, stop_all_faults, stop_fault
from chaosorca.actions.monitoring import start_monitoring
from chaosorca.model.contract import AGENT
from chaosorca.probes.faults import faults_injected

ROOT = Path(__file__).parents[1]
IMAGE, NAME = "chaosorca-bench-nginx", "chaosorca-bench-web"
LONGEST = 30.0


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    client = docker.from_env()
    client.images.build(path=str(ROOT / "experiments" / "nginx"), tag=IMAGE, rm=True)
    web = client.containers.run(IMAGE, name=NAME, detach=True, ports={"80/tcp": ("127.0.0.1", None)})
    try:
        web.reload()
        url = f"http://127.0.0.1:{web.attrs['NetworkSettings']['Ports']['80/tcp'][0]['HostPort']}/"
        _until(lambda: _status(url) == 200)
        begins, stops, ends = [], [], []
        for _ in range(rounds):
            start_monitoring(container=NAME)  # the agent runs
            began = time.monotonic()
            start_fault(container=NAME, syscall="openat", error="EACCES")
            returned = time.monotonic() - began
            _until(lambda: _status(url) == 403)
            begins.append((time.monotonic() - began, returned))
            if not faults_injected(NAME):
                raise AssertionError("there was a 403 without an injected call")
            stops.append(_until_the_last(url, 403, lambda: stop_fault(container=NAME)))
            start_fault(container=NAME, syscall="openat", error="EACCES")
            _until(lambda: _status(url) == 403)
            began = time.monotonic()
            subprocess.run(["docker", "rm", "--force", AGENT], check=True, capture_output=True)
            _until(lambda: _status(url) == 200)
            ends.append(time.monotonic() - began)
        _print("start_fault returns", [returned for _, returned in begins])
        _print("start_fault until the first injected call's answer", [took for took, _ in begins])
        _print("stop_fault until the last injected call's answer", stops)
        _print("docker rm -f of the agent until the first 200", ends)
    finally:
        web.remove(force=True, v=True)
        stop_all_faults()
    return 0


def _until_the_last(url: str, status: int, end: Callable[[], object]) -> float:
    """Return the seconds from the beginning of an action to the last answer with a status; requests are made all the time."""
    answers: list[tuple[float, int]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answers.append((_status(url), time.monotonic())[::-1])

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.1)
    began = time.monotonic()
    end()
    time.sleep(0.3)
    over.set()
    asking.join()
    if answers[-1][1] == status:
        raise AssertionError(f"answers of {status} continue after the end")
    return max(0.0, max((at for at, answer in answers if answer == status), default=began) - began)


def _print(what: str, seconds: list[float]) -> None:
    low, high = min(seconds), max(seconds)
    print(f"{what:<52} median {statistics.median(seconds):.3f} s  ({low:.3f} to {high:.3f}, {len(seconds)} rounds)")


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the condition did not hold within {LONGEST} s")
        time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main())
