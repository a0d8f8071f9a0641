"""A fleet of simulated nodes, started one after another, and what they went through together."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from osqtwist.simulator.certificates import CertificateSource
from osqtwist.simulator.node import Flags, SimulatedNode
from osqtwist.simulator.tables import Machine
from osqtwist.simulator.transport import Counts, Server, Transport, client_context


@attrs.define
class SimulatedFleet:
    """
    :ivar ramp: nodes started a second.
    :ivar certificates: where nodes get certificates; ``None`` goes without.
    :ivar domain: the names of nodes end with it, and two domains have other machines.
    """

    reactor: Any
    server: Server
    ca_file: str
    flags: Flags
    certificates: CertificateSource | None = None
    tls_version: str = ""
    seed: int = 0
    ramp: float = 200.0
    domain: str = "sim"
    counts: Counts = attrs.field(factory=Counts)
    nodes: list[SimulatedNode] = attrs.field(factory=list)
    _running: list[Deferred[None]] = attrs.field(factory=list)

    def add_node(self, number: int) -> SimulatedNode:
        """Make a node; it does nothing yet."""
        machine = Machine.number(number, self.seed, self.domain)
        credential = self.certificates.credential(machine.name) if self.certificates else None
        context = client_context(
            self.ca_file,
            credential.certificate if credential else None,
            credential.key if credential else None,
            self.tls_version,
        )
        transport = Transport(self.reactor, self.server, context, self.counts)
        node = SimulatedNode(self.reactor, transport, machine, self.flags)
        self.nodes.append(node)
        return node

    async def start(self, count: int) -> None:
        """Start nodes at the ramp; fires when the last has begun."""
        for number in range(count):
            node = self.add_node(len(self.nodes) + 1)
            running = Deferred.fromCoroutine(node.run())
            running.addErrback(lambda failure: failure.trap(CancelledError) and None)
            self._running.append(running)
            if number % 20 == 19 or self.ramp < 20:
                await deferLater(self.reactor, min(20, 1 + number) / self.ramp)

    def stop(self) -> None:
        """End every node at once, as a power cut would; what was not acknowledged is lost with them."""
        for running in self._running:
            running.cancel()
        self._running.clear()

    def summary(self) -> dict[str, Any]:
        """Figures over all nodes; ``seconds`` holds median and 99th percentile by route."""
        every = [node.statistics for node in self.nodes]
        requests: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        seconds: dict[str, list[float]] = {}
        for statistics in every:
            requests.update(statistics.requests)
            failures.update(statistics.failures)
            for route, values in statistics.seconds.items():
                seconds.setdefault(route, []).extend(values)
        return {
            "nodes": len(self.nodes),
            "enrolled": sum(bool(node.node_key) for node in self.nodes),
            "enrollments": sum(each.enrollments for each in every),
            "connections": self.counts.connections,
            "handshakes": self.counts.handshakes,
            "resends": self.counts.resends,
            "requests": dict(sorted(requests.items())),
            "failures": dict(failures.most_common(20)),
            "seconds": {route: _percentiles(values) for route, values in sorted(seconds.items())},
            "configs_applied": sum(each.configs_applied for each in every),
            "configs_unchanged": sum(each.configs_unchanged for each in every),
            "schedule_wipes": sum(each.schedule_wipes for each in every),
            "invalidated": sum(each.invalidated for each in every),
            "lines_generated": sum(node.logs.generated for node in self.nodes),
            "lines_acknowledged": sum(len(node.logs.acknowledged) for node in self.nodes),
            "lines_purged": sum(node.logs.purged for node in self.nodes),
            "queries_answered": sum(each.queries_answered for each in every),
            "carves_completed": sum(each.carves_completed for each in every),
        }


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(ordered[len(ordered) // 2], 4),
        "p99": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 4),
    }
