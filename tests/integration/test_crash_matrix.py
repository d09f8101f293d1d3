"""A short sample of the crash matrix: every event once, with one effect. benchmarks/crash_matrix.py plays many rounds."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from chaosorca.engine.images import ensure_image
from tests.support.crashes.events import EVENTS
from tests.support.crashes.model import Event, FirstEngine
from tests.support.crashes.round import EFFECTS, Round
from tests.support.crashes.target import Target
from tests.support.project import needs_root
from tests.support.second_engine import SecondEngine, second_engine

pytestmark = needs_root

SEED = time.time_ns() % 10**6
OF_THE_FIRST = [event for event in EVENTS if event.live_restore is None]
OF_THE_SECOND = [event for event in EVENTS if event.live_restore is not None]


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """A generator of random moments."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture(scope="module")
def second(client: docker.DockerClient, image: str) -> Iterator[SecondEngine]:
    with second_engine([ensure_image(client, "agent", None), image]) as engine:
        yield engine


@pytest.mark.parametrize("event", OF_THE_FIRST, ids=lambda event: event.name)
def test_a_crash_leaves_nothing_behind(event: Event, image: str, rng: random.Random, tmp_path: Path) -> None:
    engine = FirstEngine()
    target = Target(engine, image)
    try:
        outcome = Round(engine, target, event, rng.choice(list(EFFECTS)), rng, tmp_path).play()
    finally:
        target.remove()
    assert outcome.passed, f"seed {SEED}: {outcome}"


@pytest.mark.parametrize("event", OF_THE_SECOND, ids=lambda event: event.name)
def test_a_restart_of_the_daemon_leaves_nothing_behind(
    event: Event, second: SecondEngine, image: str, rng: random.Random, tmp_path: Path
) -> None:
    assert event.live_restore is not None
    second.stop()
    second.start(event.live_restore)
    target = Target(second, image, restart="always")
    try:
        outcome = Round(second, target, event, rng.choice(list(EFFECTS)), rng, tmp_path).play()
    finally:
        target.remove()
    assert outcome.passed, f"seed {SEED}: {outcome}"
