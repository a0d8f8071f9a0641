"""What a run came to."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from bench.fleet.exchange import Exchange, Loop


def quantiles(values: Sequence[float], scale: float = 1000.0) -> dict[str, float]:
    """Median, p90, p99 and the greatest, in milliseconds if the values are seconds."""
    if not values:
        return {}
    ordered = sorted(values)
    last = len(ordered) - 1
    points = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[round(part * last)] * scale, 2) for name, part in points.items()}


@attrs.define
class Route:
    """What became of the requests of one kind: seconds of those that were answered, problems of the others."""

    seconds: array[float] = attrs.field(factory=lambda: array("d"))
    problems: Counter[str] = attrs.field(factory=Counter)


@attrs.define
class Figures:
    """
    Counts everything.

    :ivar keeps_samples: whether to keep each request's times too, which costs 100 bytes each.
    """

    loop: Loop
    keeps_samples: bool = False
    routes: dict[str, Route] = attrs.field(factory=dict)
    handshakes: array[float] = attrs.field(factory=lambda: array("d"))
    late: array[float] = attrs.field(factory=lambda: array("d"))
    queries: dict[str, list[float]] = attrs.field(factory=dict)
    results: dict[str, list[float]] = attrs.field(factory=dict)
    log_lines: int = 0
    _samples: list[tuple[float, float, str, int, str]] = attrs.field(factory=list)
    _began: float = 0.0
    _began_cpu: float = 0.0

    def begin(self) -> None:
        """Count time from here."""
        self._began = time.monotonic()
        self._began_cpu = time.process_time()

    def ended(self, exchange: Exchange, problem: str) -> None:
        """A request is over; the problem is the transport's or what the server said."""
        now = self.loop.now()
        route = self.routes.setdefault(exchange.kind, Route())
        if problem:
            route.problems[problem] += 1
        else:
            route.seconds.append(now - exchange.started)
            if not exchange.is_resent:
                self.handshakes.append(exchange.shaken - exchange.started)
        if self.keeps_samples:
            self._samples.append((exchange.started, now, exchange.kind, exchange.node, problem))

    def progress(self) -> dict[str, Any]:
        """Where it stands: sums since the beginning."""
        return {
            "at": round(time.monotonic() - self._began, 2),
            "open": self.loop.open_connections,
            "waiting": {kind: count for kind, count in self.loop.waiting.items() if count},
            "connections": self.loop.connections,
            "answered": {kind: len(route.seconds) for kind, route in self.routes.items()},
            "failed": {kind: route.problems.total() for kind, route in self.routes.items() if route.problems},
            "cpu": round(time.process_time() - self._began_cpu, 3),
        }

    def report(self, nodes: int) -> dict[str, Any]:
        """All of it."""
        seconds = time.monotonic() - self._began
        cpu = time.process_time() - self._began_cpu
        connections = self.loop.connections
        return {
            "nodes": nodes,
            "seconds": round(seconds, 2),
            "connections": connections,
            "connections_per_second": round(connections / seconds, 1),
            "resent": self.loop.resent,
            "own_cpu_us_per_connection": round(cpu / connections * 1e6) if connections else None,
            "late_ms": quantiles(self.late),
            "handshake_ms": quantiles(self.handshakes),
            "log_lines_acknowledged": self.log_lines,
            "routes": {
                kind: {
                    "answered": len(route.seconds),
                    "failed": route.problems.total(),
                    "problems": dict(route.problems.most_common(8)),
                    "ms": quantiles(route.seconds),
                }
                for kind, route in sorted(self.routes.items())
            },
        }

    def write_samples(self, path: Path) -> None:
        """Each request on a line: when it began and ended (monotonic clock), kind, node, problem."""
        with path.open("w") as file:
            for began, ended, kind, node, problem in self._samples:
                file.write(f"{began:.6f}\t{ended:.6f}\t{kind}\t{node}\t{problem}\n")
