"""The log buffer, for people: followed, looked through, trimmed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from osqtwist.interfaces import IStores
from osqtwist.logbatch import event_id
from osqtwist.loginterfaces import StoredBatch
from osqtwist.lookagain import LookAgain
from osqtwist.sinkview import dead_lines, origin_of
from osqtwist.wire import decode_array

_BATCHES_AT_ONCE = 50
_TRIM_AT_ONCE = 500

Emit = Callable[[dict[str, Any]], None]


@attrs.frozen
class LogView:
    """Hands on lines with the proven identity of their node."""

    clock: IReactorTime
    stores: IStores

    async def tail(self, emit: Emit, *, from_start: bool, follow: bool) -> None:
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
                    for line in _lines(stored):
                        emit(line)
                if not page:
                    if not follow:
                        return
                    await look.wait(2.0)
        finally:
            forget()

    async def dead_letters(self, emit: Emit) -> None:
        """Hand on the dead letters that are kept."""
        cursor = ""
        while page := await self.stores.logs.dead_letters(cursor, _BATCHES_AT_ONCE):
            for stored in page:
                cursor = stored.batch_id
                for line in dead_lines(stored):
                    emit(line)

    async def trim(self, older_than: float) -> dict[str, Any]:
        """Delete old batches that every sink has, and old dead letters."""
        before = self.clock.seconds() - older_than
        deleted = 0
        while part := await self.stores.logs.trim(before, 0, _TRIM_AT_ONCE):
            deleted += part
        return {"deleted": deleted}


def _lines(stored: StoredBatch) -> list[dict[str, Any]]:
    batch, origin = stored.batch, origin_of(stored)
    return [
        origin | {"event_id": event_id(batch.node_id, batch.digest, index), "line": line}
        for index, line in enumerate(decode_array(batch.data))
    ]
