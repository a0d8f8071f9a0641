"""The log buffer over several Redis servers: who goes where, and whose trouble it is that one is away."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from osqtwist.interfaces import StoreUnavailable
from osqtwist.settings import BadSetting, Settings
from osqtwist.sharedsink import SharedSink
from osqtwist.storage.memory import MemoryStores
from osqtwist.storage.redis_url import BadRedisURL
from osqtwist.storage.sharded import Shard, ShardedStores, shard_of
from osqtwist.storing import log_servers
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
    status = server.json("status")
    assert status["log_buffer"]["away"] == [f"unix:{one.place.path}"]
    until(lambda: "log servers that do not answer" in server.text())
    assert server.json("sink", "list")[0]["sink"] == "archive"
    one.signal(signal.SIGCONT)
    until(lambda: all(post(key) for key in keys), 30)
    until(lambda: delivered() >= acknowledged)
    other.kill()
    assert {key for key in keys if post(key)} == set(keys) - served
    other.start()
    until(lambda: all(post(key) for key in keys), 30)
    until(lambda: delivered() >= acknowledged)
    assert {row["lag_lines"] for row in server.json("sink", "list")} == {0}
    # Lines of both come to whoever looks.
    done = server.osqtwist("--json", "log", "tail", "--no-follow")
    assert {json.loads(line)["line"]["number"] for line in done.stdout.splitlines()} >= acknowledged
