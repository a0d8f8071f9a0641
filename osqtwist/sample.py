"""
Figures over time: what is kept of a moment, and the curve that many of them make.

Every process that serves operators keeps a sample of the figures of its own every ten seconds.  What the store knows
(nodes, the log buffer) is the same in the samples of all of them; what a process counted is its own, and a curve is
the sum of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import attrs
import msgspec

Kind = Literal["fleet", "now", "rate"]


@attrs.frozen
class Figure:
    """
    One curve.

    :ivar metric: what it is a sum of.
    :ivar kind: ``fleet``: what the store knows; ``now``: a gauge of each process; ``rate``: what each process counts,
        as so many a second.
    """

    name: str
    metric: str
    kind: Kind


FIGURES = (
    Figure("nodes", "osqtwist_nodes", "fleet"),
    Figure("nodes_online", "osqtwist_nodes_online", "fleet"),
    Figure("log_buffer_bytes", "osqtwist_log_buffer_bytes", "fleet"),
    Figure("dead_letters", "osqtwist_dead_letters", "fleet"),
    Figure("sink_lag_lines", "osqtwist_sink_lag_lines", "fleet"),
    Figure("connections", "osqtwist_connections", "now"),
    Figure("parked_reads", "osqtwist_parked_reads", "now"),
    Figure("accepted", "osqtwist_connections_accepted_total", "rate"),
    Figure("enrollments", "osqtwist_enrollments_total", "rate"),
    Figure("log_lines", "osqtwist_log_lines_total", "rate"),
    Figure("refusals", "osqtwist_refusals_total", "rate"),
    Figure("results", "osqtwist_query_results_total", "rate"),
)


@attrs.frozen
class Span:
    """
    How far back curves go.

    :ivar step: seconds from one point to the next.
    """

    name: str
    seconds: int
    step: int

    @property
    def points(self) -> int:
        """How many there are."""
        return self.seconds // self.step


SPANS = (Span("hour", 3600, 10), Span("day", 86400, 300))


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """
    The figures of a process at one moment.

    :ivar process: another one after each start, so that what is counted never falls.
    :ivar at: Unix time.
    :ivar values: by the names of :data:`FIGURES`; of rates what was counted so far.
    """

    process: str
    at: float
    values: dict[str, float]


def curves(samples: Sequence[Sample], span: Span, until: float) -> dict[str, list[float | None]]:
    """
    The curves of a span that ends at a time; ``None`` where nothing is known.

    A rate needs two samples of one process that are not far from each other, so there is none across a restart.
    """
    grids = {figure.name: _Grid(span, until) for figure in FIGURES}
    for process in {sample.process for sample in samples}:
        before: Sample | None = None
        for sample in sorted((each for each in samples if each.process == process), key=lambda each: each.at):
            seconds = sample.at - before.at if before else math.inf
            for figure in FIGURES:
                value = sample.values.get(figure.name)
                if value is None:
                    continue
                if figure.kind == "rate":
                    counted = before.values.get(figure.name) if before else None
                    if counted is not None and 0 < seconds <= 4 * span.step:
                        rate = max(0.0, value - counted) / seconds
                        grids[figure.name].put(sample.at - seconds, sample.at, process, rate)
                else:
                    whose = "" if figure.kind == "fleet" else process
                    grids[figure.name].put(sample.at - min(seconds, 2 * span.step), sample.at, whose, value)
            before = sample
    return {name: grid.points() for name, grid in grids.items()}


@attrs.define
class _Grid:
    """Points of a curve, each with a value for each process."""

    span: Span
    until: float
    _values: dict[int, dict[str, float]] = attrs.field(factory=dict, init=False)

    def put(self, after: float, at: float, process: str, value: float) -> None:
        """A value that holds from after one time up to another."""
        last = self._index(at)
        for index in range(max(self._index(after) + 1, 0), last + 1):
            if index < self.span.points:
                self._values.setdefault(index, {})[process] = value

    def _index(self, at: float) -> int:
        return math.ceil((at - self.until) / self.span.step) + self.span.points - 1

    def points(self) -> list[float | None]:
        found = [self._values.get(index) for index in range(self.span.points)]
        return [round(sum(each.values()), 3) if each else None for each in found]
