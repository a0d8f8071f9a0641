"""The log buffer over several Redis servers: who goes where, and whose trouble it is that one is away."""

from __future__ import annotations

import io
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from osqtwist.admission import Admission
from osqtwist.courier import Courier, DeliveryLimits
from osqtwist.delivering import DeliveryService, _Stream
from osqtwist.delivery import SinkDelivery
from osqtwist.housekeeping import BufferWatch, LogKeeping
from osqtwist.interfaces import StoreUnavailable
from osqtwist.loginterfaces import Budgets, BufferFull, SinkReport
from osqtwist.logview import LogView
from osqtwist.metrics import Metrics
from osqtwist.pace import Pace
from osqtwist.routing import Route, RouteSettings
from osqtwist.settings import BadSetting, Settings
from osqtwist.sharedsink import SharedSink
from osqtwist.sinkview import SinkView
from osqtwist.storage.memory import MemoryStores
from osqtwist.storage.redis_durability import NotDurable
from osqtwist.storage.redis_url import BadRedisURL, parse_redis_url
from osqtwist.storage.sharded import Shard, ShardedStores, shard_of
from osqtwist.storing import delivery_stores, log_servers, look_at_log_servers
from tests.harness import Outage, result_of
from tests.memorysink import MemorySink
from tests.stores import valkey
from tests.test_delivery_process import begin, numbers, until
from tests.test_storage import NOW, a_batch
from tests.test_twistd import Server, Start, start

__all__ = ["start"]

NAMES = st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=8, unique=True)
NODES = [f"{number:020x}" for number in range(400)]


@given(NAMES, st.randoms())
def test_the_order_of_servers_does_not_matter(names: list[str], random: Any) -> None:
    """Every process agrees on where a node's lines go."""
    shuffled = random.sample(names, len(names))
    assert [shard_of(node, names) for node in NODES] == [shard_of(node, shuffled) for node in NODES]


@given(NAMES)
def test_a_server_that_comes_takes_from_each_and_moves_nothing_else(names: list[str]) -> None:
    """Only nodes of its own share move, to it; and back when it goes."""
    *few, new = names
    before, after = ([shard_of(node, each) for node in NODES] for each in (few, names))
    moved = [there for here, there in zip(before, after, strict=True) if here != there]
    assert set(moved) <= {new}
    assert abs(len(moved) / len(NODES) - 1 / len(names)) < 0.17


def test_nodes_are_spread_evenly() -> None:
    """Over servers with names as they are."""
    count = Counter(
        shard_of(f"{number:020x}", [f"redis://10.0.0.{host}:6379" for host in range(4)]) for number in range(8000)
    )
    assert min(count.values()) > 1850
    assert max(count.values()) < 2150


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        (("redis://a", "redis://a"), "--log-redis redis://a:6379 is there twice"),
        (("redis://a", "drain:redis://u:p@a"), "is there twice"),
        (("drain:redis://a",), "none takes lines"),
        (("http://a",), "--log-redis must begin with"),
    ],
)
def test_servers_that_cannot_be(urls: tuple[str, ...], words: str) -> None:
    """One sentence that names the option, without a password."""
    with pytest.raises((BadSetting, BadRedisURL), match=words) as caught:
        log_servers(Settings(log_redis=urls))
    assert "p@" not in str(caught.value)


def test_names_of_servers_have_no_credentials_and_stay() -> None:
    """Another password, or sentinels in another order, moves no node; another database is another server."""
    for one, other in (
        ("redis://a", "redis://user:secret@a:6379"),
        ("sentinel://b:1,a:1/m", "sentinel://:secret@a:1,b:1/m"),
    ):
        assert parse_redis_url(one).name == parse_redis_url(other).name
    assert parse_redis_url("redis://a/1").name != parse_redis_url("redis://a").name


@pytest.mark.slow
def test_only_servers_that_take_lines_need_the_durability() -> None:
    """One is taken out because it lost its disk or its replica; one that is to take lines is named."""
    with valkey() as good, valkey("--appendonly", "no") as bad:
        urls = [f"unix:{each.place.path}" for each in (good, bad)]
        look_at_log_servers(Settings(log_redis=(urls[0], f"drain:{urls[1]}"), durability="fsync"))
        look_at_log_servers(Settings(log_redis=tuple(urls), durability="fsync", role="delivery"))
        with pytest.raises(NotDurable, match=f"--log-redis {urls[1]}: --durability fsync cannot be had"):
            look_at_log_servers(Settings(log_redis=tuple(urls), durability="fsync"))


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_server_that_fails_is_named() -> None:
    """Without credentials."""
    stores = delivery_stores(
        reactor, Settings(log_redis=("redis://:secret@127.0.0.1:1",)), parse_redis_url("unix:/nowhere")
    )
    with pytest.raises(StoreUnavailable, match=r"^log server redis://127\.0\.0\.1:1 does not answer") as caught:
        await stores[0].logs.size()
    assert "secret" not in str(caught.value)


class Two:
    """Two servers in memory and the main one, each of which can be taken away."""

    def __init__(self) -> None:
        clock: Any = reactor
        self.outages: dict[str, list[Outage]] = {}
        shards = []
        for name in ("one", "two"):
            stores: Any = MemoryStores(clock)
            self.outages[name] = [Outage(stores.logs), Outage(stores.sinks)]
            stores.logs, stores.sinks = self.outages[name]
            shards.append(Shard(name, stores))
        self.stores = ShardedStores(MemoryStores(clock), shards)
        self.nodes = {
            name: next(node for node in NODES if shard_of(node, ["one", "two"]) == name) for name in ("one", "two")
        }

    def away(self, name: str, is_down: bool = True) -> None:
        for outage in self.outages[name]:
            outage.is_down = is_down


@pytest_twisted.async_yield_fixture
async def two() -> AsyncIterator[Two]:
    made = Two()
    await made.stores.ready()
    yield made
    await made.stores.close()


@pytest_twisted.ensureDeferred
async def test_batches_of_all_servers_are_read_in_the_order_of_time(two: Two) -> None:
    """A page at a time, each once; a place that was kept goes on in every server."""
    for number in range(20):
        await two.stores.logs.append(
            a_batch(str(number), node_id=two.nodes["one" if number % 3 else "two"], received_at=NOW + number)
        )
    place, found = "", []
    while page := await two.stores.logs.read(place, 3):
        place = page[-1].batch_id
        found += [json.loads(each.batch.data)[0]["a"] for each in page]
    assert found == [str(number) for number in range(20)]
    assert await two.stores.logs.last_id() == place
    assert await two.stores.logs.read(place, 3) == []
    assert (await two.stores.logs.size()).batches == 20


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_away_is_its_own_nodes_trouble(two: Two) -> None:
    """Its nodes are told so; others are served, what they posted is read, and the size says who is away."""
    await two.stores.logs.append(a_batch("before", node_id=two.nodes["two"]))
    two.away("one")
    with pytest.raises(StoreUnavailable):
        await two.stores.logs.append(a_batch(node_id=two.nodes["one"]))
    await two.stores.logs.append(a_batch("after", node_id=two.nodes["two"]))
    assert len(await two.stores.logs.read("", 10)) == 2
    size = await two.stores.logs.size()
    assert (size.batches, size.away) == (2, ("one",))
    assert await two.stores.logs.trim(NOW + 10, 0, 10) == 2
    two.away("two")
    with pytest.raises(StoreUnavailable):
        await two.stores.logs.size()


@pytest_twisted.ensureDeferred
async def test_levers_work_on_every_server(two: Two) -> None:
    """Pause, rewind, forget; one that is away fails the lever, after the others have it."""
    shards = two.stores.shards
    for shard in shards:
        await shard.stores.sinks.ensure("a", True)
    ids = [(await two.stores.logs.append(a_batch(node_id=node))).batch_id for node in two.nodes.values()]
    lag = (await two.stores.sinks.lag(["a"]))["a"]
    assert (lag.lines, await two.stores.sinks.names()) == (2, ["a"])
    for shard in shards:
        taken = await shard.stores.sinks.take("a", "me", 10, 1000)
        await shard.stores.sinks.settle("a", [each.batch_id for each in taken], [a_batch(data=b"[]", count=0)])
    assert (await two.stores.sinks.lag(["a"]))["a"].lines == 0
    assert (await two.stores.sinks.lag(["a"]))["a"].dead_letters == 2
    first = await two.stores.sinks.dead_letters("a", "", 1)
    second = await two.stores.sinks.dead_letters("a", first[-1].batch_id, 1)
    assert (len(first), len(second)) == (1, 1)
    assert await two.stores.sinks.dead_letters("a", second[-1].batch_id, 1) == []
    await two.stores.sinks.rewind("a", "", 1.0)
    assert (await two.stores.sinks.lag(["a"]))["a"].lines == 2
    with pytest.raises(ValueError, match="does not say which server"):
        await two.stores.sinks.rewind("a", "1-1", 0.0)
    await two.stores.sinks.rewind("a", ids[0], 0.0)
    assert (await two.stores.sinks.lag(["a"]))["a"].lines == 1
    two.away("one")
    with pytest.raises(StoreUnavailable, match="one: down"):
        await two.stores.sinks.pause("a", True)
    two.away("one", False)
    assert await two.stores.sinks.paused() == {"a"}
    assert await two.stores.sinks.forget("a") is True
    assert await two.stores.sinks.names() == []


@pytest_twisted.ensureDeferred
async def test_what_is_read_names_a_place_to_replay_from(two: Two) -> None:
    """The id of a batch in the log says how far each server was read; a replay after it begins there on each."""
    for shard in two.stores.shards:
        await shard.stores.sinks.ensure("a", True)
    for number in range(6):
        await two.stores.logs.append(
            a_batch(str(number), node_id=two.nodes["one" if number % 2 else "two"], received_at=NOW + number)
        )
    for shard in two.stores.shards:
        taken = await shard.stores.sinks.take("a", "me", 10, 10**6)
        await shard.stores.sinks.settle("a", [each.batch_id for each in taken])
    page = await two.stores.logs.read("", 3)
    await two.stores.sinks.rewind("a", page[-1].batch_id, 0.0)
    assert (await two.stores.sinks.lag(["a"]))["a"].lines == 3
    with pytest.raises(ValueError, match="does not say which server"):
        await two.stores.sinks.rewind("a", f"{page[-1].batch_id},1@nobody", 0.0)


@pytest_twisted.ensureDeferred
async def test_dead_letters_of_the_servers_that_answer_are_shown(two: Two) -> None:
    """Whichever is away."""
    for shard in two.stores.shards:
        await shard.stores.sinks.settle("a", (), [a_batch(data=b"[]", count=0)])
    for away in two.nodes:
        two.away(away)
        (letter,) = await two.stores.sinks.dead_letters("a", "", 10)
        assert await two.stores.sinks.dead_letters("a", letter.batch_id, 10) == []
        two.away(away, False)


@pytest_twisted.ensureDeferred
async def test_health_needs_one_server_that_takes_lines(two: Two) -> None:
    """With none of them no node could get rid of its lines."""
    pings = {shard.name: Outage(shard.stores) for shard in two.stores.shards}
    stores = ShardedStores(
        MemoryStores(reactor),  # type: ignore[arg-type]
        [*(Shard(name, ping) for name, ping in pings.items()), Shard("old", MemoryStores(reactor), is_draining=True)],  # type: ignore[arg-type]
    )
    await stores.ping()
    pings["one"].is_down = True
    await stores.ping()
    pings["two"].is_down = True
    with pytest.raises(StoreUnavailable):
        await stores.ping()


# -- what operators see


class Seen:
    """A sink on two servers that take lines and one that is drained, with a clock that tests move."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.shards = []
        self.outages = {}
        for name in ("one", "two", "old"):
            stores: Any = MemoryStores(self.clock, Budgets(live=10_000))
            self.outages[name] = [Outage(stores.logs), Outage(stores.sinks)]
            stores.logs, stores.sinks = self.outages[name]
            self.shards.append(Shard(name, stores, is_draining=name == "old"))
        self.stores = ShardedStores(MemoryStores(self.clock), self.shards)
        self.view = SinkView(self.clock, self.stores, Metrics())
        self.keeping = LogKeeping(self.clock, self.stores, self.view, 0.0)

    def on(self, name: str) -> Any:
        return next(shard.stores for shard in self.shards if shard.name == name)

    def run(self, coroutine: Any) -> Any:
        return result_of(Deferred.fromCoroutine(coroutine))

    def serve(self, *names: str, **more: Any) -> None:
        """A process serves the sink there."""
        for name in names:
            self.run(self.on(name).sinks.ensure("a", True))
            report = SinkReport(
                **{"sink": "a", "kind": "file", "consumer": "me", "state": "running", "at": self.clock.seconds()}
                | {"since": NOW}
                | more
            )
            self.run(self.on(name).sinks.report(report))

    def fill(self, name: str, size: int = 1) -> None:
        self.run(self.on(name).logs.append(a_batch("x" * size, digest=str(size))))

    def settle(self, name: str) -> None:
        taken = self.run(self.on(name).sinks.take("a", "me", 100, 10**9))
        self.run(self.on(name).sinks.settle("a", [each.batch_id for each in taken]))

    def away(self, name: str) -> None:
        for outage in self.outages[name]:
            outage.is_down = True

    @property
    def row(self) -> dict[str, Any]:
        (row,) = self.run(self.view.rows())
        return dict(row)

    @property
    def servers(self) -> dict[str, Any]:
        return {row["server"]: row for row in self.run(LogView(self.clock, self.stores).servers())}


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_a_sink_that_is_down_is_not_hidden_by_deliveries_at_rest(seen: Seen) -> None:
    """Those of servers that have nothing for it do not know how it does."""
    seen.serve("one", "old")
    seen.serve("two", state="waiting", trouble="no room", failures=3)
    seen.fill("two")
    assert (seen.row["state"], seen.row["trouble"], seen.row["lag_lines"]) == ("waiting", "no room", 1)
    seen.run(seen.view.update_metrics())
    assert seen.view.metrics.registry.get_sample_value("osqtwist_sink_up", {"sink": "a"}) == 0
    seen.serve("two")
    seen.settle("two")
    assert (seen.row["state"], seen.row["trouble"]) == ("running", "")


def test_a_pause_of_one_server_shows(seen: Seen) -> None:
    """Though the others deliver."""
    seen.serve("one", "two", "old")
    seen.fill("two")
    seen.run(seen.on("one").sinks.pause("a", True))
    assert seen.row["state"] == "paused"


def test_what_an_absent_server_holds_is_not_taken_for_nothing(seen: Seen) -> None:
    """The sink says that it is not counted."""
    seen.serve("one", "two", "old")
    seen.fill("two")
    seen.away("two")
    assert (seen.row["lag_lines"], seen.row["trouble"]) == (
        0,
        "two does not answer, and what it holds is not counted",
    )
    seen.away("one")
    seen.away("old")
    with pytest.raises(StoreUnavailable):
        seen.run(seen.view.states())


def test_a_server_that_no_delivery_process_knows_of_is_told_of(seen: Seen) -> None:
    """It was added for nodes and forgotten elsewhere: its lines wait for nobody."""
    seen.serve("one", "old")
    assert seen.row["state"] == "running"
    seen.fill("two")
    assert (seen.row["state"], seen.row["trouble"]) == ("unserved", "nobody delivers from two")
    seen.run(seen.keeping.look())
    assert seen.keeping._warned


def test_a_server_that_is_drained_says_when_it_is(seen: Seen) -> None:
    """Lines that come to others meanwhile do not hide it, and what a sink there never began to take does not pass."""
    seen.fill("old")
    assert seen.servers["old"]["state"] == "draining"
    seen.serve("one", "two")
    assert seen.servers["old"]["state"] == "draining"
    seen.serve("old")
    seen.fill("one")
    assert (seen.servers["old"]["state"], seen.servers["old"]["lag_lines"]) == ("draining", 1)
    (stored,) = seen.run(seen.on("old").sinks.take("a", "me", 1, 1))
    assert seen.servers["old"]["state"] == "draining"
    seen.run(seen.on("old").sinks.settle("a", [stored.batch_id]))
    assert (seen.servers["old"]["state"], seen.servers["old"]["batches"]) == ("drained", 1)
    assert (seen.servers["one"]["state"], seen.servers["one"]["lag_lines"]) == ("taking", 1)
    seen.away("old")
    assert (seen.servers["old"]["state"], seen.servers["old"]["lag_lines"]) == ("away", None)


def test_settled_batches_stay_up_to_half_of_the_budget_of_each_server(seen: Seen) -> None:
    """However many others there are, and whether or not they answer."""
    seen.serve("one", "two", "old")
    for size in range(1, 9):
        seen.fill("one", size * 100)
    seen.settle("one")
    before = seen.run(seen.on("one").logs.size()).bytes
    assert before > 5_000
    seen.away("two")
    seen.run(seen.keeping.sweep())
    last = seen.run(seen.on("one").logs.read("", 1))[0].batch.size
    assert 5_000 - last < seen.run(seen.on("one").logs.size()).bytes <= 5_000


def test_a_server_is_warned_of_before_it_is_full(seen: Seen) -> None:
    """At half of its own budget, and named when it is full; the admission goes by the fullest."""
    said: list[str] = []

    def observe(event: Any) -> None:
        if event.get("log_namespace", "").startswith("osqtwist.housekeeping"):
            said.append(str(event["log_format"]).format(**event))

    seen.serve("one", "two", "old")
    seen.fill("one", 5_000)
    globalLogPublisher.addObserver(observe)
    try:
        seen.run(seen.keeping.look())
        assert len(said) == 1
        assert "sink a is running and 1 lines" in said[0]
        with pytest.raises(BufferFull):
            seen.fill("one", 6_000)
        seen.run(seen.keeping.look())
        assert "the log buffer on one is full (--log-budget-mib)" in said[1]
        # One that goes away is not said to take lines again.
        seen.away("one")
        seen.run(seen.keeping.look())
        assert said[2].startswith("log servers that do not answer: one;")
        assert len(said) == 3
    finally:
        globalLogPublisher.removeObserver(observe)


def test_admission_goes_by_the_fullest_server_that_takes_lines(seen: Seen) -> None:
    """What one that is drained still holds is no reason to hold nodes back."""
    admission = Admission(seen.clock, 1.0, 1.0, 1)
    watch = BufferWatch(seen.clock, seen.stores, admission)
    seen.fill("old", 9_000)
    seen.fill("two", 4_000)
    seen.run(watch.go_round())
    assert 0.4 < admission.fill < 0.5


# -- delivery


def deliveries(clock: Clock, names: Sequence[str], sink: MemorySink, from_start: bool) -> tuple[Any, list[Any]]:
    """A delivery service over servers in memory, and their stores."""
    shared = SharedSink(sink, len(names))
    stores: list[Any] = [MemoryStores(clock) for _ in names]
    for each in stores:
        each.sinks = Outage(each.sinks)
        each.ready = each.sinks.names
    streams = [
        _Stream(
            clock,
            each,
            [
                SinkDelivery(
                    clock, each, "memory", Courier(clock, "a", shared, DeliveryLimits(), Pace(clock)),
                    Route(RouteSettings()), "me", from_start,
                )
            ],
        )
        for each in stores
    ]  # fmt: skip
    return DeliveryService(streams, io.StringIO()), stores


def test_a_sink_that_is_known_gets_all_of_a_server_that_was_added() -> None:
    """Nodes may have posted there before the delivery process came, and ``next`` is for new sinks."""
    clock, sink = Clock(), MemorySink()
    service, (old, added) = deliveries(clock, ["old", "added"], sink, from_start=False)
    seen_run(old.sinks.ensure("a", False))
    seen_run(added.logs.append(a_batch("posted before")))
    service.startService()
    for _ in range(20):
        clock.advance(0.1)
    assert [json.loads(event.document)["a"] for event in sink.kept] == ["posted before"]
    seen_run(_stopped(service))
    assert sink.closed == 1


def test_a_new_sink_that_wants_what_comes_next_gets_that() -> None:
    """On every server."""
    clock, sink = Clock(), MemorySink()
    service, stores = deliveries(clock, ["one", "two"], sink, from_start=False)
    for each in stores:
        seen_run(each.logs.append(a_batch("before")))
    service.startService()
    for _ in range(20):
        clock.advance(0.1)
    for each in stores:
        seen_run(each.logs.append(a_batch("after", digest="after")))
    for _ in range(20):
        clock.advance(0.2)
    assert [json.loads(event.document)["a"] for event in sink.kept] == ["after", "after"]
    seen_run(_stopped(service))


def test_a_sink_is_closed_though_a_server_was_never_there() -> None:
    """Delivery from the other goes on meanwhile."""
    clock, sink = Clock(), MemorySink()
    service, (there, absent) = deliveries(clock, ["there", "absent"], sink, from_start=True)
    absent.sinks.is_down = True
    service.startService()
    seen_run(there.logs.append(a_batch("x")))
    for _ in range(30):
        clock.advance(0.2)
    assert len(sink.kept) == 1
    seen_run(_stopped(service))
    assert sink.closed == 1


def seen_run(coroutine: Any) -> Any:
    return result_of(Deferred.fromCoroutine(coroutine))


async def _stopped(service: DeliveryService) -> None:
    await service.stopService()


def test_a_shared_sink_is_called_for_one_thing_at_a_time() -> None:
    """It is opened once, again after a failure, and closed by the last."""
    calls: list[str] = []

    class Slow(MemorySink):
        async def open(self) -> None:
            calls.append("open")

        async def close(self) -> None:
            calls.append("close")

    shared = SharedSink(Slow(), 2)
    for _ in range(2):
        result_of(Deferred.fromCoroutine(shared.open()))
    result_of(Deferred.fromCoroutine(shared.close()))
    assert calls == ["open"]
    result_of(Deferred.fromCoroutine(shared.close()))
    assert calls == ["open", "close"]


# -- for real


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def pair() -> Iterator[Any]:
    with valkey() as one, valkey() as other:
        yield one, other


def keys_of(server: Server, count: int) -> list[str]:
    """The keys of so many nodes that enroll."""
    secret = (server.folder / "state" / "enroll-secret").read_text().strip()
    found = []
    for number in range(count):
        body = {"enroll_secret": secret, "host_identifier": f"host-{number}", "platform_type": "9"}
        found.append(server.ask("/enroll", body, node=None)["node_key"])
    return found


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_half_the_servers_go_and_come_back(start: Start, folder: Path, pair: Any) -> None:
    """Their nodes keep their lines, others are served and delivered; in the end each acknowledged line is there."""
    one, other = pair
    words = [word for each in pair for word in ("--log-redis", f"unix:{each.place.path}")]
    server = begin(start, folder, *words)
    keys = keys_of(server, 12)
    acknowledged: set[int] = set()
    number = 0

    def post(key: str) -> bool:
        nonlocal number
        number += 1
        body = {"node_key": key, "log_type": "result", "data": [{"name": "n", "number": number}]}
        answer = server.ask("/log", body, node=None)
        if answer == {}:
            acknowledged.add(number)
        return bool(answer == {})

    def delivered() -> set[int]:
        return set(numbers(folder))

    assert all(post(key) for key in keys)
    until(lambda: delivered() == acknowledged)
    one.signal(signal.SIGSTOP)
    served = {key for key in keys if post(key)}
    assert 0 < len(served) < 12
    until(lambda: delivered() >= acknowledged)
    assert f"log server unix:{one.place.path} does not answer" in server.text()
    assert f"unix:{one.place.path} does not answer" in server.json("sink", "list")[0]["trouble"]
    states = {row["server"]: row["state"] for row in server.json("log", "servers")}
    assert (states[f"unix:{one.place.path}"], states[f"unix:{other.place.path}"]) == ("away", "taking")
    status = server.json("status")
    assert status["log_buffer"]["away"] == [f"unix:{one.place.path}"]
    until(lambda: "log servers that do not answer" in server.text())
    assert server.json("sink", "list")[0]["sink"] == "archive"
    one.signal(signal.SIGCONT)
    until(lambda: all(post(key) for key in keys), 30)
    until(lambda: delivered() >= acknowledged)
    other.signal(signal.SIGSTOP)
    other.kill()
    assert {key for key in keys if post(key)} == set(keys) - served
    other.start()
    until(lambda: all(post(key) for key in keys), 30)
    until(lambda: delivered() >= acknowledged)
    assert {row["lag_lines"] for row in server.json("sink", "list")} == {0}
    # Lines of both come to whoever looks.
    done = server.osqtwist("--json", "log", "tail", "--no-follow")
    assert {json.loads(line)["line"]["number"] for line in done.stdout.splitlines()} >= acknowledged


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_server_is_drained_and_taken_out(start: Start, folder: Path, pair: Any) -> None:
    """It takes no more from the start on that says so, gives all it has, says when it is empty, and nothing is lost."""
    stays, goes = (f"unix:{each.place.path}" for each in pair)

    def run(*urls: str) -> Server:
        return begin(start, folder, *(word for url in urls for word in ("--log-redis", url)))

    def post(server: Server, keys: list[str], number: int) -> set[int]:
        for offset, key in enumerate(keys):
            body = {"node_key": key, "log_type": "result", "data": [{"name": "n", "number": number + offset}]}
            assert server.ask("/log", body, node=None) == {}
        return set(range(number, number + len(keys)))

    def state(server: Server, url: str) -> Any:
        (row,) = [row for row in server.json("log", "servers") if row["server"] == url]
        return row["state"], row["lag_lines"]

    server = run(stays, goes)
    keys = keys_of(server, 12)
    until(lambda: server.json("sink", "list"))
    server.json("sink", "pause", "archive")
    acknowledged = post(server, keys, 0)
    held = state(server, goes)[1]
    assert 0 < held < 12
    assert server.stop() == 0
    server = run(stays, f"drain:{goes}")
    acknowledged |= post(server, keys, 100)
    assert state(server, goes) == ("draining", held)
    server.json("sink", "resume", "archive")
    until(lambda: state(server, goes) == ("drained", 0), 30)
    assert server.stop() == 0
    server = run(stays)
    acknowledged |= post(server, keys, 200)
    until(lambda: set(numbers(folder)) == acknowledged)
    assert sorted(numbers(folder)) == sorted(acknowledged)
