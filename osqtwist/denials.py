"""
The deny list in force: which certificates operators deny, in the memory of every process.

A change is stored, then published on ``denials``; every process looks at the list then, and once a second in case the
signal was lost.  While the store does not answer, the list that was last seen stays in force; and no process serves
nodes before it has seen one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import TypedDict

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.denial import BadDenial, Denial, DenialIndex, DenialKind, checked_value
from osqtwist.denialinterfaces import MOST_DENIALS, DenialList, IDenialStore
from osqtwist.identity import CertificateIdentity
from osqtwist.interfaces import ISignals, NoSuchThing, StoreFull, StoreUnavailable
from osqtwist.metrics import Metrics
from osqtwist.steadyloop import steady_loop

LOOK_INTERVAL = 1.0
"""Seconds between two looks at the list, in case a signal was lost."""
KEPT_AFTER = 7 * 86400.0
"""Seconds for which a denial whose time is up is still listed."""
_LOOKS_APART = 0.1


class DenialRow(TypedDict):
    """Certificates that are denied; `expires_at` is null for ever."""

    denial_id: str
    kind: DenialKind
    value: str
    issuer: str
    reason: str
    created_at: float
    created_by: str
    expires_at: float | None
    in_force: bool


class DenialRemoved(TypedDict):
    """A denial that is no more."""

    denial_id: str
    removed: bool


class Denials(Service):
    """
    Knows which certificates are denied, and has operators change it.

    :ivar on_new: called when something is denied that was not: whoever is connected with it should be put out.
    """

    on_new: Callable[[], object] = staticmethod(lambda: None)
    _log = Logger()

    def __init__(self, clock: IReactorTime, store: IDenialStore, signals: ISignals, metrics: Metrics) -> None:
        self._clock = clock
        self._store = store
        self._signals = signals
        self._metrics = metrics
        self._list = DenialList("")
        self._index = DenialIndex.of(())
        self._loop: LoopingCall | None = None
        self._looked_at = 0.0
        self._next_look: IDelayedCall | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def startService(self) -> None:
        """Begin to follow the list."""
        super().startService()
        self._unsubscribe = self._signals.subscribe("denials", self._changed)
        self._loop = steady_loop(self._clock, "the deny list", self._refresh)
        self._loop.start(LOOK_INTERVAL, now=True)

    def stopService(self) -> None:
        """Stop; the list stays in force."""
        super().stopService()
        if self._unsubscribe:
            self._unsubscribe()
        if self._loop and self._loop.running:
            self._loop.stop()
        if self._next_look is not None and self._next_look.active():
            self._next_look.cancel()

    def find(self, certificate: CertificateIdentity) -> Denial | None:
        """The denial that is about a certificate, if any is."""
        return self._index.find(certificate, self._clock.seconds()) if self._index else None

    async def look(self) -> None:
        """
        See the list as it is now.

        :raise StoreUnavailable: it cannot be seen, and what was known stays in force.
        """
        self._looked_at = self._clock.seconds()
        found = await self._store.changed(self._list.version)
        if found is not None:
            known = {each.denial_id for each in self._list.denials}
            self._list, self._index = found, DenialIndex.of(found.denials)
            if any(each.denial_id not in known for each in found.denials):
                self.on_new()
        self._metrics.certificates.denials.set(self.count())

    def all(self) -> Sequence[Denial] | None:
        """Those that are listed; nothing before they were seen for the first time."""
        return self._list.denials if self._list.version else None

    def count(self) -> int:
        """How many are in force."""
        now = self._clock.seconds()
        return sum(not each.is_over(now) for each in self._list.denials)

    async def rows(self) -> list[DenialRow]:
        """All of them, the oldest first, ready to be JSON; those whose time was up lately too."""
        await self.look()
        return [self._row(each) for each in self._list.denials]

    async def add(
        self, kind: DenialKind, value: str, issuer: str, reason: str, seconds: float | None, by: str
    ) -> DenialRow:
        """
        Deny certificates from now on, for so many seconds or until it is removed.

        :raise BadDenial: that cannot be denied, or there are too many denials.
        """
        now = self._clock.seconds()
        denial = Denial(
            denial_id=secrets.token_hex(5),
            kind=kind,
            value=checked_value(kind, value, issuer),
            issuer=issuer,
            reason=reason,
            created_at=round(now, 3),
            created_by=by,
            expires_at=round(now + seconds, 3) if seconds else 0.0,
        )
        await self.look()
        old = [each.denial_id for each in self._list.denials if each.is_over(now - KEPT_AFTER)]
        if old:
            await self._store.remove(old)
        if not await self._store.add(denial):
            raise BadDenial(f"there are {MOST_DENIALS} denials; remove some")
        await self._announce()
        return self._row(denial)

    async def remove(self, denial_id: str) -> DenialRemoved:
        """Deny these certificates no more."""
        if not await self._store.remove([denial_id]):
            raise NoSuchThing(f"there is no denial {denial_id[:64]!r}")
        await self._announce()
        return {"denial_id": denial_id, "removed": True}

    async def _announce(self) -> None:
        try:
            await self._signals.publish("denials")
        finally:
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            await self.look()
        except (StoreUnavailable, StoreFull):
            return

    def _changed(self, payload: str) -> None:
        # Many at a time must not have everybody read the whole list for each.
        wait = self._looked_at + _LOOKS_APART - self._clock.seconds()
        if wait <= 0:
            Deferred.fromCoroutine(self._refresh())
        elif self._next_look is None or not self._next_look.active():
            self._next_look = self._clock.callLater(
                min(wait, _LOOKS_APART), lambda: Deferred.fromCoroutine(self._refresh())
            )

    def _row(self, denial: Denial) -> DenialRow:
        return {
            "denial_id": denial.denial_id,
            "kind": denial.kind,
            "value": denial.value,
            "issuer": denial.issuer,
            "reason": denial.reason,
            "created_at": denial.created_at,
            "created_by": denial.created_by,
            "expires_at": denial.expires_at or None,
            "in_force": not denial.is_over(self._clock.seconds()),
        }
