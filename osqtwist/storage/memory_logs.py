"""The log buffer and the sinks' cursors in the memory of one process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from osqtwist.interfaces import ISignals
from osqtwist.logbatch import LogBatch, Post
from osqtwist.loginterfaces import (
    Appended,
    Budgets,
    BufferFull,
    BufferSize,
    ILogBuffer,
    ISinkQueues,
    NoSuchSink,
    SinkLag,
    SinkReport,
    StoredBatch,
)


@attrs.define
class _Taken:
    """A batch under way: who has it, since when."""

    consumer: str
    at: float


@attrs.define
class _Cursor:
    """How far one sink has come."""

    last: int
    taken: dict[int, _Taken] = attrs.field(factory=dict)

    def first_unsettled(self, numbers: Sequence[int]) -> int | None:
        """The number of the oldest batch that is not settled."""
        mine = [number for number in numbers if number in self.taken]
        return min(mine) if mine else next((number for number in numbers if number > self.last), None)


@attrs.define
class _DeadLetters:
    """Dead letters under a budget; the oldest make room."""

    budget: int
    kept: dict[int, LogBatch] = attrs.field(factory=dict)
    bytes: int = 0
    dropped: int = 0

    def add(self, number: int, batch: LogBatch) -> None:
        while self.kept and self.bytes + batch.size > self.budget:
            self.drop(next(iter(self.kept)))
            self.dropped += 1
        self.kept[number] = batch
        self.bytes += batch.size

    def drop(self, number: int) -> None:
        self.bytes -= self.kept.pop(number).size


@implementer(ILogBuffer)
@attrs.define
class MemoryLogBuffer:
    """See :class:`osqtwist.loginterfaces.ILogBuffer`; nothing survives a restart."""

    _signals: ISignals
    _budgets: Budgets
    batches: dict[int, LogBatch] = attrs.field(factory=dict, init=False)
    cursors: dict[str, _Cursor] = attrs.field(factory=dict, init=False)
    _dead: _DeadLetters = attrs.field(init=False)
    _bytes: int = attrs.field(default=0, init=False)
    _is_shut: bool = attrs.field(default=False, init=False)
    _last: int = attrs.field(default=0, init=False)
    _last_posts: dict[tuple[str, str], tuple[Post, float]] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._dead = _DeadLetters(self._budgets.dead)

    def next_number(self) -> int:
        """A number no batch had before."""
        self._last += 1
        return self._last

    async def append(self, batch: LogBatch, post: Post | None = None) -> Appended:
        """See :class:`osqtwist.loginterfaces.ILogBuffer`."""
        post = post or batch.as_post()
        source = (batch.node_id, batch.log_type)
        last, at = self._last_posts.get(source, (None, 0.0))
        if last and batch.received_at - at <= self._budgets.duplicate_window:
            if last.digest == post.digest:
                self._last_posts[source] = (post, batch.received_at)
                return Appended("", is_duplicate=True)
            is_alike = post.opening and post.opening == last.opening and post.lines > last.lines
            if is_alike and post.after != last.digest:
                return Appended("", earlier=last)
        post = msgspec.structs.replace(post, after="")
        live, dead = batch.live(), batch.dead_letter()
        if live:
            self._admit(live.size)
        if dead:
            self._dead.add(self.next_number(), dead)
        self._last_posts[source] = (post, batch.received_at)
        if not live:
            return Appended("")
        number = self.next_number()
        self.batches[number] = live
        self._bytes += live.size
        await self._signals.publish("logs")
        return Appended(str(number))

    def _admit(self, size: int) -> None:
        budget = self._budgets.live
        if not budget:
            return
        if (self._is_shut and self._bytes > int(budget * self._budgets.low_mark)) or self._bytes + size > budget:
            self._is_shut = True
            raise BufferFull("the log buffer is full")
        self._is_shut = False

    async def read(self, after: str, count: int) -> list[StoredBatch]:
        """See :class:`osqtwist.loginterfaces.ILogBuffer`."""
        return _page(self.batches, after, count)

    async def newest(self, count: int) -> list[StoredBatch]:
        """See :class:`osqtwist.loginterfaces.ILogBuffer`."""
        return [StoredBatch(str(number), self.batches[number]) for number in list(self.batches)[::-1][:count]]

    async def last_id(self) -> str:
        """See :class:`osqtwist.loginterfaces.ILogBuffer`."""
        return str(self._last) if self._last else ""

    async def dead_letters(self, after: str, count: int) -> list[StoredBatch]:
        """See :class:`osqtwist.loginterfaces.ILogBuffer`."""
        return _page(self._dead.kept, after, count)

    async def size(self) -> BufferSize:
        """See :class:`osqtwist.loginterfaces.ILogBuffer`."""
        dead = self._dead
        return BufferSize(
            len(self.batches),
            self._bytes,
            self._budgets.live,
            len(dead.kept),
            self._is_shut,
            dead.bytes,
            dead.dropped,
        )

    async def trim(self, before: float, keep_bytes: int, limit: int) -> int:
        """See :class:`osqtwist.loginterfaces.ILogBuffer`."""
        deleted = 0
        numbers = list(self.batches)
        ends = [cursor.first_unsettled(numbers) for cursor in self.cursors.values()]
        end = min((each for each in ends if each is not None), default=self._last + 1)
        for number in numbers:
            batch = self.batches[number]
            is_too_much = bool(self.cursors and keep_bytes and self._bytes > keep_bytes)
            if number >= end or deleted >= limit or not (batch.received_at < before or is_too_much):
                break
            del self.batches[number]
            self._bytes -= batch.size
            deleted += 1
        for number, batch in list(self._dead.kept.items()):
            if batch.received_at >= before or deleted >= limit:
                break
            self._dead.drop(number)
            deleted += 1
        return deleted


@implementer(ISinkQueues)
@attrs.define
class MemorySinkQueues:
    """See :class:`osqtwist.loginterfaces.ISinkQueues`."""

    _clock: IReactorTime
    _logs: MemoryLogBuffer
    _signals: ISignals
    _dead_budget: int
    _dead: dict[str, _DeadLetters] = attrs.field(factory=dict, init=False)
    _paused: set[str] = attrs.field(factory=set, init=False)
    _again: set[str] = attrs.field(factory=set, init=False)
    _reports: dict[tuple[str, str], SinkReport] = attrs.field(factory=dict, init=False)

    async def ensure(self, sink: str, from_start: bool) -> None:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        start = 0 if from_start else int(await self._logs.last_id() or 0)
        self._logs.cursors.setdefault(sink, _Cursor(start))

    async def names(self) -> list[str]:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        return sorted(self._logs.cursors)

    async def take(self, sink: str, consumer: str, max_batches: int, max_bytes: int) -> list[StoredBatch]:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        cursor, size = self._cursor(sink), 0
        found: list[StoredBatch] = []
        for number, batch in self._logs.batches.items():
            if number <= cursor.last:
                continue
            if len(found) >= max_batches or (found and size >= max_bytes):
                break
            cursor.last = number
            cursor.taken[number] = _Taken(consumer, self._clock.seconds())
            found.append(StoredBatch(str(number), batch))
            size += batch.size
        return found

    async def taken(self, sink: str, consumer: str, max_batches: int) -> list[StoredBatch]:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        taken = self._cursor(sink).taken
        return self._found(number for number in sorted(taken) if taken[number].consumer == consumer)[:max_batches]

    async def claim(self, sink: str, consumer: str, idle: float, max_batches: int) -> list[StoredBatch]:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        taken, now = self._cursor(sink).taken, self._clock.seconds()
        old = [number for number in sorted(taken) if now - taken[number].at >= idle][:max_batches]
        for number in old:
            taken[number] = _Taken(consumer, now)
        return self._found(old)

    async def keep_alive(self, sink: str, consumer: str, batch_ids: Sequence[str]) -> None:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        taken = self._cursor(sink).taken
        for batch_id in batch_ids:
            if int(batch_id) in taken:
                taken[int(batch_id)] = _Taken(consumer, self._clock.seconds())

    async def settle(self, sink: str, batch_ids: Sequence[str], dead: Sequence[LogBatch] = ()) -> None:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        for letter in dead:
            self._dead.setdefault(sink, _DeadLetters(self._dead_budget)).add(self._logs.next_number(), letter)
        if sink in self._logs.cursors:
            for batch_id in batch_ids:
                self._logs.cursors[sink].taken.pop(int(batch_id), None)

    async def dead_letters(self, sink: str, after: str, count: int) -> list[StoredBatch]:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        return _page(self._dead[sink].kept, after, count) if sink in self._dead else []

    async def forget_dead_letters(self, sink: str, batch_ids: Sequence[str]) -> None:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        for batch_id in batch_ids:
            if sink in self._dead and int(batch_id) in self._dead[sink].kept:
                self._dead[sink].drop(int(batch_id))

    async def lag(self, sinks: Sequence[str]) -> dict[str, SinkLag]:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        found = {}
        numbers = list(self._logs.batches)
        for sink in sinks:
            cursor = self._logs.cursors.get(sink)
            if cursor is None:
                continue
            first = cursor.first_unsettled(numbers)
            left = [self._logs.batches[number] for number in numbers if first is not None and number >= first]
            found[sink] = SinkLag(
                sum(batch.count for batch in left),
                sum(batch.size for batch in left),
                left[0].received_at if left else 0.0,
                len(cursor.taken),
                len(self._dead[sink].kept) if sink in self._dead else 0,
            )
        return found

    async def rewind(self, sink: str, batch_id: str, moment: float) -> None:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        cursor = self._cursor(sink)
        if batch_id:
            if not batch_id.isdecimal():
                raise ValueError(f"{batch_id!r} is not the id of a batch")
            cursor.last = int(batch_id)
        else:
            later = (number for number, batch in self._logs.batches.items() if batch.received_at >= moment)
            cursor.last = next(later, int(await self._logs.last_id() or 0) + 1) - 1
        await self._signals.publish("sinks", sink)

    async def forget(self, sink: str) -> bool:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        had = self._logs.cursors.pop(sink, None) is not None
        self._dead.pop(sink, None)
        self._paused.discard(sink)
        self._again.discard(sink)
        for key in [key for key in self._reports if key[0] == sink]:
            del self._reports[key]
        await self._signals.publish("sinks", sink)
        return had

    async def pause(self, sink: str, is_paused: bool) -> None:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        (self._paused.add if is_paused else self._paused.discard)(sink)
        await self._signals.publish("sinks", sink)

    async def paused(self) -> frozenset[str]:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        return frozenset(self._paused)

    async def ask_again(self, sink: str) -> None:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        self._again.add(sink)
        await self._signals.publish("sinks", sink)

    async def was_asked_again(self, sink: str) -> bool:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        asked = sink in self._again
        self._again.discard(sink)
        return asked

    async def report(self, report: SinkReport) -> None:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        self._reports[report.sink, report.consumer] = report

    async def reports(self) -> list[SinkReport]:
        """See :class:`osqtwist.loginterfaces.ISinkQueues`."""
        return [self._reports[key] for key in sorted(self._reports)]

    def _cursor(self, sink: str) -> _Cursor:
        try:
            return self._logs.cursors[sink]
        except KeyError:
            raise NoSuchSink(f"there is no sink {sink!r} in the log buffer") from None

    def _found(self, numbers: Iterable[int]) -> list[StoredBatch]:
        return [
            StoredBatch(str(number), self._logs.batches[number]) for number in numbers if number in self._logs.batches
        ]


def _page(kept: dict[int, LogBatch], after: str, count: int) -> list[StoredBatch]:
    start = int(after or 0)
    return [StoredBatch(str(number), batch) for number, batch in kept.items() if number > start][:count]
