"""Easing the habits of nodes: which level when, one level for all processes, and what nodes are told."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.task import Clock

from osqtwist.configuration import NodeConfiguration
from osqtwist.ease import FALL_AFTER, LEVELS, RISE_AFTER, EaseRule, next_level
from osqtwist.easing import INTERVAL, Easing
from osqtwist.interfaces import Load
from osqtwist.layers import parse_layer
from osqtwist.metrics import Metrics
from osqtwist.storage.memory import MemoryStores
from osqtwist.targeting import NodeFacts
from tests.harness import InMemoryServer, Outage
from tests.stores import RealValkey, valkey

RULE = EaseRule()
FACTS = NodeFacts("n" * 20, "n")


@given(st.floats(0, 3), st.integers(0, 3))
def test_a_load_that_stays_never_flaps(nodes: float, level: int) -> None:
    """Under any number of nodes the level comes to rest, at most one step at a time."""
    seen = [level]
    for _ in range(10):
        busy = nodes * LEVELS[seen[-1]].share
        seen.append(next_level(RULE, seen[-1], 1e6, [busy, busy]))
    assert all(abs(one - other) <= 1 for one, other in itertools.pairwise(seen))
    assert seen[-1] == seen[-2]


@pytest.mark.parametrize(
    ("level", "lasted", "busy", "found"),
    [
        (0, 1e6, (0.49, 0.49), 0),
        (0, 1e6, (0.4, 0.7), 1),
        (0, RISE_AFTER - 1, (2.0,), 0),
        (0, RISE_AFTER, (2.0,), 1),
        (3, 1e6, (2.0,), 3),
        (1, FALL_AFTER, (0.45,), 1),
        (1, FALL_AFTER, (0.2,), 0),
        (1, FALL_AFTER - 1, (0.0,), 1),
        (2, 1e6, (), 2),
    ],
)
def test_when_the_level_changes(level: int, lasted: float, busy: tuple[float, ...], found: int) -> None:
    """Up when the average is busy; down when it would not be busy after; never at once after a change."""
    assert next_level(RULE, level, lasted, busy) == found


@pytest.mark.parametrize("busy", [(), (0.5, 0.4), (0.0, 0.1), (0.1, 0.2, 0.3, 0.4)])
def test_thresholds_that_cannot_be(busy: tuple[float, ...]) -> None:
    """None, falling, nought, or more than there are levels."""
    with pytest.raises(ValueError, match="busy must be"):
        EaseRule(busy)


def period(configuration: NodeConfiguration) -> int:
    options = json.loads(configuration.config_for(FACTS, None).body)["options"]
    return int(options["logger_tls_period"])


class Fleet:
    """Processes with one store, whose use of the processor is said."""

    def __init__(self, *names: str) -> None:
        self.clock = Clock()
        self.clock.rightNow = 1e6
        self.stores: Any = MemoryStores(self.clock)
        self.outage = self.stores.loads = Outage(self.stores.loads)
        self.busy = dict.fromkeys(names, 0.0)
        self.used = dict.fromkeys(names, 0.0)
        self.configurations = {name: NodeConfiguration([parse_layer("a.conf", "{}")]) for name in (*names, "")}
        self.services = [
            Easing(self.clock, self.stores, configuration, Metrics(), RULE, name, lambda name=name: self.used[name])
            for name, configuration in self.configurations.items()
        ]
        for service in self.services:
            service.startService()

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / INTERVAL)):
            for name, busy in self.busy.items():
                self.used[name] += busy * INTERVAL
            self.clock.advance(INTERVAL)

    def stop(self) -> None:
        for service in self.services:
            service.stopService()
        assert not self.clock.getDelayedCalls()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = Fleet("a", "b")
    yield made
    made.stop()


def periods(fleet: Fleet) -> set[int]:
    return {period(each) for each in fleet.configurations.values()}


def test_all_processes_are_on_one_level(fleet: Fleet) -> None:
    """Also one that serves no nodes; up by a step a minute, and down again when there is room."""
    fleet.run(200)
    assert periods(fleet) == {10}
    fleet.busy = {"a": 0.9, "b": 0.9}
    fleet.run(70)
    assert periods(fleet) == {20}
    fleet.run(200)
    assert periods(fleet) == {60}
    fleet.busy = {"a": 0.1, "b": 0.1}
    fleet.run(100)
    assert periods(fleet) == {60}
    fleet.run(1000)
    assert periods(fleet) == {10}


def test_a_moment_of_load_eases_nobody(fleet: Fleet) -> None:
    """What counts is a minute."""
    fleet.run(200)
    fleet.busy = {"a": 1.0, "b": 1.0}
    fleet.run(20)
    fleet.busy = {"a": 0.0, "b": 0.0}
    fleet.run(200)
    assert periods(fleet) == {10}


def test_while_the_store_is_away_the_level_stays(fleet: Fleet) -> None:
    """And a process that is gone counts no more."""
    fleet.busy = {"a": 0.9, "b": 0.9}
    fleet.run(90)
    assert periods(fleet) == {20}
    fleet.outage.is_down = True
    fleet.run(1000)
    assert periods(fleet) == {20}
    fleet.outage.is_down = False
    fleet.services.pop(0).stopService()
    fleet.busy = {"a": 9.0, "b": 0.0}
    fleet.run(1000)
    assert periods(fleet) - {20} == {10}


def test_what_an_operator_sets_stays(tmp_path: Path) -> None:
    """The options of a layer are over those of the level; the etag follows a change, and a node hears so."""
    layer = parse_layer("a.conf", '{"options": {"logger_tls_period": 5}}')
    configuration = NodeConfiguration([layer])
    before = configuration.config_for(FACTS, None)
    configuration.ease(LEVELS[3].options)
    assert period(configuration) == 5
    after = configuration.config_for(FACTS, before.etag)
    assert (after.is_unchanged, json.loads(after.body)["options"]["distributed_interval"]) == (False, 5)
    configuration.ease({})
    assert configuration.config_for(FACTS, before.etag).is_unchanged


def test_status_says_how_it_is(tmp_path: Path) -> None:
    """The level, since when, and how busy each process is."""
    server = InMemoryServer(tmp_path)
    assert server.operate("/api/v1/status")[1]["ease"] == {"level": 0, "since": None, "busy": []}
    server.stop()


@pytest.fixture(scope="module")
def running() -> Iterator[RealValkey]:
    with valkey() as started:
        yield started


@pytest_twisted.async_yield_fixture(params=["memory", "valkey"])
async def store(request: pytest.FixtureRequest, running: RealValkey) -> AsyncIterator[Any]:
    """An ILoadStore, in memory and for real."""
    clock: Any = reactor
    stores: Any = MemoryStores(clock) if request.param == "memory" else running.stores(reactor)
    await stores.ready()
    yield stores.loads
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_loads_are_kept_a_while(store: Any) -> None:
    """What a process said last counts until it is old; only one changes a level that both have seen."""
    assert await store.report("a", None, 1000.0) == Load(0, 0.0)
    await store.report("a", 0.5, 1000.0)
    found = await store.report("b", 0.25, 1010.0)
    assert (found.level, sorted(found.busy)) == (0, [0.25, 0.5])
    assert (await store.report("", None, 1046.0)).busy == (0.25,)
    assert await store.change(found, 1, 1046.5) is True
    assert await store.change(found, 2, 1046.5) is False
    seen = await store.report("", None, 2000.0)
    assert seen == Load(1, 1046.5)
    assert await store.change(seen, 2, 2000.0) is True
