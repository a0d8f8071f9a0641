"""The nodes of the crash test: they post numbered lines, and keep each until it is acknowledged, as osqueryd does."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from osqtwist.simulator.certificates import CertificateSource
from osqtwist.simulator.fleet import SimulatedFleet
from osqtwist.simulator.node import Flags, SimulatedNode
from osqtwist.simulator.rules import CallFailed
from osqtwist.simulator.transport import Server, TransportFailed


@attrs.define
class Crew:
    """
    Nodes that log as fast as they are told to.

    :ivar rate: lines a second of each node.
    :ivar refused: posts that were not acknowledged.
    """

    reactor: Any
    random: random.Random
    rate: float
    fleet: SimulatedFleet
    posts: int = 0
    refused: int = 0
    is_logging: bool = True
    _lives: list[Deferred[None]] = attrs.field(factory=list)

    @classmethod
    def of(cls, reactor: Any, folder: Path, port: int, chance: random.Random, rate: float) -> Crew:
        """A crew without nodes, with the certificates of a folder."""
        certs = folder / "certs"
        flags = Flags(enroll_secret=(folder / "state" / "enroll-secret").read_text().split()[0])
        server = Server("localhost", port, "127.0.0.1")
        fleet = SimulatedFleet(reactor, server, str(certs / "ca.pem"), flags, CertificateSource.of(certs))
        return cls(reactor, chance, rate, fleet)

    def start(self, count: int) -> None:
        """Begin with so many nodes."""
        for number in range(count):
            node = self.fleet.add_node(number + 1)
            self._lives.append(Deferred.fromCoroutine(self._live(node)))

    async def _live(self, node: SimulatedNode) -> None:
        added_at = self.reactor.seconds()
        owed, failures = 0.0, 0
        try:
            while True:
                now = self.reactor.seconds()
                if self.is_logging:
                    owed += (now - added_at) * self.rate
                    while owed >= 1:
                        owed -= 1
                        _log(node)
                added_at = now
                failures = 0 if await self._post(node) else failures + 1
                # A real node waits longer; here there is only a minute.
                pause = self.random.uniform(0.2, 0.6) * min(4, 1 + failures)
                await deferLater(self.reactor, pause)
        except CancelledError:
            return

    async def _post(self, node: SimulatedNode) -> bool:
        if not len(node.logs):
            return True
        self.posts += 1
        try:
            await node.flush_logs()
        except (CallFailed, TransportFailed):
            self.refused += 1
            return False
        return True

    @property
    def waiting(self) -> int:
        """Lines that are not acknowledged yet."""
        return sum(len(node.logs) for node in self.fleet.nodes)

    def acknowledged(self) -> set[tuple[str, int]]:
        """Node and number of every line that was acknowledged."""
        return {(node.machine.uuid, number) for node in self.fleet.nodes for number in node.logs.acknowledged}

    def stop(self) -> None:
        """End the nodes."""
        for life in self._lives:
            life.cancel()


def _log(node: SimulatedNode) -> None:
    now = time.time()
    line = {
        "name": "numbered",
        "hostIdentifier": node.machine.uuid,
        "calendarTime": time.strftime("%a %b %e %H:%M:%S %Y UTC", time.gmtime(now)),
        "unixTime": int(now),
        "epoch": 0,
        "counter": node.logs.generated,
        "columns": {"number": str(node.logs.generated + 1), "path": "/usr/bin/true", "pid": "4711"},
        "action": "added",
    }
    node.logs.add("result", line)
