"""The Redis stream sink, on a real Valkey."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor

from osqtwist.sinkinterfaces import BadSinkSetting, Outcome, SinkUnavailable
from osqtwist.sinks import redis_stream
from osqtwist.sinks.redis_stream import RedisStreamKind, RedisStreamSettings
from tests.sinkcontract import CONTRACT, Promise, an_event, name_of, some_events
from tests.stores import RealValkey, valkey

pytestmark = pytest.mark.slow


@attrs.define
class Stream:
    """A stream on a Valkey of its own; see :class:`tests.sinkcontract.Destination`."""

    server: RealValkey

    def make(self, **more: Any) -> Any:
        url = f"unix:{self.server.place.path}"
        settings = RedisStreamSettings(**({"url": url, "stream": "osquery", "timeout": 0.5} | more))
        return RedisStreamKind().make(reactor, "copy", settings)

    async def received(self) -> Sequence[bytes]:
        return [entry[entry.index(b"d") + 1] for entry in self.entries()]

    def entries(self) -> list[list[bytes]]:
        return [fields for _, fields in self.server.ask("XRANGE", "osquery", "-", "+")]

    async def take_away(self) -> None:
        self.server.kill()

    async def give_back(self) -> None:
        self.server.start()


@pytest.fixture
def destination() -> Iterator[Stream]:
    with valkey() as server:
        yield Stream(server)


@pytest.mark.parametrize("promise", CONTRACT, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_it_keeps_the_contract(promise: Promise, destination: Stream) -> None:
    await promise(destination)


@pytest_twisted.ensureDeferred
async def test_an_entry_says_which_event_of_which_node_it_is(destination: Stream) -> None:
    """The fields are d, id and n."""
    sink = destination.make()
    await sink.open()
    event = an_event()
    await sink.deliver([event])
    await sink.close()
    wanted = [b"d", event.document, b"id", event.event_id.encode(), b"n", b"n-1"]
    assert destination.entries() == [wanted]


@pytest_twisted.ensureDeferred
async def test_a_stream_is_kept_short(destination: Stream) -> None:
    """About max_length entries are kept, the newest; with 0 all of them."""
    short, whole = destination.make(max_length=100), destination.make(max_length=0, stream="whole")
    for sink in (short, whole):
        await sink.open()
        await sink.deliver(some_events(1500))
        await sink.close()
    received = await destination.received()
    assert 100 <= len(received) <= 300
    assert received[-1] == some_events(1500)[-1].document
    assert int(destination.server.ask("XLEN", "whole")) == 1500


@pytest_twisted.ensureDeferred
async def test_a_full_server_takes_nothing_of_a_delivery(destination: Stream) -> None:
    """Out of memory: SinkUnavailable, no entry of the delivery is there, and it goes on when there is room."""
    sink = destination.make()
    await sink.open()
    destination.server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(SinkUnavailable, match=r"redis-stream unix:.*takes nothing new.*OOM"):
        await sink.deliver(some_events(5))
    destination.server.ask("CONFIG", "SET", "maxmemory", "0")
    assert destination.entries() == []
    assert await sink.deliver(some_events(5)) == Outcome()
    await sink.close()
    assert len(destination.entries()) == 5


@pytest_twisted.ensureDeferred
async def test_what_is_no_stream_is_said(destination: Stream) -> None:
    """A key that holds something else."""
    destination.server.ask("SET", "osquery", "text")
    sink = destination.make()
    await sink.open()
    with pytest.raises(SinkUnavailable, match=r"stream osquery: WRONGTYPE"):
        await sink.deliver(some_events(2))
    await sink.close()


@pytest_twisted.ensureDeferred
async def test_a_failure_half_way_keeps_what_is_there(destination: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a delivery of several transactions the rest is tried again."""
    monkeypatch.setattr(redis_stream, "_AT_ONCE", 2)
    sink = destination.make()
    await sink.open()
    add, count = type(sink)._add, 0

    async def add_until_full(self: Any, *args: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            destination.server.ask("CONFIG", "SET", "maxmemory", "1")
        await add(self, *args)

    monkeypatch.setattr(type(sink), "_add", add_until_full)
    outcome = await sink.deliver(some_events(5))
    await sink.close()
    assert (outcome.again, outcome.refused) == ((2, 3, 4), ())
    assert "OOM" in outcome.trouble
    assert await destination.received() == [event.document for event in some_events(2)]


@pytest_twisted.ensureDeferred
async def test_a_server_that_hangs_costs_the_timeout(destination: Stream) -> None:
    """A delivery ends in time, and the next one arrives when the server is well again."""
    sink = destination.make()
    await sink.open()
    destination.server.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(SinkUnavailable, match="does not answer in time"):
        await sink.deliver(some_events(1))
    assert 0.4 < time.monotonic() - began < 2
    destination.server.signal(signal.SIGCONT)
    assert await sink.deliver(some_events(1, 5)) == Outcome()
    await sink.close()


@pytest_twisted.ensureDeferred
async def test_a_password_from_a_file(destination: Stream, tmp_path: Path) -> None:
    """It is read at each opening, and no message repeats it."""
    destination.server.ask("ACL", "SETUSER", "writer", "on", ">rose", "%W~osquery", "+xadd", "+multi", "+exec", "+ping")
    secret = tmp_path / "password"
    sink = destination.make(username="writer", password_file=str(secret))
    with pytest.raises(SinkUnavailable, match=f"password_file {secret}: No such file"):
        await sink.open()
    secret.write_text("tulip\n")
    with pytest.raises(SinkUnavailable, match="WRONGPASS") as caught:
        await sink.open()
    assert "tulip" not in str(caught.value)
    secret.write_text("rose\n")
    await sink.open()
    assert await sink.deliver(some_events(1)) == Outcome()
    await sink.close()
    assert "rose" not in repr(sink)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"url": ""}, "url is missing"),
        ({"url": "http://x"}, "url must begin with redis://"),
        ({"url": "redis://u:rose/@x/"}, "url: "),
        ({"url": "rediss://x?ca=/nonexistent"}, "url: there is no file /nonexistent"),
        ({"url": "redis://:rose@x", "password_file": "/x"}, "password_file is given"),
        ({"username": "u"}, "username is given"),
        ({"stream": ""}, "stream is missing"),
        ({"max_length": -1}, "max_length is -1"),
        ({"timeout": 0.0}, "timeout is 0"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], text: str) -> None:
    """One sentence that names the key, and never a password."""
    given = RedisStreamSettings(**({"url": "redis://x", "stream": "s"} | settings))
    with pytest.raises(BadSinkSetting, match=f"^{text}") as caught:
        RedisStreamKind().make(reactor, "copy", given)
    assert "rose" not in str(caught.value) + repr(given)
