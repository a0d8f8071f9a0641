"""Moves roll-outs on: in one process of each host, of which whichever is first makes a change."""

from __future__ import annotations

from typing import ClassVar

import attrs
from twisted.internet.defer import DeferredLock

from osqtwist.configfolder import ConfigFolder
from osqtwist.housekeeping import Rounds
from osqtwist.rollouts import Rollouts


@attrs.define(eq=False)
class RolloutKeeping(Rounds):
    """
    Takes up what the config folder says, and looks after the canaries.

    :ivar host: the name of this host.
    """

    interval: ClassVar[float] = 2.0

    folder: ConfigFolder
    rollouts: Rollouts
    host: str
    _has_begun: bool = attrs.field(default=False, init=False)
    _turns: DeferredLock = attrs.field(factory=DeferredLock, init=False)

    async def go_round(self) -> None:
        """Once."""
        await self._turns.acquire()
        try:
            folder = self.folder
            if not self._has_begun or not await self.rollouts.has_taken(folder.content, folder.plan):
                await self.rollouts.submit(folder.content, folder.plan, f"{self.host}:{folder.where}")
                self._has_begun = True
            await self.rollouts.advance()
        finally:
            self._turns.release()
