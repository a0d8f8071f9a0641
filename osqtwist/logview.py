"""The log buffer, for people: followed, looked through, trimmed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypedDict

import attrs
from twisted.internet.interfaces import IReactorTime

from osqtwist.interfaces import IStores, StoreFull, StoreUnavailable
from osqtwist.logbatch import event_id
from osqtwist.loginterfaces import BufferSize, LogServer, SinkLag, StoredBatch
from osqtwist.lookagain import LookAgain
from osqtwist.routing import Route
from osqtwist.sinkview import DeadLine, LineOrigin, dead_lines, origin_of
from osqtwist.wire import decode_array

EVERY_LINE = Route()
_BATCHES_AT_ONCE = 50
_NEWEST_BATCHES = 500
_TRIM_AT_ONCE = 500


class LogLine(LineOrigin):
    """A line as its node sent it, with the batch that it came in."""

    batch: str
    event_id: str
    line: Any


ServerWord = Literal["taking", "full", "draining", "drained", "away"]


class ServerRow(TypedDict):
    """A server of the log buffer; of one that is away nothing is known."""

    server: str
    state: ServerWord
    batches: int | None
    bytes: int | None
    budget_bytes: int | None
    lag_lines: int | None
    dead_letters: int | None
    sink_dead_letters: int | None


class LogTrimmed(TypedDict):
    """How many entries were deleted."""

    deleted: int


@attrs.frozen
class LogView:
    """Hands on lines with the proven identity of their node."""

    clock: IReactorTime
    stores: IStores

    async def tail(
        self, emit: Callable[[LogLine], None], *, from_start: bool, follow: bool, only: Route = EVERY_LINE
    ) -> None:
        """Hand on log lines: those in the buffer if ``from_start``, and those to come if ``follow``."""
        logs = self.stores.logs
        look = LookAgain(self.clock)
        forget = self.stores.signals.subscribe("logs", look.wake)
        try:
            cursor = "" if from_start else await logs.last_id()
            while True:
                page = await logs.read(cursor, _BATCHES_AT_ONCE)
                for stored in page:
                    cursor = stored.batch_id
                    for line in _lines(stored, only):
                        emit(line)
                if not page:
                    if not follow:
                        return
                    await look.wait(2.0)
        finally:
            forget()

    async def newest(self, count: int, only: Route = EVERY_LINE) -> list[LogLine]:
        """The newest lines that are meant, the newest first; only the newest batches are looked at."""
        found: list[LogLine] = []
        for stored in await self.stores.logs.newest(_NEWEST_BATCHES):
            found += reversed(_lines(stored, only))
            if len(found) >= count:
                break
        return found[:count]

    async def dead_letters(self, emit: Callable[[DeadLine], None]) -> None:
        """Hand on the dead letters that are kept."""
        cursor = ""
        while page := await self.stores.logs.dead_letters(cursor, _BATCHES_AT_ONCE):
            for stored in page:
                cursor = stored.batch_id
                for line in dead_lines(stored):
                    emit(line)

    async def servers(self) -> list[ServerRow]:
        """
        The servers of the log buffer, ready to be JSON.

        ``state`` is ``taking``, ``full``, ``draining`` (its lines still go to sinks, and it takes no new ones),
        ``drained`` (every sink has all of them) or ``away``.
        """
        found: list[tuple[LogServer, BufferSize, dict[str, SinkLag]] | LogServer] = []
        for server in self.stores.log_servers:
            try:
                names = await server.sinks.names()
                found.append((server, await server.logs.size(), await server.sinks.lag(names)))
            except (StoreUnavailable, StoreFull):
                found.append(server)
        sinks = {name for each in found if isinstance(each, tuple) for name in each[2]}
        return [_server_row(*each, sinks) if isinstance(each, tuple) else _away_row(each) for each in found]

    async def trim(self, older_than: float) -> LogTrimmed:
        """Delete old batches that every sink has, and old dead letters."""
        before = self.clock.seconds() - older_than
        deleted = 0
        while part := await self.stores.logs.trim(before, 0, _TRIM_AT_ONCE):
            deleted += part
        return {"deleted": deleted}


def _lines(stored: StoredBatch, only: Route) -> list[LogLine]:
    batch, origin = stored.batch, origin_of(stored)
    return [
        {
            **origin,
            "batch": stored.batch_id,
            "event_id": event_id(batch.node_id, batch.digest, index),
            "line": line,
        }
        for index, line in enumerate(decode_array(batch.data))
        if only.means(batch, line)
    ]


def _server_row(server: LogServer, size: BufferSize, lags: Mapping[str, SinkLag], sinks: Collection[str]) -> ServerRow:
    # A sink without a cursor here has nothing of what is here.
    is_empty = not size.batches or (bool(sinks) and set(lags) >= set(sinks) and not any(map(_is_behind, lags.values())))
    state: ServerWord = "full" if size.is_shut else "taking"
    if server.is_draining:
        state = "drained" if is_empty else "draining"
    return {
        "server": server.name,
        "state": state,
        "batches": size.batches,
        "bytes": size.bytes,
        "budget_bytes": 0 if server.is_draining else size.budget_bytes,
        "lag_lines": max((lag.lines for lag in lags.values()), default=0),
        "dead_letters": size.dead_letters,
        "sink_dead_letters": sum(lag.dead_letters for lag in lags.values()),
    }


def _is_behind(lag: SinkLag) -> bool:
    return bool(lag.bytes or lag.taken)


def _away_row(server: LogServer) -> ServerRow:
    return {
        "server": server.name,
        "state": "away",
        "batches": None,
        "bytes": None,
        "budget_bytes": None,
        "lag_lines": None,
        "dead_letters": None,
        "sink_dead_letters": None,
    }
