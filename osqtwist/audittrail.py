"""The audit trail, for people: written before something is done, looked through, verified."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import attrs
from twisted.internet.interfaces import IReactorTime

from osqtwist.auditentry import NO_ENTRY, AuditEntry, first_break
from osqtwist.interfaces import IStores

_AT_ONCE = 500
_MOST_DETAIL = 2000

_STRANGERS_A_MINUTE = 10

Emit = Callable[[AuditEntry], None]


class Verified(TypedDict):
    """Whether each entry follows from the one before; `broken_at` is the first that does not."""

    entries: int
    newest_hash: str
    whole: bool
    broken_at: int | None


@attrs.define
class _Strangers:
    minute: int = 0
    noted: int = 0
    left_out: int = 0

    def left_out_before(self, now: float) -> int | None:
        """How many were left out since the last that was noted; nothing if this one is left out too."""
        if (minute := int(now // 60)) != self.minute:
            self.minute, self.noted = minute, 0
        if self.noted >= _STRANGERS_A_MINUTE:
            self.left_out += 1
            return None
        self.noted += 1
        left_out, self.left_out = self.left_out, 0
        return left_out


@attrs.frozen
class AuditTrail:
    """What operators did, or tried to."""

    clock: IReactorTime
    stores: IStores
    _strangers: _Strangers = attrs.field(factory=_Strangers, init=False)

    async def begun(self, actor: str, action: str, detail: str) -> None:
        """
        Note that somebody does something; before it is done, so that nothing is done that is not noted.

        :raise StoreUnavailable: it is not noted, and so must not be done.
        """
        await self._append(actor, action, detail, "begun")

    async def refused(self, actor: str, action: str, why: str) -> None:
        """Note that it was not done after all, or could not be understood."""
        await self._append(actor, action, "", f"refused: {why}")

    async def stranger(self, where: str, action: str, why: str) -> None:
        """
        Note that somebody unknown was refused.

        Anybody can bring that about, so few are noted a minute; the next one says how many were left out.
        """
        left_out = self._strangers.left_out_before(self.clock.seconds())
        if left_out is not None:
            more = f", and {left_out} others like it before" if left_out else ""
            await self._append(f"somebody at {where}", action, "", f"refused: {why}{more}")

    async def newest(self, count: int, text: str = "", refused: bool = False) -> list[AuditEntry]:
        """
        The newest entries, the newest first.

        :param text: only those with this in actor, action or detail, in whichever case.
        :param refused: only what was refused.
        """
        found: list[AuditEntry] = []
        end, wanted = await self.stores.audit.length(), text.casefold()
        while end > 0 and len(found) < count:
            start = max(1, end - max(count, _AT_ONCE) + 1)
            entries = await self.stores.audit.read(start, end - start + 1)
            found += [each for each in reversed(entries) if _is_meant(each, wanted, refused)]
            end = start - 1
        return found[:count]

    async def all(self, emit: Emit) -> None:
        """Hand on every entry, the oldest first."""
        start = 1
        while entries := await self.stores.audit.read(start, _AT_ONCE):
            for entry in entries:
                emit(entry)
            start += len(entries)

    async def verify(self) -> Verified:
        """Look whether each entry follows from the one before; ``broken_at`` is the first that does not."""
        start, previous, broken = 1, NO_ENTRY, 0
        while not broken and (entries := await self.stores.audit.read(start, _AT_ONCE)):
            broken = first_break(entries, previous, start - 1)
            start, previous = start + len(entries), entries[-1].hash
        return {"entries": start - 1, "newest_hash": previous, "whole": not broken, "broken_at": broken or None}

    async def _append(self, actor: str, action: str, detail: str, outcome: str) -> None:
        entry = AuditEntry(
            number=0,
            at=self.clock.seconds(),
            actor=actor,
            action=action,
            detail=detail[:_MOST_DETAIL],
            outcome=outcome[:_MOST_DETAIL],
        )
        await self.stores.audit.append(entry)


def _is_meant(entry: AuditEntry, text: str, refused: bool) -> bool:
    if refused and entry.outcome == "begun":
        return False
    return not text or any(text in each.casefold() for each in (entry.actor, entry.action, entry.detail))
