"""How safe a batch is before a node may forget it: on a real Valkey, with a disk, a replica, and a kill -9."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from osqtwist.interfaces import StoreUnavailable
from osqtwist.storage import redis_durability as module
from osqtwist.storage.redis_durability import LEVELS, NotDurable
from osqtwist.storage.redis_url import check_redis
from tests.stores import RealValkey, valkey
from tests.test_storage import a_batch

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[RealValkey]:
    with valkey() as running:
        yield running


async def opened(server: RealValkey, level: str) -> Any:
    stores = server.stores(reactor, durability=level)
    await stores.ready()
    return stores


def commands(server: RealValkey, name: str) -> int:
    """How often the server was given a command."""
    for line in server.ask("INFO", "commandstats").decode().splitlines():
        if line.startswith(f"cmdstat_{name}:calls="):
            return int(line.partition("calls=")[2].partition(",")[0])
    return 0


@pytest_twisted.ensureDeferred
async def test_fsync_answers_once_it_is_on_the_disk(server: RealValkey) -> None:
    """The append waits for WAITAOF; the append-only file has the batch by then."""
    stores = await opened(server, "fsync")
    await stores.logs.append(a_batch("marker-of-this-test"))
    files = b"".join(path.read_bytes() for path in (server.folder / "appendonlydir").glob("*.incr.aof"))
    assert b"marker-of-this-test" in files
    assert commands(server, "waitaof") == 1
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_many_share_one_sync(server: RealValkey) -> None:
    """A hundred posts at once cost a few waits, not a hundred."""
    stores = await opened(server, "fsync")
    appending = [Deferred.fromCoroutine(stores.logs.append(a_batch(str(number)))) for number in range(100)]
    await gatherResults(appending)
    assert (await stores.logs.size()).batches == 100
    assert commands(server, "waitaof") <= 5
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_what_was_acknowledged_after_a_sync_survives_kill_9(server: RealValkey) -> None:
    """Of the store itself; reading goes on meanwhile, on another connection."""
    stores = await opened(server, "fsync")
    ids = [(await stores.logs.append(a_batch(str(number)))).batch_id for number in range(3)]
    server.kill()
    server.start()
    again = await opened(server, "append")
    # The same keys.
    again.logs = type(again.logs)(again._redis, stores.logs._prefix, "c", again.logs._budgets, again.logs.durability)
    assert [each.batch_id for each in await again.logs.read("", 10)] == ids
    await stores.close()
    await again.close()


@pytest_twisted.ensureDeferred
async def test_a_batch_sent_again_waits_too(server: RealValkey) -> None:
    """The first answer may have been lost before the disk had it."""
    stores = await opened(server, "fsync")
    await stores.logs.append(a_batch(digest="same"))
    before = commands(server, "waitaof")
    assert (await stores.logs.append(a_batch(digest="same"))).is_duplicate
    assert commands(server, "waitaof") == before + 1
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_replica_answers_once_it_has_it(server: RealValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says no when no replica confirms in time."""
    with pytest.raises(NotDurable, match="it has no replica"):
        check_redis(server.place, "replica")
    with valkey("--replicaof", "127.0.0.1", "1") as replica:
        port = free_port()
        server.ask("CONFIG", "SET", "port", str(port))
        replica.ask("REPLICAOF", "127.0.0.1", str(port))
        await until(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"))
        for level in ("replica", "fsync+replica"):
            check_redis(server.place, level)
            stores = await opened(server, level)
            await stores.logs.append(a_batch(f"to-the-{level}"))
            assert replica.ask("XLEN", stores.logs._live) == b"1"
            await stores.close()
        replica.kill()
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.3)
        stores = await opened(server, "replica")
        with pytest.raises(StoreUnavailable, match="did not confirm"):
            await stores.logs.append(a_batch())
        await stores.close()


async def until(is_so: Any) -> None:
    from tests.test_storage_faults import pause

    for _ in range(200):
        if is_so():
            return
        await pause(0.05)
    raise AssertionError("it never came to be")


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_that_cannot_be_had_is_refused(level: str) -> None:
    """Before anything starts, with the reason."""
    with valkey("--appendonly", "no") as server:
        if level == "append":
            check_redis(server.place, level)
            return
        reason = "it has no replica" if level == "replica" else "it keeps no append-only file"
        with pytest.raises(NotDurable, match=f"--durability {level.replace('+', '.')} cannot be had .*{reason}"):
            check_redis(server.place, level)


def test_an_old_server_is_told_from_others() -> None:
    """WAITAOF came with Redis 7.2."""

    def ask(*words: str) -> Any:
        raise RuntimeError("ERR unknown command 'WAITAOF', with args beginning with: '1' '0'")

    with pytest.raises(NotDurable, match=r"it has no WAITAOF, which came with Redis 7\.2"):
        module.check_durability("fsync", ask)
