#!/usr/bin/env python3
"""Check that a fault leaves nothing behind: many rounds of an event at a random moment, on a real nginx under load.

    .venv/bin/python benchmarks/crash_matrix.py [--rounds N] [--seed S] [--only EVENT ...] [--injector NAME]

The table `EVENTS` in tests/support/crashes/events.py lists the events and what must be true after each. Each event is tried with
each effect of a fault. Events of the Docker daemon happen to a second one, which is started for them. The benchmark needs root and
what `scripts/setup` installs; a round takes about four seconds. Exit code 1: something was left behind, or a fault did not end or
stay as expected.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import docker
from logzero import logger

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that this file also runs as a script

from chaosorca.engine.images import ensure_image
from tests.support.crashes.events import EVENTS
from tests.support.crashes.model import Engine, Event, FirstEngine, Outcome
from tests.support.crashes.round import EFFECTS, INJECTORS, Round
from tests.support.crashes.target import Target
from tests.support.project import ROOT
from tests.support.second_engine import second_engine

IMAGE = "chaosorca-bench-nginx"


def main() -> int:
    arguments = _arguments()
    if os.geteuid():
        print("crash_matrix: run it as root, which may stop, kill and read processes of containers", file=sys.stderr)
        return 2
    for how in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs with SIGINT ignored
        signal.signal(how, signal.default_int_handler)
    logger.setLevel(logging.ERROR)
    print(f"seed {arguments.seed}, injector {arguments.injector}", flush=True)
    outcomes: list[Outcome] = []
    try:
        with contextlib.closing(rounds(arguments.rounds, arguments.only, arguments.seed, arguments.injector)) as played:
            for outcome in played:
                outcomes.append(outcome)
                words = "passed" if outcome.passed else "FAILED: " + "; ".join(outcome.complaints)
                print(f"{len(outcomes):>4} {outcome.event:<22} {outcome.effect:<7} {outcome.seconds:6.2f} s  {words}", flush=True)
    except KeyboardInterrupt:
        print("interrupted; everything has been removed", file=sys.stderr)
        return 130
    finally:
        _print_table(outcomes)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def rounds(number: int, only: list[str], seed: int, injector: str = "auto") -> Generator[Outcome]:
    """Play rounds spread evenly over events and effects, in a random order; rounds on a second engine come last."""
    rng = random.Random(seed)
    events, effects = [event for event in EVENTS if not only or event.name in only], list(EFFECTS)
    rng.shuffle(events)
    cells = [(event, effects[(turn + place) % len(effects)]) for turn in range(len(effects)) for place, event in enumerate(events)]
    plan = list(itertools.islice(itertools.cycle(cells), number))
    client = docker.from_env()
    client.images.build(path=str(ROOT / "experiments" / "nginx"), tag=IMAGE, rm=True)
    agent_image = ensure_image(client, "agent", None)
    with tempfile.TemporaryDirectory(prefix="crash-matrix-") as directory:
        first = [cell for cell in plan if cell[0].live_restore is None]
        yield from _play(FirstEngine(client), "no", first, rng, Path(directory), injector)
        for live_restore in (True, False):
            second = [cell for cell in plan if cell[0].live_restore is live_restore]
            if second:
                with second_engine([agent_image, IMAGE], live_restore) as engine:
                    yield from _play(engine, "always", second, rng, Path(directory), injector)


def _play(
    engine: Engine, restart: str, cells: list[tuple[Event, str]], rng: random.Random, directory: Path, injector: str
) -> Iterator[Outcome]:
    target: Target | None = None
    try:
        for event, effect in cells:
            target = target or Target(engine, IMAGE, restart)
            outcome = Round(engine, target, event, effect, rng, directory, injector).play()
            if not outcome.passed:  # the next round needs an intact target
                target.remove()
                target = None
            yield outcome
    finally:
        if target is not None:
            with contextlib.suppress(docker.errors.DockerException):
                target.remove()


def _print_table(outcomes: list[Outcome]) -> None:
    by_cell: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        by_cell.setdefault((outcome.event, outcome.effect), []).append(outcome)
    print(f"\ninjected by {', '.join(sorted({one.injector for one in outcomes})) or 'no injector'}")
    print("as expected: seconds from the event, or from the end of the fault's duration, until all was as the table says;")
    print("  chaos-SIGTERM, chaos-SIGINT: until chaos had ended, which continues after a signal during its action")
    print("nothing left: seconds from stopping everything until nothing of chaosorca was left\n")
    print(f"{'':<31}{'':>7}{'':>7}   as expected        nothing left")
    print(f"{'event':<23}{'effect':<8}{'rounds':>7}{'passed':>7}{'median':>9}{'max':>7}{'median':>11}{'max':>7}")
    for event, effect in itertools.product((one.name for one in EVENTS), EFFECTS):
        cell = by_cell.get((event, effect))
        if cell:
            passed = [one for one in cell if one.passed]
            times = _spread([one.seconds for one in passed], 9) + _spread([one.clean_up for one in passed], 11)
            print(f"{event:<23}{effect:<8}{len(cell):>7}{len(passed):>7}{times}")
    print(f"{'all':<31}{len(outcomes):>7}{sum(one.passed for one in outcomes):>7}", flush=True)


def _spread(seconds: list[float], width: int) -> str:
    if not seconds:
        return f"{'-':>{width}}{'-':>7}"
    return f"{statistics.median(seconds):>{width}.2f}{max(seconds):>7.2f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Crash the parts of a fault at random moments, and check what is left.")
    parser.add_argument("--rounds", type=int, default=100, help="number of rounds, spread evenly over the matrix (default 100)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="seed of the random moments")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[event.name for event in EVENTS],
        metavar="EVENT",
        help="play only this event",
    )
    parser.add_argument("--injector", choices=INJECTORS, default="auto", help="how the faults are injected (default auto)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
