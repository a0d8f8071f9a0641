"""The audit trail as log lines, so that every log sink has it too: outside, where nobody can make it up anew."""

from __future__ import annotations

from typing import ClassVar

import attrs
import msgspec

from osqtwist.auditentry import AuditEntry
from osqtwist.housekeeping import Rounds
from osqtwist.interfaces import StoreFull
from osqtwist.logbatch import LogBatch
from osqtwist.loginterfaces import BufferFull

AUDIT = "audit"
"""The log type of its lines."""
_SERVER = "0" * 20
_AT_ONCE = 100
_ROUNDS_AT_MOST = 20


@attrs.define(eq=False)
class AuditStream(Rounds):
    """
    Appends each entry to the log buffer once it is there, in order.

    Where it got to is in the store, and moves after an entry is appended: a crash between the two, or another host at
    the same time, may append an entry again, with the same event id.  None is left out.
    """

    interval: ClassVar[float] = 2.0

    _is_going: bool = attrs.field(default=False, init=False)

    async def go_round(self) -> None:
        """What is new, up to 2,000 entries; the rest in the next round."""
        if self._is_going:
            return
        self._is_going = True
        try:
            for _ in range(_ROUNDS_AT_MOST):
                if not await self._some():
                    return
        finally:
            self._is_going = False

    async def _some(self) -> bool:
        audit = self.stores.audit
        entries = await audit.read(await audit.streamed() + 1, _AT_ONCE)
        for entry in entries:
            try:
                await self.stores.logs.append(line_of(entry))
            except BufferFull as full:
                raise StoreFull(str(full)) from full
            if not await audit.advance(entry.number - 1, entry.number):
                return False  # Another host is at it.
        return bool(entries)


def line_of(entry: AuditEntry) -> LogBatch:
    """The entry as a batch of one line; its event id is the same whoever makes it, and whenever."""
    columns = {name: str(value) for name, value in msgspec.to_builtins(entry).items() if name != "at"}
    line = {
        "name": "osqtwist_audit",
        "action": AUDIT,
        "hostIdentifier": "osqtwist",
        "unixTime": int(entry.at),
        "columns": columns,
    }
    return LogBatch(
        node_id=_SERVER,
        node_name="osqtwist",
        log_type=AUDIT,
        data=b"[" + msgspec.json.encode(line) + b"]",
        count=1,
        digest=entry.hash,
        received_at=entry.at,
    )
