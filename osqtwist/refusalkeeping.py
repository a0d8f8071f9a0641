"""
Who is refused stays refused, even if the store comes back without its data.

Everything else that a store can lose, nodes or operators can give again: signed node keys are good without it, nodes
are known again when they come, the configuration is files.  A revocation that is lost lets a stolen machine in, and
nobody would notice.  So what the lists of revocations and denials say is kept in the state folder too; a store that
does not know of any list (see :class:`osqtwist.interfaces.ListLost`) gets them from there.  Until it has them, every
process goes by what it knew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.denial import Denial
from osqtwist.interfaces import IStores, StoreFull, StoreUnavailable
from osqtwist.metrics import Metrics
from osqtwist.node import Revocation
from osqtwist.steadyloop import steady_loop

LOOK_INTERVAL = 1.0


class Refusals(msgspec.Struct, frozen=True):
    """Everybody who is refused by an operator's word."""

    revocations: Sequence[Revocation] = ()
    denials: Sequence[Denial] = ()


class RefusalKeeping(Service):
    """
    Keeps a copy of the lists; in the process of operators.

    :param path: the file of the copy; for its owner's eyes only, though nothing in it is secret.
    :param revocations: answers with those in force in this process, and ``denials`` with these; nothing as long as they
        are not known.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        stores: IStores,
        path: Path,
        revocations: Callable[[], Sequence[Revocation] | None],
        denials: Callable[[], Sequence[Denial] | None],
        metrics: Metrics,
    ) -> None:
        self._clock, self._stores, self._path, self._metrics = clock, stores, path, metrics
        self._revocations, self._denials = revocations, denials
        self._is_first = not path.exists()
        self._kept = self._read()
        self._trouble = ""
        self._loop: LoopingCall | None = None

    async def begin(self) -> None:
        """
        Have the store know a list, before anybody asks it who is refused.

        :raise StoreUnavailable: it does not answer.
        :raise StoreFull: it would have to be told, and takes nothing.
        """
        await self._put_back()

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._loop = steady_loop(self._clock, "who is refused", self.look)
        self._loop.start(LOOK_INTERVAL, now=False)

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._loop and self._loop.running:
            self._loop.stop()

    async def look(self) -> None:
        """See whether the store still has the lists, and write down what is on them."""
        try:
            await self._put_back()
        except (StoreUnavailable, StoreFull):
            return
        now = self._in_force()
        if now != self._kept or self._is_first or self._trouble:
            self._write(now)

    def _in_force(self) -> Refusals:
        revocations, denials = self._revocations(), self._denials()
        return Refusals(
            self._kept.revocations if revocations is None else tuple(revocations),
            self._kept.denials if denials is None else tuple(denials),
        )

    async def _put_back(self) -> None:
        # What came since the last look is in memory only.
        kept = self._in_force()
        # The denials first: a process that sees revocations begins to serve.
        denials_were_lost = await self._stores.denials.begin(kept.denials)
        revocations_were_lost = await self._stores.nodes.begin_revocations(kept.revocations)
        if (denials_were_lost or revocations_were_lost) and not self._is_first:
            self._metrics.store.losses.inc()
            self._log.critical(
                "the store came back without its data, or it is another one: {revocations} revocations and {denials} "
                "denials are put back. Node keys stay good. Lost are tags given by hand, handed-out enroll secrets, "
                "access tokens, queries, carve sessions, the audit trail, and log lines that no sink had yet",
                revocations=len(kept.revocations),
                denials=len(kept.denials),
            )

    def _read(self) -> Refusals:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Refusals)
        except FileNotFoundError:
            return Refusals()
        except (OSError, msgspec.MsgspecError) as problem:
            self._log.error(
                "{path}: {problem}; it is written anew from what the store knows", path=str(self._path), problem=problem
            )
            return Refusals()

    def _write(self, refusals: Refusals) -> None:
        partial = self._path.with_name(self._path.name + ".new")
        try:
            file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(file, "wb") as stream:
                stream.write(msgspec.json.encode(refusals))
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(self._path)
        except OSError as problem:
            if str(problem) != self._trouble:
                self._trouble = str(problem)
                self._log.error("who is refused cannot be written down: {problem}", problem=problem)
            return
        self._kept, self._is_first, self._trouble = refusals, False, ""
