"""
How much a fleet needs: what nodes do, times what was measured.

The figures are those of ``docs/benchmarks.md``, from one host of 2 cores; ``docs/capacity.md`` says where each is from.
``python -m bench.capacity`` measures some of them anew, and simulates waiting.
"""

from __future__ import annotations

import math

import attrs


@attrs.frozen
class Mix:
    """What a node does; seconds and bytes."""

    hold: float = 10.0
    pause: float = 1.0
    config: float = 60.0
    logs: float = 10.0
    log_bytes: int = 2000

    @property
    def connections(self) -> float:
        """A second, each with a full handshake."""
        return 1 / (self.hold + self.pause) + 1 / self.config + 1 / self.logs

    @property
    def held(self) -> float:
        """The share of the time in which a read is held."""
        return self.hold / (self.hold + self.pause)


STOCK = Mix()
MIXES = {
    "stock": STOCK,
    "eased 1": attrs.evolve(STOCK, logs=20.0, log_bytes=4000),
    "eased 3": attrs.evolve(STOCK, logs=60.0, log_bytes=12000, pause=5.0),
    "no live queries": attrs.evolve(STOCK, hold=0.0, pause=60.0),
}


@attrs.frozen
class Costs:
    """
    What was measured on one host; the docs say where.

    :ivar connection_us: CPU of a connection with its request, P-256, TLS 1.3, on a busy process, without the store.
    :ivar reach_us: to hand a live query to a held node; :attr:`hear_us` to take its result and its next read.
    :ivar append_us: CPU of Redis for a log post, :attr:`sighting_us` for a node that was seen.
    :ivar seen_every: seconds between two sightings of a node that are written down.
    :ivar wire_bytes: of a handshake and the heads of a request and its answer, both ways.
    """

    connection_us: float = 1029.0
    reach_us: float = 220.0
    hear_us: float = 2200.0
    held_bytes: float = 38_000.0
    append_us: float = 110.0
    sighting_us: float = 12.0
    seen_every: float = 20.0
    node_bytes: float = 3_000.0
    wire_bytes: float = 4_500.0


RSA = attrs.evolve(Costs(), connection_us=1029.0 * 1.3)
BUSY = 0.7
"""The share of a processor that is planned with: past it waiting grows (see the simulation)."""
PORTS = 28_000
"""That a balancer has towards each address and port of a host."""
LIMITS = ("host CPU", "host memory", "log Redis CPU", "main Redis CPU")


@attrs.frozen
class Host:
    """A machine that serves nodes."""

    cores: int = 8
    memory: float = 16e9
    processes: int = 8


def needs(nodes: int, mix: Mix, costs: Costs, host: Host) -> dict[str, float]:
    """What a fleet needs; counts of machines are rounded up."""
    connections = nodes * mix.connections
    held = nodes * mix.held
    posts = nodes / mix.logs
    cores = connections * costs.connection_us / 1e6 / BUSY
    memory = held * costs.held_bytes
    by_cpu, by_memory = cores / host.cores, memory / (host.memory * BUSY)
    hosts = max(1, math.ceil(max(by_cpu, by_memory)))
    return {
        "nodes": nodes,
        "connections a second": connections,
        "held reads": held,
        "cores": cores,
        "memory GB": memory / 1e9,
        "hosts": hosts,
        "held reads a process": held / hosts / host.processes,
        "log posts a second": posts,
        "log MB a second": nodes * mix.log_bytes / mix.logs / 1e6,
        "log Redis cores": posts * costs.append_us / 1e6,
        "log Redis servers": max(1, math.ceil(posts * costs.append_us / 1e6 / BUSY)),
        "log GB an hour": nodes * mix.log_bytes / mix.logs * 3600 / 1e9,
        "main Redis cores": nodes / max(costs.seen_every, 1.0) * costs.sighting_us / 1e6,
        "main Redis GB": nodes * costs.node_bytes / 1e9,
        "network MB a second": (connections * costs.wire_bytes + nodes * mix.log_bytes / mix.logs) / 1e6,
        "balancer ports": held / PORTS,
        "seconds to reach all": nodes * costs.reach_us / 1e6 / (hosts * host.cores),
        "seconds to hear all": nodes * costs.hear_us / 1e6 / (hosts * host.cores * (1 - BUSY)),
    }


def first_limits(mix: Mix, costs: Costs, host: Host) -> dict[str, float]:
    """How many nodes one host, and one Redis of each kind, is good for."""
    one = needs(1, mix, costs, host)
    return {
        "host CPU": host.cores / one["cores"],
        "host memory": host.memory * BUSY / max(mix.held * costs.held_bytes, 1.0),
        "log Redis CPU": BUSY / one["log Redis cores"],
        "main Redis CPU": BUSY / one["main Redis cores"],
    }


def figure(value: float) -> str:
    """A figure as a person reads it."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
