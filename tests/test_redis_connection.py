"""The connection to Redis: what callers see of a server that refuses, hangs, forgets or moves."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import txredisapi
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, globalLogPublisher

from osqtwist.interfaces import StoreFull, StoreUnavailable
from osqtwist.storage import redis_connection, redis_signals
from osqtwist.storage.circuit import AT_ONCE_ON_TRIAL
from osqtwist.storage.redis_connection import Login
from osqtwist.storage.redis_url import RedisPlace, check_redis
from tests.stores import RealValkey, valkey
from tests.test_storage import NODE, a_batch, a_node
from tests.test_storage_faults import until_it_answers

pytestmark = pytest.mark.slow

PASSWORD = "hunter2-secret"


@pytest.fixture
def server() -> Iterator[RealValkey]:
    with valkey() as running:
        yield running


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What is logged, as text."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        lines.append(str(event.get("log_format", "")).format(**event) if event.get("log_format") else "")

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


async def pause(seconds: float = 0.05) -> None:
    await deferLater(reactor, seconds)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_scripts_that_the_server_forgot_are_sent_again(server: RealValkey) -> None:
    """SCRIPT FLUSH by hand costs nobody an error."""
    stores = server.stores(reactor)
    await stores.ready()
    await stores.logs.append(a_batch())
    server.ask("SCRIPT", "FLUSH")
    calls = [Deferred.fromCoroutine(stores.logs.append(a_batch())) for _ in range(5)]
    assert all(good for good, _ in await DeferredList(calls, consumeErrors=True))
    assert (await stores.logs.size()).batches == 6
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_a_wrong_password_is_told_of_and_never_shown(server: RealValkey, logged: list[str]) -> None:
    """ready() fails with what Redis says; no log line has the password either."""
    server.ask("CONFIG", "SET", "requirepass", "the-right-one")
    stores = server.stores(reactor, attrs.evolve(server.place, login=Login("", PASSWORD)), ready_within=0.3)
    with pytest.raises(StoreUnavailable, match="WRONGPASS") as caught:
        await stores.ready()
    await stores.close()
    right = server.stores(reactor, attrs.evolve(server.place, login=Login("default", "the-right-one")))
    await right.ready()
    await right.ping()
    await right.close()
    assert any("WRONGPASS" in line for line in logged)
    assert PASSWORD not in "".join([*logged, str(caught.value), repr(stores._redis)])


@pytest_twisted.ensureDeferred
async def test_a_server_that_repeats_the_password_is_not_quoted(logged: list[str]) -> None:
    """A server without AUTH answers with its arguments; they stop here."""
    with valkey("--rename-command", "AUTH", "") as server:
        stores = server.stores(reactor, attrs.evolve(server.place, login=Login("", PASSWORD)), ready_within=0.3)
        with pytest.raises(StoreUnavailable, match="unknown command") as caught:
            await stores.ready()
        await stores.close()
    assert PASSWORD not in "".join([*logged, str(caught.value)])


@pytest_twisted.ensureDeferred
async def test_databases_are_apart(server: RealValkey) -> None:
    """The number in the URL is used, also after a reconnect; one that does not exist is told of."""
    stores = server.stores(reactor, attrs.evolve(server.place, login=Login(database=3)))
    await stores.ready()
    await stores.nodes.record(a_node())
    server.ask("CLIENT", "KILL", "TYPE", "normal")
    await until_it_answers(stores)
    assert await stores.nodes.get(NODE) is not None
    assert server.ask("DBSIZE") == b"0"
    await stores.close()
    missing = server.stores(reactor, attrs.evolve(server.place, login=Login(database=99)), ready_within=0.3)
    with pytest.raises(StoreUnavailable, match="out of range"):
        await missing.ready()
    await missing.close()


@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_write_to_its_disk_is_full_and_not_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MISCONF, which Redis answers to PING too: reads work, writes say StoreFull, and new connections are made."""
    monkeypatch.setattr(redis_signals, "PROBE_INTERVAL", 0.1)
    data = tmp_path / "data"
    data.mkdir()
    with valkey("--dir", str(data), "--appendonly", "no", "--save", "3600 1") as server:
        stores = server.stores(reactor)
        await stores.ready()
        await stores.nodes.record(a_node())
        shutil.rmtree(data)
        server.ask("BGSAVE")
        deadline = time.monotonic() + 5
        while b"rdb_last_bgsave_status:err" not in server.ask("INFO", "persistence"):
            assert time.monotonic() < deadline
            await pause()
        with pytest.raises(StoreFull, match="MISCONF"):
            await stores.nodes.record(a_node())
        assert await stores.nodes.get(NODE) is not None
        await stores.ping()
        await pause(0.3)
        server.ask("CLIENT", "KILL", "TYPE", "normal")
        await until_it_answers(stores)
        assert await stores.nodes.get(NODE) is not None
        assert stores.signals._probe.running
        await stores.close()


@pytest_twisted.ensureDeferred
async def test_a_server_that_hangs_is_told_of_in_words(server: RealValkey) -> None:
    """A connection that is never answered gives a sentence, and none of Python's tuples."""
    stores = server.stores(reactor, ready_within=0.5)
    stores._redis.deadline = 0.2
    server.signal(signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match="in time"):
        await stores.ready()
    server.signal(signal.SIGCONT)
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_too_many_commands_under_way_are_refused_at_once(
    server: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that falls behind does not fill this process's memory; those it has are still answered."""
    monkeypatch.setattr(redis_connection, "MAX_IN_FLIGHT", 20)
    stores = server.stores(reactor)
    await stores.ready()
    server.signal(signal.SIGSTOP)
    calls = [Deferred.fromCoroutine(stores.nodes.get(NODE)) for _ in range(30)]
    assert sum(call.called for call in calls) == 10
    server.signal(signal.SIGCONT)
    outcomes = await DeferredList(calls, consumeErrors=True)
    assert [good for good, _ in outcomes] == [True] * 20 + [False] * 10
    assert await stores.nodes.get(NODE) is None
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_the_count_of_commands_under_way_comes_back_to_nothing(server: RealValkey) -> None:
    """Whatever becomes of a command: an answer, an error, a cancelled caller, text that cannot be sent."""
    stores = server.stores(reactor)
    await stores.ready()
    await stores.ping()
    with pytest.raises(Exception, match="unknown command"):
        await stores._redis.execute("NONSENSE")
    with pytest.raises(txredisapi.InvalidData):
        await stores.nodes.find("\ud800", 1)
    call = Deferred.fromCoroutine(stores.nodes.get(NODE))
    call.cancel()
    with pytest.raises(CancelledError):
        await call
    assert stores._redis._in_flight == 0
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_close_fails_what_is_under_way(server: RealValkey) -> None:
    """And what is asked after it, at once; close() twice is no error."""
    stores = server.stores(reactor)
    await stores.ready()
    server.signal(signal.SIGSTOP)
    calls = [Deferred.fromCoroutine(stores.nodes.get(NODE)) for _ in range(3)]
    began = time.monotonic()
    await stores.close()
    outcomes = await DeferredList(calls, consumeErrors=True)
    assert all(not good and failure.check(StoreUnavailable) for good, failure in outcomes)
    with pytest.raises(StoreUnavailable):
        await stores.ping()
    await stores.close()
    assert time.monotonic() - began < 1.0
    server.signal(signal.SIGCONT)


@pytest_twisted.ensureDeferred
async def test_close_while_connecting_leaves_nothing_and_logs_nothing(server: RealValkey, logged: list[str]) -> None:
    """Whoever waits for a connection is told; an end in order is no trouble to log."""
    stores = server.stores(reactor)
    waiting = Deferred.fromCoroutine(stores.ready())
    await stores.close()
    with pytest.raises(StoreUnavailable):
        await waiting
    host = server.stores(reactor, RedisPlace("redis", (("localhost", 1),), "", Login()))
    waiting = Deferred.fromCoroutine(host.ready())
    await host.close()
    with pytest.raises(StoreUnavailable):
        await waiting
    await pause()
    assert not [line for line in logged if "does not answer" in line]


@pytest_twisted.ensureDeferred
async def test_trouble_is_logged_once_and_its_end_too(server: RealValkey, logged: list[str]) -> None:
    """Not once for each attempt."""
    stores = server.stores(reactor)
    await stores.ready()
    server.kill()
    await pause(0.6)
    server.start()
    await until_it_answers(stores)
    deadline = time.monotonic() + 5
    while sum("answers again" in line for line in logged) < 2:
        assert time.monotonic() < deadline
        await pause()
    assert sum("does not answer" in line for line in logged) == 2  # One for each connection.
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_a_subscriber_that_fails_harms_no_other(server: RealValkey) -> None:
    """Its failure is logged, the next subscriber hears, and so does everybody the next time."""
    stores = server.stores(reactor)
    await stores.ready()
    heard: list[str] = []

    def bad(payload: str) -> None:
        raise RuntimeError("a bug of the test")

    leaving = [stores.signals.subscribe("a", bad), stores.signals.subscribe("a", heard.append)]
    await pause()
    for payload in ("x", "y"):
        await stores.signals.publish("a", payload)
    await pause()
    assert heard == ["x", "y"]
    for leave in leaving:
        leave()
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_signals_reach_other_processes_of_the_same_prefix_only(server: RealValkey) -> None:
    """Two servers on one Redis wake each other; a third with another prefix hears nothing."""
    one, other = server.stores(reactor), server.stores(reactor)
    same = server.stores(reactor, prefix=one.signals.prefix)
    heard: list[tuple[str, str]] = []
    leaving = []
    for name, stores in (("one", one), ("same", same), ("other", other)):
        await stores.ready()
        leaving.append(stores.signals.subscribe("a", lambda payload, name=name: heard.append((name, payload))))
    await pause()
    await one.signals.publish("a", "é")
    await pause(0.1)
    assert sorted(heard) == [("one", "é"), ("same", "é")]
    for leave, stores in zip(leaving, (one, same, other), strict=True):
        leave()
        await stores.close()


@pytest_twisted.ensureDeferred
async def test_a_listener_that_hangs_is_found_and_replaced(server: RealValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that only listens gives no other sign of life than the answer to a look."""
    monkeypatch.setattr(redis_signals, "PROBE_INTERVAL", 0.1)
    stores = server.stores(reactor)
    stores._listener.deadline = 0.3
    await stores.ready()
    heard: list[str] = []
    leave = stores.signals.subscribe("a", heard.append)
    await pause()
    server.signal(signal.SIGSTOP)
    await pause(0.8)
    server.signal(signal.SIGCONT)
    deadline = time.monotonic() + 8
    while not heard and time.monotonic() < deadline:
        await pause()
    assert heard == [""]
    leave()
    await stores.close()


@pytest_twisted.ensureDeferred
async def test_a_server_that_answers_only_to_a_ping_is_not_besieged(server: RealValkey) -> None:
    """Its connection is made, but few calls wait for it; once one is answered all go through again."""
    stores = server.stores(reactor)
    redis = stores._redis
    redis.deadline = 0.4
    await stores.ready()
    server.ask("CLIENT", "PAUSE", "2000", "WRITE")
    with pytest.raises(StoreUnavailable, match="in time"):
        await stores.nodes.record(a_node())
    await redis.connected(2.0)
    calls = [Deferred.fromCoroutine(stores.nodes.record(a_node(number))) for number in range(20)]
    assert sum(call.called for call in calls) == 20 - AT_ONCE_ON_TRIAL
    outcomes = await DeferredList(calls, consumeErrors=True)
    assert all(value.check(StoreUnavailable) for _, value in outcomes)
    server.ask("CLIENT", "UNPAUSE")
    await redis.connected(3.0)
    assert redis.circuit.state == "on trial"
    await stores.nodes.record(a_node())
    assert redis.circuit.state == "closed"
    await stores.close()


# -- sentinels


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[RealValkey, int]]:
    """A master and the port of a sentinel that watches it."""
    port, watch_port = _free_port(), _free_port()
    with valkey("--bind", "127.0.0.1", "--port", str(port)) as master:
        configuration = tmp_path / "sentinel.conf"
        configuration.write_text(
            f"port {watch_port}\nbind 127.0.0.1\nprotected-mode no\ndir {tmp_path}\nlogfile {tmp_path}/log\n"
            f"sentinel monitor main 127.0.0.1 {port} 1\n"
        )
        with valkey(str(configuration), "--sentinel", program_only=True) as sentinel:
            place = RedisPlace("sentinel", (("127.0.0.1", watch_port),), "", Login(), "main")
            deadline = time.monotonic() + 10
            while True:
                try:
                    check_redis(place)
                except StoreUnavailable:
                    assert time.monotonic() < deadline, "the sentinel did not start"
                    time.sleep(0.02)
                else:
                    break
            assert sentinel.process is not None
            yield master, watch_port


@pytest_twisted.ensureDeferred
async def test_the_master_is_found_through_the_first_sentinel_that_knows_it(watched: Any) -> None:
    """One that is away and one that is no sentinel are passed over; a name that nobody knows is told of."""
    master, watch_port = watched
    hosts = (
        ("127.0.0.1", _free_port()),
        ("127.0.0.1", int(master.ask("CONFIG", "GET", "port")[1])),
        ("127.0.0.1", watch_port),
    )
    stores = master.stores(reactor, RedisPlace("sentinel", hosts, "", Login(), "main"))
    await stores.ready()
    await stores.nodes.record(a_node())
    assert await stores.nodes.get(NODE) is not None
    assert master.ask("DBSIZE") != b"0"
    await stores.close()
    unknown = RedisPlace("sentinel", (("127.0.0.1", watch_port),), "", Login(), "nobody")
    stores = master.stores(reactor, unknown, ready_within=0.5)
    with pytest.raises(StoreUnavailable, match="know no master 'nobody'"):
        await stores.ready()
    await stores.close()
    with pytest.raises(StoreUnavailable, match="know no master 'nobody'"):
        check_redis(unknown)


@pytest_twisted.ensureDeferred
async def test_a_master_that_became_a_replica_is_left(watched: Any) -> None:
    """A write to it fails once; then the master is looked for, and one that is none is passed over."""
    master, watch_port = watched
    stores = master.stores(reactor, RedisPlace("sentinel", (("127.0.0.1", watch_port),), "", Login(), "main"))
    await stores.ready()
    master.ask("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreFull, match="READONLY"):
        await stores.nodes.record(a_node())
    with pytest.raises(StoreUnavailable, match="replica"):
        await stores.nodes.get(NODE)
    await pause(0.3)
    with pytest.raises(StoreUnavailable, match="is a replica"):
        await stores.nodes.get(NODE)
    master.ask("REPLICAOF", "NO", "ONE")
    await until_it_answers(stores)
    await stores.nodes.record(a_node())
    await stores.close()
