"""
The log buffer over several Redis servers: each node's lines on one of them, all else on the main one.

Which server a node's lines go to follows from its id alone (rendezvous hashing: the server whose hash with the id is
highest), so every process agrees without asking, the order of the servers does not matter, and adding or removing one
of N moves a share of 1/N of the nodes.  A server that is away stops its own nodes and nobody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from osqtwist.interfaces import ISignals, IStores, StoreFull, StoreUnavailable
from osqtwist.logbatch import LogBatch, Post
from osqtwist.loginterfaces import (
    Appended,
    BufferSize,
    ILogBuffer,
    ISinkLevers,
    LogServer,
    NoSuchSink,
    SinkLag,
    SinkReport,
    StoredBatch,
)

_T = TypeVar("_T")
_log = Logger()
_SHARED_TOPICS = ("logs", "sinks")


@attrs.frozen
class Shard:
    """
    One server of the log buffer.

    :ivar name: where it is, without credentials; the same in every process.
    :ivar is_draining: whether it takes no more lines, and only gives what it has.
    """

    name: str
    stores: Any
    is_draining: bool = False

    @property
    def mark(self) -> str:
        """What stands behind its ids."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:6]


def shard_of(node_id: str, names: Sequence[str]) -> str:
    """The name of the server that a node's lines go to."""
    return max(names, key=lambda name: (hashlib.blake2b(f"{name}\n{node_id}".encode(), digest_size=8).digest(), name))


async def _where_it_can(shards: Sequence[Shard], work: Callable[[Shard], Awaitable[_T]]) -> list[tuple[Shard, _T]]:
    """What the servers answer; one that is away is left out, unless all are."""
    found: list[tuple[Shard, _T]] = []
    trouble: StoreUnavailable | StoreFull | None = None
    for shard in shards:
        try:
            found.append((shard, await work(shard)))
        except (StoreUnavailable, StoreFull) as problem:
            trouble = problem
    if trouble is not None and not found:
        raise trouble
    return found


async def _first_that_can(shards: Sequence[Shard], work: Callable[[Shard], Awaitable[object]]) -> None:
    """Fire when one server has answered; the others are asked only if those before them are away."""
    for shard in shards[:-1]:
        try:
            await work(shard)
        except (StoreUnavailable, StoreFull):
            continue
        return
    await work(shards[-1])


async def _everywhere(shards: Sequence[Shard], work: Callable[[Shard], Awaitable[_T]]) -> list[_T]:
    """
    What the servers answer, all of them.

    :raise StoreUnavailable: one is away; the others have done it by then.
    """
    found: list[_T] = []
    trouble: list[str] = []
    for shard in shards:
        try:
            found.append(await work(shard))
        except (StoreUnavailable, StoreFull) as problem:
            trouble.append(f"{shard.name}: {problem}")
    if trouble:
        raise StoreUnavailable("; ".join(trouble))
    return found


@attrs.frozen
class _Cursor:
    """A place in several streams: how far each is read."""

    places: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> _Cursor:
        pairs = [part.rpartition("@") for part in text.split(",") if part]
        return cls({mark: place for place, _, mark in pairs})

    def after(self, stored: StoredBatch, shard: Shard) -> _Cursor:
        return _Cursor({**self.places, shard.mark: stored.batch_id})

    def __str__(self) -> str:
        return ",".join(f"{place}@{mark}" for mark, place in sorted(self.places.items()))


@implementer(ILogBuffer)
@attrs.frozen
class ShardedLogBuffer:
    """
    See :class:`osqtwist.loginterfaces.ILogBuffer`.

    What is read comes merged by time, and its ids name a place in every stream.
    """

    shards: Sequence[Shard]
    _by_name: dict[str, Shard] = attrs.field(init=False)
    _names: list[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {shard.name: shard for shard in self.shards})
        object.__setattr__(self, "_names", [shard.name for shard in self.shards if not shard.is_draining])

    async def append(self, batch: LogBatch, post: Post | None = None) -> Appended:
        """On the server of the node."""
        shard = self._by_name[shard_of(batch.node_id, self._names)]
        appended: Appended = await shard.stores.logs.append(batch, post)
        if not appended.batch_id:
            return appended
        return attrs.evolve(appended, batch_id=f"{appended.batch_id}@{shard.mark}")

    async def read(self, after: str, count: int) -> list[StoredBatch]:
        """A page of each, merged."""
        return await self._page(after, count, lambda shard, place: shard.stores.logs.read(place, count))

    async def newest(self, count: int) -> list[StoredBatch]:
        """Those of each, merged."""
        pages = await _where_it_can(self.shards, lambda shard: shard.stores.logs.newest(count))
        every = [stored for _, page in pages for stored in page]
        return sorted(every, key=lambda stored: stored.batch.received_at, reverse=True)[:count]

    async def last_id(self) -> str:
        """The newest of each."""
        newest = await _where_it_can(self.shards, lambda shard: shard.stores.logs.last_id())
        return str(_Cursor({shard.mark: place for shard, place in newest if place}))

    async def dead_letters(self, after: str, count: int) -> list[StoredBatch]:
        """A page of each, merged."""
        return await self._page(after, count, lambda shard, place: shard.stores.logs.dead_letters(place, count))

    async def size(self) -> BufferSize:
        """The sums; it is shut if one is."""
        answers = await _where_it_can(self.shards, lambda shard: shard.stores.logs.size())
        sizes: list[BufferSize] = [size for _, size in answers]
        there = {shard.name for shard, _ in answers}
        return BufferSize(
            sum(size.batches for size in sizes),
            sum(size.bytes for size in sizes),
            sum(size.budget_bytes for shard, size in answers if not shard.is_draining),
            sum(size.dead_letters for size in sizes),
            any(size.is_shut for size in sizes),
            sum(size.dead_bytes for size in sizes),
            sum(size.dropped_dead_letters for size in sizes),
            tuple(shard.name for shard in self.shards if shard.name not in there),
        )

    async def trim(self, before: float, keep_bytes: int, limit: int) -> int:
        """Each, with its share of the bytes to keep."""
        share = keep_bytes // len(self._names)
        work = await _where_it_can(self.shards, lambda shard: shard.stores.logs.trim(before, share, limit))
        return sum(deleted for _, deleted in work)

    async def _page(
        self, after: str, count: int, read: Callable[[Shard, str], Awaitable[list[StoredBatch]]]
    ) -> list[StoredBatch]:
        cursor = _Cursor.parse(after)
        pages = await _where_it_can(self.shards, lambda shard: read(shard, cursor.places.get(shard.mark, "")))
        tagged = [[(shard, stored) for stored in page] for shard, page in pages]
        found = []
        for shard, stored in islice(merge(*tagged, key=lambda each: each[1].batch.received_at), count):
            cursor = cursor.after(stored, shard)
            found.append(StoredBatch(str(cursor), stored.batch))
        return found


@implementer(ISinkLevers)
@attrs.frozen
class ShardedSinkLevers:
    """
    See :class:`osqtwist.loginterfaces.ISinkLevers`: what operators see of sinks, and do to them, over all servers.

    Delivery itself serves each server by itself.
    """

    shards: Sequence[Shard]

    async def names(self) -> list[str]:
        """Those of any server."""
        found = await _where_it_can(self.shards, lambda shard: shard.stores.sinks.names())
        return sorted({name for _, names in found for name in names})

    async def dead_letters(self, sink: str, after: str, count: int) -> list[StoredBatch]:
        """Server after server; one that is away is left out, unless all are."""
        place, _, mark = after.rpartition("@")
        first = next((number for number, shard in enumerate(self.shards) if shard.mark == mark), 0)

        pages = await _where_it_can(
            self.shards[first:],
            lambda shard: shard.stores.sinks.dead_letters(sink, place if shard.mark == mark else "", count),
        )
        for shard, page in pages:
            if page:
                return [StoredBatch(f"{stored.batch_id}@{shard.mark}", stored.batch) for stored in page]
        return []

    async def lag(self, sinks: Sequence[str]) -> dict[str, SinkLag]:
        """The sums."""
        total: dict[str, SinkLag] = {}
        for _, lags in await _where_it_can(self.shards, lambda shard: shard.stores.sinks.lag(sinks)):
            for sink, lag in lags.items():
                total[sink] = total.get(sink, SinkLag()) + lag
        return total

    async def rewind(self, sink: str, batch_id: str, moment: float) -> None:
        """On the servers that the id names a place in, or on each."""
        if not batch_id:
            await _everywhere(self.shards, lambda shard: self._rewind(shard, sink, moment))
            if sink not in await self.names():
                raise NoSuchSink(f"there is no sink {sink!r}")
            return
        by_mark = {shard.mark: shard for shard in self.shards}
        places = _Cursor.parse(batch_id).places
        if not places or not set(places) <= set(by_mark):
            marks = ", ".join(f"@{shard.mark} ({shard.name})" for shard in self.shards)
            raise ValueError(f"{batch_id[:64]!r} does not say which server the batch is on; it ends in one of {marks}")
        named = [by_mark[mark] for mark in places]
        await _everywhere(named, lambda shard: shard.stores.sinks.rewind(sink, places[shard.mark], moment))

    async def _rewind(self, shard: Shard, sink: str, moment: float) -> None:
        # A server that was added later may not know a sink that is served no more.
        if sink in await shard.stores.sinks.names():
            await shard.stores.sinks.rewind(sink, "", moment)

    async def forget(self, sink: str) -> bool:
        """On each."""
        return any(await _everywhere(self.shards, lambda shard: shard.stores.sinks.forget(sink)))

    async def pause(self, sink: str, is_paused: bool) -> None:
        """On each."""
        await _everywhere(self.shards, lambda shard: shard.stores.sinks.pause(sink, is_paused))

    async def paused(self) -> frozenset[str]:
        """Those that are on any."""
        found = await _where_it_can(self.shards, lambda shard: shard.stores.sinks.paused())
        return frozenset(name for _, names in found for name in names)

    async def ask_again(self, sink: str) -> None:
        """On each."""
        await _everywhere(self.shards, lambda shard: shard.stores.sinks.ask_again(sink))

    async def reports(self) -> list[SinkReport]:
        """All of them: a process gives one for each server."""
        found = await _where_it_can(self.shards, lambda shard: shard.stores.sinks.reports())
        return [report for _, reports in found for report in reports]


@implementer(ISignals)
@attrs.frozen
class ShardedSignals:
    """See :class:`osqtwist.interfaces.ISignals`: those about logs and sinks come from the servers that have them."""

    main: Any
    shards: Sequence[Shard]

    async def publish(self, topic: str, payload: str = "") -> None:
        """On the main server."""
        await self.main.publish(topic, payload)

    def subscribe(self, topic: str, look: Callable[[str], None]) -> Callable[[], None]:
        """To one server or to all."""
        if topic not in _SHARED_TOPICS:
            forget: Callable[[], None] = self.main.subscribe(topic, look)
            return forget
        ends = [shard.stores.signals.subscribe(topic, look) for shard in self.shards]

        def forget_all() -> None:
            for end in ends:
                end()

        return forget_all


@implementer(IStores)
class ShardedStores:
    """
    All stores of one server whose log buffer is split.

    :param shards: at least one that is not draining.
    """

    def __init__(self, main: Any, shards: Sequence[Shard]) -> None:
        self._main, self.shards = main, sorted(shards, key=lambda shard: shard.name)
        self._connecting: list[Deferred[None]] = []
        self.log_servers = [
            LogServer(shard.name, shard.stores.logs, shard.stores.sinks, shard.is_draining) for shard in self.shards
        ]
        self.logs = ShardedLogBuffer(self.shards)
        self.sinks = ShardedSinkLevers(self.shards)
        self.signals = ShardedSignals(main.signals, self.shards)
        self.nodes, self.queries, self.carves = main.nodes, main.queries, main.carves
        self.secrets, self.pending = main.secrets, main.pending
        self.rollouts, self.saved_queries = main.rollouts, main.saved_queries
        self.audit, self.operators, self.loads = main.audit, main.operators, main.loads
        self.clones, self.alerts, self.denials = main.clones, main.alerts, main.denials
        self.history = main.history

    async def ready(self) -> None:
        """Fire when the main server answers; one of the others that does not is the trouble of its nodes alone."""
        self._connecting = [Deferred.fromCoroutine(self._connect(shard)) for shard in self.shards]
        for connecting in self._connecting:
            connecting.addErrback(lambda failure: failure.trap(CancelledError) and None)
        await self._main.ready()

    async def ping(self) -> None:
        """The main server, and one that takes log lines: without any no node could get rid of its own."""
        await self._main.ping()
        taking = [shard for shard in self.shards if not shard.is_draining]
        await _first_that_can(taking, lambda shard: shard.stores.ping())

    async def close(self) -> None:
        """See :class:`osqtwist.interfaces.IStores`."""
        for connecting in self._connecting:
            connecting.cancel()
        for stores in (self._main, *(shard.stores for shard in self.shards)):
            await stores.close()

    async def _connect(self, shard: Shard) -> None:
        try:
            await shard.stores.ready()
        except (StoreUnavailable, StoreFull) as problem:
            _log.error("{problem}", problem=str(problem))
