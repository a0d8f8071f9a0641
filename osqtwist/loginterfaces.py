"""
The contracts of the log buffer: what takes lines in, and what sinks take them from.

One stream holds the batches in the order they came.  Each sink has a cursor of its own in it, with the batches that
were taken for it and not settled yet, so that no sink delays another.  A batch stays until every sink has settled
it, and after that for as long as there is room, to be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import msgspec
from zope.interface import Interface

from osqtwist.logbatch import LogBatch, Post


class BufferFull(Exception):
    """The log buffer has reached its byte budget.  Nothing was stored; the node should try again later."""


class NoSuchSink(LookupError):
    """There is no sink of this name; the text says which there are."""


@attrs.frozen
class Budgets:
    """
    How large the parts of the log buffer may become, in bytes.

    :ivar live: batches; 0 for no limit.
    :ivar low_mark: once :attr:`live` was reached, nothing is taken until the buffer is down to this share of it.
    :ivar dead: dead letters; past it the oldest are dropped, since refusing a batch for its bad lines would make
        the node send it for ever.  For lines that a sink refused, each sink has as much again.
    :ivar duplicate_window: seconds in which a batch that a node sends again is known for what it is.
    """

    live: int = 0
    low_mark: float = 0.8
    dead: int = 64 * 2**20
    duplicate_window: float = 3600.0


@attrs.frozen
class BufferSize:
    """
    How full the log buffer is.

    :ivar budget_bytes: 0 means no limit.
    :ivar is_shut: the budget was reached, and the low mark not yet.
    :ivar dropped_dead_letters: how many entries of dead letters ever made room for newer ones.
    :ivar away: servers of the buffer that do not answer, and are not in the figures.
    """

    batches: int
    bytes: int
    budget_bytes: int
    dead_letters: int
    is_shut: bool = False
    dead_bytes: int = 0
    dropped_dead_letters: int = 0
    away: tuple[str, ...] = ()


@attrs.frozen
class StoredBatch:
    """A batch in the buffer; ids grow with time and name a place to go on from."""

    batch_id: str
    batch: LogBatch


@attrs.frozen
class Appended:
    """
    What became of a batch.

    :ivar batch_id: empty if there was no good line in it, or it was not stored.
    :ivar is_duplicate: the node sent it before, and it was stored then.
    :ivar earlier: the node's last post, which has fewer lines and the same opening: nothing was stored; find out
        whether the batch begins with it, and append what is new, with :attr:`Post.after`.
    """

    batch_id: str
    is_duplicate: bool = False
    earlier: Post | None = None


@attrs.frozen
class SinkLag:
    """
    What a sink has not settled yet.

    :ivar lines: and :attr:`bytes`, counted from the oldest batch that is not settled, so at most so many.
    :ivar oldest: Unix time at which that batch came; 0 if there is none.
    :ivar taken: how many batches are under way.
    :ivar dead_letters: how many entries of lines that the sink refused are kept.
    """

    lines: int = 0
    bytes: int = 0
    oldest: float = 0.0
    taken: int = 0
    dead_letters: int = 0

    def __add__(self, other: SinkLag) -> SinkLag:
        """That on two servers."""
        return SinkLag(
            self.lines + other.lines,
            self.bytes + other.bytes,
            min((lag.oldest for lag in (self, other) if lag.oldest), default=0.0),
            self.taken + other.taken,
            self.dead_letters + other.dead_letters,
        )


class SinkReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a delivery process says of one sink every few seconds.

    :ivar state: ``running``, ``paused``, or ``waiting`` between two tries.
    :ivar since: Unix time of the process' start; the counts are since then.
    :ivar rate: lines a second, over the last half minute or so.
    """

    sink: str
    kind: str
    consumer: str
    state: str
    at: float
    since: float
    lines: int = 0
    bytes: int = 0
    batches: int = 0
    rate: float = 0.0
    left_out: int = 0
    refused: int = 0
    failures: int = 0
    trouble: str = ""
    trouble_at: float = 0.0


class ILogBuffer(Interface):
    """The lines that nodes posted, until they are delivered."""

    async def append(batch: LogBatch, post: Post | None = None) -> Appended:
        """
        Keep a batch and its dead letters, as one step.

        The Deferred fires when the batch is as safe as the chosen durability says.  osquery deletes its own copy
        as soon as we answer (buffered.cpp), so firing earlier loses logs.  The last post of a node and log type,
        sent again within the window, is not stored a second time.

        :param post: what the batch came in; by default a post that had the same lines.
        :raise BufferFull: the byte budget is used up.
        """

    async def read(after: str, count: int) -> list[StoredBatch]:
        """Batches after the id ``after`` (empty: from the oldest), oldest first, at most ``count``."""

    async def newest(count: int) -> list[StoredBatch]:
        """The newest batches, the newest first, at most ``count``; their ids are for showing."""

    async def last_id() -> str:
        """The id of the newest batch ever appended, for reading only what comes next; empty if there is none."""

    async def dead_letters(after: str, count: int) -> list[StoredBatch]:
        """Dead letters: batches with ``dead`` lines only (``count`` 0, ``data`` an empty array), oldest first."""

    async def size() -> BufferSize:
        """How full the buffer is."""

    async def trim(before: float, keep_bytes: int, limit: int) -> int:
        """
        Delete old batches that every sink has settled, and old dead letters; answers with how many.

        :param before: batches and dead letters received earlier are deleted.
        :param keep_bytes: batches are deleted, oldest first, while the buffer holds more; 0 for no such limit, and
            without any sink there is none either.
        :param limit: at most so many at once.
        """


class ISinkLevers(Interface):
    """What operators see of the sinks' cursors in the log buffer, and do to them."""

    async def names() -> list[str]:
        """Every sink that has a cursor."""

    async def dead_letters(sink: str, after: str, count: int) -> list[StoredBatch]:
        """Lines that the sink refused, as in :meth:`ILogBuffer.dead_letters`, with the batch's facts."""

    async def lag(sinks: Sequence[str]) -> dict[str, SinkLag]:
        """What these sinks have not settled; those without a cursor are left out."""

    async def rewind(sink: str, batch_id: str, moment: float) -> None:
        """
        Deliver again what comes after a batch, or what was received from ``moment`` on if ``batch_id`` is empty.

        :raise NoSuchSink: it has no cursor.
        """

    async def forget(sink: str) -> bool:
        """Delete a sink's cursor, dead letters and reports, so that nothing waits for it; false if it had none."""

    async def pause(sink: str, is_paused: bool) -> None:
        """Have every process stop delivering to a sink, or go on; survives restarts."""

    async def paused() -> frozenset[str]:
        """The sinks that are paused."""

    async def ask_again(sink: str) -> None:
        """Ask whoever serves a sink to bring its dead letters to it again."""

    async def reports() -> list[SinkReport]:
        """The reports of all processes, old ones too: :attr:`SinkReport.at` says how old."""


class ISinkQueues(ISinkLevers):
    """
    The sinks' cursors, for who delivers.

    Several delivery processes (consumers) can serve one sink; each batch is taken by one of them.
    """

    async def ensure(sink: str, from_start: bool) -> None:
        """Make a cursor, unless there is one: at the oldest batch, or so that only what comes next is delivered."""

    async def take(sink: str, consumer: str, max_batches: int, max_bytes: int) -> list[StoredBatch]:
        """
        Take the next batches for a consumer: at least one if there is any, more while they stay under ``max_bytes``.

        :raise NoSuchSink: the cursor was deleted meanwhile.
        """

    async def taken(sink: str, consumer: str, max_batches: int) -> list[StoredBatch]:
        """What the consumer took earlier and did not settle, oldest first: the left-overs of a crash."""

    async def claim(sink: str, consumer: str, idle: float, max_batches: int) -> list[StoredBatch]:
        """Take over what other consumers took and neither settled nor kept alive for ``idle`` seconds."""

    async def keep_alive(sink: str, consumer: str, batch_ids: Sequence[str]) -> None:
        """Say that a consumer still works on what it took."""

    async def settle(sink: str, batch_ids: Sequence[str], dead: Sequence[LogBatch] = ()) -> None:
        """
        Have done with batches, as one step with keeping the dead letters that they left.

        Fires when neither would be lost with this process.  Settling twice is no error.
        """

    async def forget_dead_letters(sink: str, batch_ids: Sequence[str]) -> None:
        """Delete dead letters of a sink; those that are not there are no error."""

    async def was_asked_again(sink: str) -> bool:
        """Whether somebody asked so; true once for each time."""

    async def report(report: SinkReport) -> None:
        """Keep a process' report, over its last one."""


@attrs.frozen
class LogServer:
    """
    One of the servers that the log buffer is on; without ``--log-redis`` there is one.

    :ivar name: where it is, without credentials.
    :ivar is_draining: whether it takes no more lines, and only gives what it has.
    """

    name: str
    logs: ILogBuffer
    sinks: ISinkQueues
    is_draining: bool = False
