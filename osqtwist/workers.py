"""
Worker processes: the front of a server with ``--workers``.

Each is a child that serves nodes on sockets of its own.  We keep those sockets open, so what waits in the queue of a
worker that died, or that makes room for a new one, is served by the one after it: no connection is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import DeferredLock, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger

from osqtwist.figures import SummedFigures
from osqtwist.front import DRAIN_SECONDS
from osqtwist.metrics import Metrics
from osqtwist.ports import BoundPort
from osqtwist.server import StartFailed
from osqtwist.settings import Settings
from osqtwist.supervision import MESSAGES, ChildProcess
from osqtwist.web.workers import NotReplaced, WorkerRow

REPORT_SECONDS = 2.0
"""How often a worker says what it has counted."""
LONGEST_SILENCE = 30.0
LONGEST_START = 30.0
FIRST_SOCKET = MESSAGES + 1
RELOAD = "reload"
_LOOK = 0.05


class GoodFiles(msgspec.Struct, frozen=True):
    """
    What was in the files that a worker reads, when it was last good.

    A worker that has to be started again serves with it while they are rubbish, as the others go on to do.

    :ivar tls: by path.
    :ivar config: by name in the config folder.
    """

    tls: dict[str, bytes] = {}
    config: dict[str, str] = {}
    secrets: str = ""
    signing_keys: str = ""


class WorkerInstructions(msgspec.Struct):
    """
    What a worker is told.

    :ivar settings: with the certificates that the parent uses.
    :ivar sockets: endpoint descriptions of the sockets that it finds open from :data:`FIRST_SOCKET` on.
    """

    settings: Settings
    redis_url: str
    secret_path: str | None
    sockets: list[str]
    good: GoodFiles


def worker_words() -> list[str]:
    """How a worker is started."""
    return [sys.executable, "-P", "-m", "osqtwist.worker"]


@attrs.define(eq=False)
class Workers:
    """
    As many workers as there are shares of the ports; a :class:`osqtwist.front.Front`.

    :ivar shares: for each worker its sockets.
    :ivar good_files: what a worker is given in case the files are no good.
    """

    reactor: Any
    words: Sequence[str]
    instructions: WorkerInstructions
    shares: Sequence[Sequence[BoundPort]]
    figures: SummedFigures
    metrics: Metrics
    good_files: Callable[[], GoodFiles]
    _children: list[ChildProcess] = attrs.field(factory=list, init=False)
    _turns: DeferredLock = attrs.field(factory=DeferredLock, init=False)
    _log = Logger()

    async def open(self) -> None:
        """See :class:`osqtwist.front.Front`; fires when every worker serves."""
        self._children = [self._child(number) for number in range(len(self.shares))]
        for child in self._children:
            child.startService()
        for child in self._children:
            if not await self._is_ready(child):
                raise StartFailed(f"{child.name} did not start; the log says why")

    async def shut(self) -> None:
        """End all workers in order: each answers what it holds and finishes what is under way."""
        await gatherResults([child.stopService() for child in self._children])
        for bound in {port.socket: port for share in self.shares for port in share}.values():
            bound.socket.close()

    async def drain(self) -> None:
        """Workers drain before they end."""

    def reload(self) -> None:
        """Have every worker read its files again."""
        for child in self._children:
            child.tell(RELOAD)

    async def replace(self) -> int:
        """
        Replace the workers by new ones, one after the other, without refusing a connection.

        A new one serves beside the old one before that drains and ends.  Fires with how many were replaced.

        :raise NotReplaced: a new one does not serve; the old one and those after it stay.
        """
        await self._turns.acquire()
        try:
            for number, old in enumerate(self._children):
                new = self._child(number)
                new.startService()
                if not await self._is_ready(new):
                    await new.stopService()
                    raise NotReplaced(f"a new {new.name} did not start; the old one stays, and the log says why")
                self._children[number] = new
                await old.stopService()
                self.figures.end(old)
            return len(self._children)
        finally:
            self._turns.release()

    def rows(self) -> list[WorkerRow]:
        """The workers, ready to be JSON."""
        return [
            {
                "worker": number,
                "pid": child.pid or None,
                "state": "serving" if child.is_ready else "starting",
                "starts": child.starts,
                "connections": int(self.figures.value_of(child, "osqtwist_connections")),
                "parked_reads": int(self.figures.value_of(child, "osqtwist_parked_reads")),
                "requests": int(self.figures.value_of(child, "osqtwist_requests_total")),
            }
            for number, child in enumerate(self._children, 1)
        ]

    def _child(self, number: int) -> ChildProcess:
        share = self.shares[number]
        child = ChildProcess(
            self.reactor,
            f"worker {number + 1}",
            self.words,
            lambda: self._instructions(share),
            descriptors={FIRST_SOCKET + place: port.socket.fileno() for place, port in enumerate(share)},
            longest_silence=LONGEST_SILENCE,
            stop_seconds=DRAIN_SECONDS + 7.0,
        )

        def happened(word: str) -> None:
            self.metrics.workers.set(sum(each.is_ready for each in self._children))
            if word == "died":
                self.metrics.worker_deaths.inc()
                self.figures.end(child)

        child.on_event = happened
        child.on_figures = lambda families: self.figures.update(child, families)
        return child

    def _instructions(self, share: Sequence[BoundPort]) -> bytes:
        sockets = [port.spoken for port in share]
        return msgspec.json.encode(msgspec.structs.replace(self.instructions, sockets=sockets, good=self.good_files()))

    async def _is_ready(self, child: ChildProcess) -> bool:
        until = self.reactor.seconds() + LONGEST_START
        while not child.is_ready and child.pid and self.reactor.seconds() < until:
            await deferLater(self.reactor, _LOOK)
        return child.is_ready
