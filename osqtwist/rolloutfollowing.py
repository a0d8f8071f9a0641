"""Serving what the roll-out says: in every process that serves nodes or operators."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.canarywatch import CanaryWatch
from osqtwist.configfiles import Content, unpacked
from osqtwist.configfolder import ConfigFolder
from osqtwist.interfaces import IStores, StoreFull, StoreUnavailable
from osqtwist.layers import BadConfiguration
from osqtwist.metrics import Metrics
from osqtwist.rollout import Rollout, VersionRef

LOOK_EVERY = 5.0
"""Seconds between two looks at how things are, in case a signal was lost."""


class RolloutFollower(Service):
    """
    Has the configuration of this process follow the roll-out, if the folder has a plan; else the folder.

    While the store is away, or a version cannot be had, what is served stays as it is.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, stores: IStores, folder: ConfigFolder, watch: CanaryWatch, metrics: Metrics
    ) -> None:
        self._clock, self._stores, self._folder, self._watch, self._metrics = clock, stores, folder, watch, metrics
        self._configuration = folder.configuration
        self._kept: dict[VersionRef, Content] = {}
        self._missed: set[VersionRef] = set()
        self._followed: Rollout | None = None
        self._turns: DeferredLock = DeferredLock()
        self._loop: LoopingCall | None = None
        self._forget: Callable[[], None] | None = None
        self._configuration.plan = folder.plan
        folder.take = self._folder_changed

    async def begin(self) -> None:
        """
        Follow from before the first node is served on.

        :raise StoreUnavailable: it cannot be known what to serve.
        """
        await self._look()

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._forget = self._stores.signals.subscribe("rollouts", lambda _: self._begin_look())
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._safely()))
        self._loop.clock = self._clock
        self._loop.start(LOOK_EVERY)

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._forget:
            self._forget()
        if self._loop and self._loop.running:
            self._loop.stop()

    def _folder_changed(self) -> None:
        self._configuration.plan = self._folder.plan
        if self._folder.plan is None:
            self._follow_folder()
        else:
            self._begin_look()

    def _follow_folder(self) -> None:
        self._followed = None
        self._kept.clear()
        self._configuration.follow_folder(self._folder.content)
        self._watch.follow(0)
        self._metrics.rollout_percent.set(0)

    def _begin_look(self) -> None:
        if self.running:
            Deferred.fromCoroutine(self._safely())

    async def _safely(self) -> None:
        try:
            await self._look()
        except (StoreUnavailable, StoreFull):
            return
        except Exception:
            self._log.failure("the roll-out could not be looked at; it is tried again")

    async def _look(self) -> None:
        await self._turns.acquire()
        try:
            if self._folder.plan is None:
                return
            rollout = await self._stores.rollouts.current()
            if rollout is None or rollout == self._followed:
                return
            await self._follow(rollout)
        finally:
            self._turns.release()

    async def _follow(self, rollout: Rollout) -> None:
        wanted = [rollout.in_force]
        if rollout.canaries and rollout.trial:
            wanted.append(rollout.trial)
        found = {ref: content for ref in wanted if (content := await self._content(ref))}
        # The plan may have gone meanwhile.
        if len(found) < len(wanted) or self._folder.plan is None:
            return
        self._kept = found
        self._configuration.follow(rollout, found[rollout.in_force], found.get(wanted[-1]) if wanted[1:] else None)
        self._watch.follow(rollout.run if rollout.canaries else 0, rollout.canaries)
        self._metrics.rollout_percent.set(rollout.percent)
        self._followed = rollout

    async def _content(self, ref: VersionRef) -> Content | None:
        if ref in self._kept:
            return self._kept[ref]
        if ref.digest == self._folder.content.digest:
            return self._folder.content
        data = await self._stores.rollouts.data(ref.number)
        try:
            if data is not None:
                return unpacked(data)
            trouble = "it is not kept"
        except BadConfiguration as bad:
            trouble = str(bad)
        if ref not in self._missed:
            self._missed.add(ref)
            self._log.error(
                "the configuration stays as it was: version {number} cannot be served: {trouble}",
                number=ref.number,
                trouble=trouble,
            )
        return None
