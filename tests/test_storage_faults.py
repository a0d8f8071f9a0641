"""What happens when a real Valkey stops, dies, fills up, and comes back."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from osqtwist.denials import Denials
from osqtwist.directory import Directory
from osqtwist.interfaces import ListLost, StoreFull, StoreUnavailable
from osqtwist.metrics import Metrics
from osqtwist.node import Revocation
from osqtwist.refusalkeeping import RefusalKeeping, Refusals
from osqtwist.storage.redis import RedisStores
from osqtwist.storage.redis_connection import Login
from osqtwist.storage.redis_url import RedisPlace
from tests.stores import RealValkey, valkey
from tests.test_storage import NODE, NOW, a_batch, a_node, a_query, a_result

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[RealValkey]:
    with valkey() as running:
        yield running


async def pause(seconds: float = 0.05) -> None:
    await deferLater(reactor, seconds)  # type: ignore[arg-type]


async def until_it_answers(stores: Any, seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            await stores.ping()
        except StoreUnavailable:
            assert time.monotonic() < deadline, "the store did not come back"
            await pause()
        else:
            return


@pytest_twisted.ensureDeferred
async def test_a_stopped_server_fails_calls_in_time_and_comes_back(server: RealValkey) -> None:
    """A server that hangs costs the deadline, then nothing: calls fail at once until it answers again."""
    stores = server.stores(reactor)
    stores._redis.deadline = 0.5
    await stores.ready()
    server.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await stores.nodes.get(NODE)
    assert time.monotonic() - began < 2.0
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await stores.nodes.get(NODE)
    assert time.monotonic() - began < 0.7
    server.signal(signal.SIGCONT)
    await until_it_answers(stores)
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_what_was_acknowledged_survives_kill_9(server: RealValkey) -> None:
    """After kill -9 and a restart on the same append-only file everything stored is there, scripts work again."""
    stores = server.stores(reactor)
    await stores.ready()
    await stores.queries.add(a_query())
    await stores.queries.take(NODE, ["q1"], NOW, 20)
    await stores.queries.add_results([a_result()])
    ids = [(await stores.logs.append(a_batch(str(number)))).batch_id for number in range(20)]
    # appendfsync everysec: what kill -9 of the process can lose is nothing, the kernel has it.
    server.kill()
    with pytest.raises(StoreUnavailable):
        await stores.nodes.record(a_node())
    server.start()
    await until_it_answers(stores)
    assert [each.batch_id for each in await stores.logs.read("", 100)] == ids
    assert (await stores.queries.progress("q1")).answered == 1
    await stores.nodes.record(a_node())
    assert await stores.logs.append(a_batch())
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_a_server_that_comes_back_empty_is_used(server: RealValkey) -> None:
    """Nothing hangs on what was there."""
    stores = server.stores(reactor)
    await stores.ready()
    await stores.logs.append(a_batch())
    server.kill()
    server.empty()
    server.start()
    await until_it_answers(stores)
    assert await stores.logs.read("", 10) == []
    assert await stores.logs.append(a_batch())
    assert (await stores.logs.size()).batches == 1
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_away_fails_every_call_at_once(server: RealValkey) -> None:
    """No call hangs and none is queued, however many there are."""
    stores = server.stores(reactor)
    await stores.ready()
    server.kill()
    await pause(0.2)
    began = time.monotonic()
    for _ in range(1000):
        with pytest.raises(StoreUnavailable):
            await stores.nodes.get(NODE)
    assert time.monotonic() - began < 1.0
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_a_server_that_was_never_there() -> None:
    """ready() fails in time with a sentence."""
    place = RedisPlace("unix", (), "/nonexistent/valkey.sock", Login())
    stores = RedisStores(reactor, place, ready_within=0.2)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await stores.ready()
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_a_full_server_is_full_and_not_away(server: RealValkey) -> None:
    """Out of memory under noeviction: nothing is stored, and what is there is still read."""
    stores = server.stores(reactor)
    await stores.ready()
    await stores.logs.append(a_batch())
    server.ask("CONFIG", "SET", "maxmemory", "1")
    for call in (stores.logs.append(a_batch()), stores.nodes.record(a_node()), stores.queries.add(a_query())):
        with pytest.raises(StoreFull):
            await call
    assert len(await stores.logs.read("", 10)) == 1
    server.ask("CONFIG", "SET", "maxmemory", "0")
    await stores.logs.append(a_batch())
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_a_replica_is_full_and_not_away() -> None:
    """A server that became read-only takes nothing new."""
    with valkey("--replicaof", "127.0.0.1", "1") as server:
        stores = server.stores(reactor)
        await stores.ready()
        with pytest.raises(StoreFull):
            await stores.nodes.revoke(Revocation("a", 1.0))
        await stores.close()


@pytest_twisted.ensureDeferred
async def test_subscribers_look_again_after_a_lost_connection(server: RealValkey) -> None:
    """An empty payload stands for every signal that may have been missed."""
    stores = server.stores(reactor)
    await stores.ready()
    heard: list[str] = []
    leave = stores.signals.subscribe("queries", heard.append)
    await pause()
    server.kill()
    server.start()
    deadline = time.monotonic() + 8
    while not heard and time.monotonic() < deadline:
        await pause()
    assert heard == [""]
    await until_it_answers(stores)
    await pause(0.2)
    await stores.signals.publish("queries", "q1")
    await pause(0.2)
    assert heard == ["", "q1"]
    leave()
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_replies_stay_in_order_when_callers_go_away(server: RealValkey) -> None:
    """A cancelled call leaves its reply to nobody else."""
    stores = server.stores(reactor)
    await stores.ready()
    for number in range(50):
        await stores.nodes.record(a_node(number))
    calls = [Deferred.fromCoroutine(stores.nodes.get(f"{number:020x}")) for number in range(50)]
    for call in calls[::3]:
        call.addErrback(lambda failure: None)
        call.cancel()
    outcomes = await DeferredList(calls)
    for number, (_, node) in enumerate(outcomes):
        assert node is None if number % 3 == 0 else node.name == f"node-{number}"
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_who_is_refused_stays_refused_when_the_store_comes_back_empty(server: RealValkey, tmp_path: Path) -> None:
    """In memory at once, in the store after a look; and a server that starts on an empty store puts the lists back."""
    stores, metrics = server.stores(reactor), Metrics()
    await stores.ready()
    directory = Directory(reactor, stores.nodes, stores.signals, lambda node_id: None)
    denials = Denials(reactor, stores.denials, stores.signals, metrics)
    path = tmp_path / "refusals.json"

    def keeping() -> RefusalKeeping:
        return RefusalKeeping(reactor, stores, path, directory.revocations, denials.all, metrics)

    keeper = keeping()
    await keeper.begin()
    await stores.nodes.revoke(Revocation(NODE, 1.0, "stolen"))
    await denials.add("serial", "abc", "", "stolen", None, "a test")
    await directory.look_at_revocations()
    await keeper.look()
    assert metrics.store.losses._value.get() == 0
    for number, again in enumerate((keeper, None), 1):
        server.kill()
        server.empty()
        server.start()
        await until_it_answers(stores)
        with pytest.raises(ListLost):
            await directory.look_at_revocations()
        with pytest.raises(ListLost):
            await denials.look()
        assert directory.is_revoked(NODE)
        assert denials.count() == 1
        await (again.look() if again else keeping().begin())
        await directory.look_at_revocations()
        await denials.look()
        assert directory.is_revoked(NODE)
        assert denials.count() == 1
        assert metrics.store.losses._value.get() == number
    await stores.nodes.revoke(Revocation("revoked since", 2.0))
    await directory.look_at_revocations()
    server.kill()
    server.empty()
    server.start()
    await until_it_answers(stores)
    await keeper.look()
    assert {each.node_id for each in await stores.nodes.revocations()} == {NODE, "revoked since"}
    await stores.nodes.restore(NODE)
    await directory.look_at_revocations()
    await keeper.look()
    assert b"stolen" in path.read_bytes() and NODE.encode() not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    await stores.close()


def test_a_copy_that_is_rubbish_is_told_of_and_written_anew(tmp_path: Path) -> None:
    """It keeps no server from starting."""
    path = tmp_path / "refusals.json"
    path.write_text("{")
    keeper = RefusalKeeping(reactor, None, path, list, list, Metrics())  # type: ignore[arg-type]
    assert keeper._kept == Refusals()
