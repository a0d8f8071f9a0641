"""
Clones, told apart where that can be, and reported; see :mod:`osqtwist.clone`.

- A machine that enrolls by a secret under the host identifier of another gets an id of its own at once.
- Machines that cannot be told apart when they enroll are parted when both go on with their keys: those of the one that
  enrolled later stand for an id of its own from then on.  No key is ever refused for it.
- A certificate stands for one node: two machines that use it are one node, which is reported.  So is a key that was
  copied.  To refuse the node refuses both.

It is reported once it is sure that both live.  How that is noticed is in :mod:`osqtwist.clonewatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any, TypedDict

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.clone import MOST_PLACES, Clone, CloneKind
from osqtwist.cloneevidence import GRACE
from osqtwist.interfaces import IStores, Report, StoreFull, StoreUnavailable

LOOK_INTERVAL = 30.0
"""Seconds between two looks at who is suspected."""
TRUE_FOR = 86400.0
"""A clone counts for so many seconds after it was last true."""
_NOTED_EVERY = 3600.0
_SUSPECTED_FOR = 7 * 86400.0
_KEPT_FOR = 30 * 86400.0


_SENTENCES = {
    ("machines", True): "two machines are called {name!r}: {node} and {clone}",
    ("keys", True): "two machines have keys of {name!r}; the later one is {clone} from now on, the other stays {node}",
    ("keys", False): "two machines with one certificate have keys of {name!r} ({node})",
    ("reads", False): "two machines use one certificate or key of {name!r} ({node}) at one time: {places}",
    ("enrollments", False): "two machines enroll in turn with one certificate of {name!r} ({node}): {places}",
}


class CloneRow(TypedDict):
    """
    Two machines that one host identifier, key or certificate stands for.

    `clone` is the later one's id; `node` again where they are not told apart.
    """

    name: str
    node: str
    clone: str
    kind: CloneKind
    parted: bool
    places: list[str]
    found_at: float
    seen_at: float


class Clones(Service):
    """
    Knows who is a clone, or may be, and says so once it is sure.

    :param report: called once for each clone, in one of all processes.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        stores: IStores,
        report: Report = lambda kind, node_id, facts: None,
    ) -> None:
        self._clock = clock
        self._stores = stores
        self._report = report
        self._all: dict[str, Clone] = {}
        self._aliases: dict[tuple[str, int], str] = {}
        self._others: dict[str, set[str]] = {}
        self._loop: LoopingCall | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def startService(self) -> None:
        """Begin to follow what other processes find."""
        super().startService()
        self._unsubscribe = self._stores.signals.subscribe("clones", lambda _: self.begin(self.refresh()))
        self._loop = LoopingCall(lambda: self.begin(self.look()))
        self._loop.clock = self._clock
        self._loop.start(LOOK_INTERVAL, now=True)

    def stopService(self) -> None:
        """Stop."""
        super().stopService()
        if self._unsubscribe:
            self._unsubscribe()
        if self._loop and self._loop.running:
            self._loop.stop()

    def node_of(self, node_id: str, issued_at: float) -> str:
        """For which node a key stands now that was issued for this one."""
        return self._aliases.get((node_id, int(issued_at)), node_id) if self._aliases else node_id

    def found(self) -> list[Clone]:
        """Every clone that is sure, the newest first."""
        now = self._clock.seconds()
        sure = [each for each in self._all.values() if each.found_at and not _is_over(each, now)]
        return sorted(sure, key=lambda each: -each.found_at)

    def count(self) -> int:
        """How many were true in the last day."""
        since = self._clock.seconds() - TRUE_FOR
        return sum(each.seen_at >= since for each in self._all.values() if each.found_at)

    def of(self, node_id: str) -> list[str]:
        """The ids of a node's clones, of which it may be one itself; its own if they cannot be parted."""
        return sorted(self._others.get(node_id, ()))

    def all(self) -> Collection[Clone]:
        """Every clone, and who is only suspected."""
        return self._all.values()

    async def forget(self, node_id: str) -> None:
        """Say nothing of a node and its clones any more, unless they turn up again."""
        concerned = [each for each in self._all.values() if node_id in (each.node_id, each.clone_id)]
        await self._stores.clones.drop([each.clone_id for each in concerned if not each.keys])
        for each in concerned:
            # Keys go on to stand for their own machine.
            if each.keys:
                await self._stores.clones.keep(msgspec.structs.replace(each, seen_at=0.0))
        if concerned:
            await self._stores.signals.publish("clones")
            await self.refresh()

    async def refresh(self) -> None:
        """Look what the store has; what it had stays in force if it does not answer."""
        try:
            current = await self._stores.clones.all()
        except (StoreUnavailable, StoreFull):
            return
        self._all = {each.clone_id: each for each in current}
        self._aliases = {(each.node_id, key): each.clone_id for each in current for key in each.keys}
        self._others = {}
        for each in self.found():
            self._others.setdefault(each.node_id, set()).add(each.clone_id)
            self._others.setdefault(each.clone_id, set()).add(each.node_id)

    async def look(self) -> None:
        """See which of those suspected are clones, and which clones still are."""
        await self.refresh()
        now = self._clock.seconds()
        parted = [each for each in self._all.values() if each.is_parted and now - each.seen_at > _NOTED_EVERY]
        seen = await self.seen(each for pair in parted for each in (pair.node_id, pair.clone_id))
        for each in parted:
            both = min(seen[each.node_id], seen[each.clone_id])
            if both > max(each.suspected_at + GRACE, each.seen_at + _NOTED_EVERY):
                await self.keep(msgspec.structs.replace(each, found_at=each.found_at or now, seen_at=both))
        old = [each for each in self._all.values() if not each.keys and _is_over(each, now)]
        if old:
            await self._stores.clones.drop([each.clone_id for each in old])

    async def seen(self, node_ids: Iterable[str]) -> dict[str, float]:
        """When these nodes were last heard of; 0 for those that never were."""
        seen = dict.fromkeys(node_ids, 0.0)
        if seen:
            found = await self._stores.nodes.sightings(list(seen))
            seen |= {node_id: each.seen_at for node_id, each in found.items()}
        return seen

    async def found_in_use(self, node_id: str, name: str, kind: CloneKind, places: Sequence[str]) -> None:
        """Report two machines that stay one node."""
        now, known = self._clock.seconds(), self._all.get(node_id)
        if known and not known.is_parted and now - known.seen_at < _NOTED_EVERY:
            return
        node = await self._stores.nodes.get(node_id)
        await self.keep(
            Clone(
                node_id=node_id,
                clone_id=node_id,
                name=node.name if node else name or node_id,
                kind=kind,
                suspected_at=now,
                found_at=now,
                seen_at=now,
                places=tuple(dict.fromkeys((*places, *(known.places if known else ()))))[:MOST_PLACES],
            )
        )

    async def keep(self, clone: Clone) -> None:
        """Keep a clone, and report it if it is news."""
        is_news = await self._stores.clones.keep(clone)
        await self._stores.signals.publish("clones")
        await self.refresh()
        if is_news:
            self._log.warn(
                "clones: " + _SENTENCES[clone.kind, clone.is_parted],
                name=clone.name,
                node=clone.node_id,
                clone=clone.clone_id,
                places=", ".join(clone.places),
            )
            try:
                self._report("clone", clone.clone_id, {**clone_row(clone)})
            except Exception:
                self._log.failure("nobody could be told of clone {clone}", clone=clone.clone_id)

    def begin(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        """Do something that nobody waits for."""
        done = Deferred.fromCoroutine(work)
        # What the store did not take is found again: they do not stop being clones.
        done.addErrback(lambda failure: failure.trap(StoreUnavailable, StoreFull))
        done.addErrback(lambda failure: self._log.failure("clones could not be looked after", failure))
        return done


def clone_row(clone: Clone) -> CloneRow:
    """A clone as operators see it."""
    return {
        "name": clone.name,
        "node": clone.node_id,
        "clone": clone.clone_id,
        "kind": clone.kind,
        "parted": clone.is_parted,
        "places": [place.strip("|") for place in clone.places],
        "found_at": clone.found_at,
        "seen_at": clone.seen_at,
    }


def _is_over(clone: Clone, now: float) -> bool:
    if clone.found_at:
        return now - clone.seen_at > _KEPT_FOR
    return now - clone.suspected_at > _SUSPECTED_FOR
