"""Delivery: everything reaches the sink at least once, whatever the sink, the store and the process do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from osqtwist.courier import Courier, DeliveryLimits
from osqtwist.delivery import CLAIM_IDLE, REPORT_INTERVAL, SinkDelivery
from osqtwist.interfaces import StoreUnavailable
from osqtwist.logbatch import event_id
from osqtwist.logevent import LogEvent
from osqtwist.pace import Pace
from osqtwist.routing import Route, RouteSettings
from osqtwist.sinkinterfaces import ILogSink, Outcome, RefusedEvent, SinkUnavailable
from osqtwist.storage.memory import MemoryStores
from tests.harness import Outage, result_of
from tests.memorysink import MemorySink
from tests.sinkcontract import CONTRACT, Promise, name_of
from tests.test_storage import NODE, a_batch


@attrs.define
class Bench:
    """Stores, a clock, and the deliveries of one sink."""

    clock: Clock = attrs.field(factory=Clock)
    stores: MemoryStores = attrs.field(init=False)
    started: list[SinkDelivery] = attrs.field(factory=list)
    appended: int = 0

    def __attrs_post_init__(self) -> None:
        self.stores = MemoryStores(self.clock)
        self.stores.sinks = Outage(self.stores.sinks)  # type: ignore[assignment]

    def start(
        self,
        sink: MemorySink,
        consumer: str = "one",
        route: RouteSettings = RouteSettings(),
        **limits: Any,
    ) -> SinkDelivery:
        """Begin to deliver to a sink."""
        courier = Courier(self.clock, "a", sink, DeliveryLimits(**limits), Pace(self.clock), jitter=lambda: 1.0)
        delivery = SinkDelivery(self.clock, self.stores, "memory", courier, Route(route), consumer)
        delivery.startService()
        self.started.append(delivery)
        self.turn()
        return delivery

    def stop(self, delivery: SinkDelivery) -> None:
        self.started.remove(delivery)
        result_of(delivery.stopService())

    def append(self, *lines: Any, **more: Any) -> list[str]:
        """Store a batch; answers with the event ids of its lines."""
        self.appended += 1
        digest = f"batch-{self.appended}"
        data = json.dumps(lines or [{"n": self.appended}]).encode()
        batch = a_batch(data=data, count=len(lines) or 1, digest=digest, **more)
        result_of(Deferred.fromCoroutine(self.stores.logs.append(batch)))
        self.turn()
        return [event_id(NODE, digest, index) for index in range(len(lines) or 1)]

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, in steps, as a reactor does."""
        left = seconds
        while left > 0:
            self.clock.advance(min(0.25, left))
            left -= 0.25
        for _ in range(20):
            self.clock.advance(0)

    def ask(self, coroutine: Any) -> Any:
        return result_of(Deferred.fromCoroutine(coroutine))

    @property
    def lag(self) -> int:
        """Lines not settled."""
        return int(self.ask(self.stores.sinks.lag(["a"]))["a"].lines)

    def dead(self) -> list[tuple[bytes, str]]:
        letters = self.ask(self.stores.sinks.dead_letters("a", "", 100))
        return [(line.line, line.reason) for each in letters for line in each.batch.dead]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    for delivery in list(made.started):
        made.stop(delivery)
    made.turn()
    assert not made.clock.getDelayedCalls()


def kept(sink: MemorySink) -> list[str]:
    return [event.event_id for event in sink.kept]


@attrs.define
class _MemoryDestination:
    sink: MemorySink = attrs.field(factory=MemorySink)

    def make(self) -> MemorySink:
        return self.sink

    async def received(self) -> Sequence[bytes]:
        return [event.document for event in self.sink.kept]

    async def take_away(self) -> None:
        self.sink.is_away = True

    async def give_back(self) -> None:
        self.sink.is_away = False


@pytest.mark.parametrize("promise", CONTRACT, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_the_sink_of_these_tests_keeps_the_contract(promise: Promise) -> None:
    """What delivery is tested with behaves as a real sink does."""
    verifyObject(ILogSink, MemorySink())
    await promise(_MemoryDestination())


# -- the way it goes


def test_lines_reach_the_sink_as_they_come(bench: Bench) -> None:
    """Those that waited, and each new batch at once; then nothing is left to deliver."""
    first = bench.append({"n": 1}, {"n": 2})
    sink = MemorySink()
    bench.start(sink)
    assert kept(sink) == first
    second = bench.append()
    assert kept(sink) == first + second
    assert bench.lag == 0
    assert json.loads(sink.kept[0].document)["n"] == 1
    assert json.loads(sink.kept[0].document)["osqtwist"]["node"] == NODE


def test_deliveries_are_bounded(bench: Bench) -> None:
    """At most so many lines in each, in order."""
    ids = bench.append(*({"n": number} for number in range(5)))
    sink = MemorySink()
    bench.start(sink, lines=2)
    assert sink.calls == [ids[:2], ids[2:4], ids[4:]]


def test_what_a_route_leaves_out_is_settled(bench: Bench) -> None:
    """Nobody waits for it."""
    sink = MemorySink()
    delivery = bench.start(sink, route=RouteSettings(when="log_type:status"))
    bench.append()
    ids = bench.append({"n": 1}, log_type="status")
    assert kept(sink) == ids
    assert bench.lag == 0
    assert delivery.courier.pace.left_out == 1


# -- failures of the sink


def test_a_failing_sink_is_tried_until_it_works(bench: Bench) -> None:
    """With pauses that double up to the longest; it is opened anew, and nothing is lost or settled meanwhile."""
    sink = MemorySink(is_away=True)
    delivery = bench.start(sink, first_pause=1.0, longest_pause=4.0)
    ids = bench.append()
    opened = [sink.opened]
    for seconds in (1.0, 2.0, 4.0, 4.0):
        bench.turn(seconds - 0.25)
        assert sink.opened == opened[-1]
        bench.turn(0.25)
        opened.append(sink.opened)
    assert opened == [1, 2, 3, 4, 5]
    assert bench.lag == 1
    assert delivery.courier.state == "waiting"
    sink.is_away = False
    bench.turn(4.0)
    assert kept(sink) == ids
    assert bench.lag == 0
    assert delivery.courier.state == "running"


def test_a_destination_may_ask_to_be_left_alone(bench: Bench) -> None:
    """Retry-After counts, though the pause would be shorter."""
    sink = MemorySink(script=[SinkUnavailable("busy", retry_after=30.0)])
    bench.start(sink, first_pause=0.5)
    bench.append()
    bench.turn(29.5)
    assert len(sink.calls) == 1
    bench.turn(0.5)
    assert len(sink.calls) == 2


def test_only_what_was_not_taken_is_tried_again(bench: Bench) -> None:
    """An event that is taken goes there once."""
    sink = MemorySink(script=[Outcome(again=(0, 2), trouble="throttled"), Outcome(again=(1,))])
    bench.start(sink)
    ids = bench.append({"n": 0}, {"n": 1}, {"n": 2})
    bench.turn(5.0)
    assert sink.calls == [ids, [ids[0], ids[2]], [ids[2]]]
    assert sorted(kept(sink)) == sorted(ids)
    assert bench.lag == 0


def test_what_is_refused_for_good_becomes_a_dead_letter(bench: Bench) -> None:
    """With its document and the reason; the others are delivered, and the batch is settled."""
    sink = MemorySink(script=[Outcome(refused=(RefusedEvent(1, "too odd"),), again=(0,))])
    delivery = bench.start(sink)
    ids = bench.append({"n": 0}, {"n": 1}, {"n": 2})
    bench.turn(2.0)
    assert sorted(kept(sink)) == sorted([ids[0], ids[2]])
    ((line, reason),) = bench.dead()
    assert (json.loads(line)["n"], reason) == (1, "too odd")
    assert bench.lag == 0
    assert delivery.courier.pace.refused == 1


def test_dead_letters_can_be_delivered_again(bench: Bench) -> None:
    """When asked for: what is taken now is no dead letter any more, what is refused again stays one."""
    sink = MemorySink(script=[Outcome(refused=(RefusedEvent(0, "odd"), RefusedEvent(1, "odd")))])
    bench.start(sink)
    ids = bench.append({"n": 0}, {"n": 1})
    assert len(bench.dead()) == 2
    sink.script = [Outcome(refused=(RefusedEvent(1, "still odd"),))]
    bench.ask(bench.stores.sinks.ask_again("a"))
    bench.turn()
    assert kept(sink) == ids[:1]
    ((line, reason),) = bench.dead()
    assert (json.loads(line)["n"], reason) == (1, "still odd")


def test_a_fault_of_a_sink_is_narrowed_down(bench: Bench) -> None:
    """One event that makes it fail in an unexpected way does not hold up the rest for ever."""

    def fail_on_two(events: Sequence[LogEvent]) -> Any:
        return ValueError("bug") if any(b'"n": 2' in each.document for each in events) else Outcome()

    sink = MemorySink(script=[fail_on_two] * 50)
    bench.start(sink)
    ids = bench.append(*({"n": number} for number in range(4)))
    bench.turn(120.0)
    assert sorted(kept(sink)) == sorted([*ids[:2], ids[3]])
    ((line, reason),) = bench.dead()
    assert json.loads(line)["n"] == 2
    assert "bug" in reason
    assert bench.lag == 0


# -- failures of the process and of the store


def test_a_process_that_dies_loses_nothing(bench: Bench) -> None:
    """Its next start takes up what it had, before anything new."""
    sink = MemorySink(script=[Deferred()])
    first = bench.start(sink)
    ids = bench.append({"n": 1}) + bench.append({"n": 2})
    bench.stop(first)
    assert sink.closed == 1
    assert kept(sink) == []
    bench.start(sink)
    assert kept(sink) == ids


def test_another_process_takes_over_in_time(bench: Bench) -> None:
    """What a dead consumer held is delivered by another after a while; a live one is left in peace."""
    held = MemorySink(script=[Deferred()])
    dead = bench.start(held, "dead")
    ids = bench.append()
    other = MemorySink()
    bench.start(other, "other")
    bench.turn(3 * CLAIM_IDLE)
    assert kept(other) == []
    bench.stop(dead)
    bench.turn(2 * CLAIM_IDLE)
    assert kept(other) == ids


def test_two_processes_share_a_sink(bench: Bench) -> None:
    """Each batch goes through one of them."""
    sinks = [MemorySink(), MemorySink()]
    for number, sink in enumerate(sinks):
        bench.start(sink, str(number))
    ids = [each for _ in range(10) for each in bench.append()]
    bench.turn(3.0)
    assert sorted(kept(sinks[0]) + kept(sinks[1])) == sorted(ids)


def test_an_outage_of_the_store_repeats_nothing(bench: Bench) -> None:
    """What the sink has is settled once the store is back; it does not go there twice."""
    waiting: Deferred[Outcome] = Deferred()
    sink = MemorySink(script=[waiting])
    bench.start(sink)
    ids = bench.append()
    outage: Any = bench.stores.sinks
    outage.is_down = True
    waiting.callback(Outcome())
    bench.turn(10.0)
    outage.is_down = False
    bench.turn(2.0)
    assert kept(sink) == ids
    assert len(sink.calls) == 1
    assert bench.lag == 0
    more = bench.append()
    assert kept(sink) == ids + more


def test_a_store_that_is_away_at_the_start(bench: Bench) -> None:
    """Delivery begins when it is there."""
    outage: Any = bench.stores.sinks
    outage.is_down = True
    sink = MemorySink()
    delivery = bench.start(sink)
    bench.turn(5.0)
    assert "the store" in delivery.courier.pace.last_trouble
    outage.is_down = False
    bench.turn(2.0)
    ids = bench.append()
    assert kept(sink) == ids


def test_an_unexpected_fault_is_survived(bench: Bench) -> None:
    """Delivery goes on after a while."""
    outage: Any = bench.stores.sinks
    faults: list[Exception] = [RuntimeError("bug")]

    def before(name: str) -> Any:
        if name == "take" and faults:
            raise faults.pop()

    outage.before = before
    sink = MemorySink()
    bench.start(sink)
    ids = bench.append()
    bench.turn(20.0)
    assert kept(sink) == ids


# -- operators


def test_a_paused_sink_gets_nothing_until_it_goes_on(bench: Bench) -> None:
    """Its lines wait in the buffer."""
    sink = MemorySink()
    bench.start(sink)
    bench.ask(bench.stores.sinks.pause("a", True))
    ids = bench.append()
    bench.turn(10.0)
    assert (kept(sink), bench.lag) == ([], 1)
    bench.ask(bench.stores.sinks.pause("a", False))
    bench.turn()
    assert kept(sink) == ids


def test_a_replay_gives_the_same_events(bench: Bench) -> None:
    """From a moment on, with the ids they had."""
    sink = MemorySink()
    bench.start(sink)
    ids = bench.append() + bench.append()
    bench.ask(bench.stores.sinks.rewind("a", "", 0.0))
    bench.turn(2.0)
    assert kept(sink) == ids * 2


def test_a_forgotten_sink_that_is_still_served_begins_anew(bench: Bench) -> None:
    """Rather than fail for ever."""
    sink = MemorySink()
    bench.start(sink)
    bench.append()
    bench.ask(bench.stores.sinks.forget("a"))
    bench.turn(5.0)
    ids = bench.append()
    bench.turn(5.0)
    assert kept(sink)[-1:] == ids
    assert bench.lag == 0


def test_reports_say_how_it_goes(bench: Bench) -> None:
    """Counts, the rate, and what went wrong last."""
    sink = MemorySink(script=[SinkUnavailable("full disk")])
    bench.start(sink)
    bench.append({"n": 1}, {"n": 2})
    bench.turn(2 * REPORT_INTERVAL)
    (report,) = bench.ask(bench.stores.sinks.reports())
    assert (report.sink, report.kind, report.consumer, report.state) == ("a", "memory", "one", "running")
    assert (report.lines, report.batches, report.failures, report.trouble) == (2, 1, 1, "full disk")
    assert report.bytes == sum(len(event.document) for event in sink.kept)
    assert report.rate > 0


def test_a_store_fault_is_one_of_the_known(bench: Bench) -> None:
    """The harness fails calls the way a real store does."""
    outage: Any = bench.stores.sinks
    outage.is_down = True
    with pytest.raises(StoreUnavailable):
        bench.ask(bench.stores.sinks.names())
