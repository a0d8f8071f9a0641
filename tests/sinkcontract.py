"""
What every log sink keeps to, whatever it writes to.

A test module makes a :class:`Destination` for its sink and runs every function of :data:`CONTRACT` on it::

    @pytest.mark.parametrize("promise", CONTRACT, ids=name_of)
    @pytest_twisted.ensureDeferred
    async def test_it_keeps_the_contract(promise: Promise, destination: MyDestination) -> None:
        await promise(destination)
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import pytest
from twisted.internet.defer import Deferred

from osqtwist.logbatch import event_id
from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import Outcome, SinkUnavailable

ODD = [
    {"name": "quotes", "columns": {"path": 'C:\\Program Files\\"x"', "text": "a\tb\nc\r\n\u0000\u001f"}},
    {"name": "letters", "columns": {"text": "Grüße 你好 🦉 \u2028\u2029 \ufeff"}},
    {"name": "empty", "columns": {}},
    {"name": "deep", "columns": {"a": [[[{"b": None}]]]}},
    {"name": "syslog", "columns": {"text": "<34>1 2003-10-11T22:14:15.003Z x y - - - %s{}$(){{.}}"}},
]


class Destination(Protocol):
    """What a sink's test knows of where its sink writes to."""

    def make(self) -> Any:
        """A new sink that writes to it."""

    async def received(self) -> Sequence[bytes]:
        """The documents that are there, in order of arrival."""

    async def take_away(self) -> None:
        """Make it unavailable: nothing listens any more, or nothing can be written."""

    async def give_back(self) -> None:
        """Make it available again; what it had is still in :meth:`received`."""


Promise = Callable[[Any], Awaitable[None]]


def an_event(number: int = 0, **more: Any) -> LogEvent:
    """An event; numbers give different ones."""
    line = {"name": "pack_osquery_uptime", "hostIdentifier": f"host-{number}", "unixTime": 1790000000 + number} | more
    line["osqtwist"] = {"node": "n-1", "identity": "node-1"}
    document = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode()
    return LogEvent(event_id("n-1", "digest", number), "n-1", "node-1", "result", 1790000100.5 + number, document)


def some_events(count: int, first: int = 0) -> list[LogEvent]:
    return [an_event(first + number) for number in range(count)]


def read(documents: Sequence[bytes]) -> list[Any]:
    """Documents as what they say: a destination may store JSON in another form."""
    return [json.loads(document) for document in documents]


async def everything_arrives_once_and_in_order(destination: Any) -> None:
    """All documents of several deliveries, each once, saying what they said."""
    sink = destination.make()
    await sink.open()
    try:
        events = some_events(250)
        for first in range(0, 250, 100):
            assert await sink.deliver(events[first : first + 100]) == Outcome()
    finally:
        await sink.close()
    assert read(await destination.received()) == read([event.document for event in events])


async def odd_documents_survive(destination: Any) -> None:
    """Quotes, control characters, other alphabets, line separators, and what looks like a format."""
    sink = destination.make()
    await sink.open()
    try:
        events = [an_event(number, **odd) for number, odd in enumerate(ODD)]
        assert await sink.deliver(events) == Outcome()
    finally:
        await sink.close()
    assert read(await destination.received()) == read([event.document for event in events])


async def what_is_away_is_said_and_comes_back(destination: Any) -> None:
    """SinkUnavailable while it is away, however often; then everything goes on without a new sink."""
    sink = destination.make()
    await sink.open()
    try:
        first, second = some_events(3), some_events(3, 10)
        assert await sink.deliver(first) == Outcome()
        await destination.take_away()
        for _ in range(2):
            with pytest.raises(SinkUnavailable) as caught:
                await sink.deliver(second)
            assert str(caught.value)
            assert "\n" not in str(caught.value)
        await destination.give_back()
        assert await sink.deliver(second) == Outcome()
    finally:
        await sink.close()
    found = read(await destination.received())
    wanted = read([event.document for event in (*first, *second)])
    # What was sent while it went away may be there twice, and nothing may be missing.
    assert [each for number, each in enumerate(found) if each not in found[:number]] == wanted


async def a_sink_may_start_before_its_destination(destination: Any) -> None:
    """Opening fails, or the first delivery does; later both work."""
    await destination.take_away()
    sink = destination.make()
    try:
        with pytest.raises(SinkUnavailable):
            await sink.open()
            await sink.deliver(some_events(1))
        await destination.give_back()
        await sink.open()
        assert await sink.deliver(some_events(2)) == Outcome()
    finally:
        await sink.close()
    assert read(await destination.received())[-2:] == read([event.document for event in some_events(2)])


async def a_cancelled_delivery_leaves_a_sink_that_works(destination: Any) -> None:
    """Whether it arrived is unknown; the next delivery does."""
    sink = destination.make()
    await sink.open()
    try:
        under_way = Deferred.fromCoroutine(sink.deliver(some_events(2)))
        under_way.addErrback(lambda failure: None)
        under_way.cancel()
        assert await sink.deliver(some_events(3)) == Outcome()
    finally:
        await sink.close()
    found = read(await destination.received())
    assert all(document in found for document in read([event.document for event in some_events(3)]))


async def closing_needs_no_opening(destination: Any) -> None:
    """A sink that was never opened closes without a word."""
    await destination.make().close()


CONTRACT: list[Promise] = [
    everything_arrives_once_and_in_order,
    odd_documents_survive,
    what_is_away_is_said_and_comes_back,
    a_sink_may_start_before_its_destination,
    a_cancelled_delivery_leaves_a_sink_that_works,
    closing_needs_no_opening,
]


def name_of(promise: Promise) -> str:
    """The name of a promise, for pytest."""
    return getattr(promise, "__name__", "")
