"""The history of figures: sampled all the time, at the same cost however many nodes there are."""

from __future__ import annotations

from typing import ClassVar, Literal, TypedDict

import attrs
from prometheus_client import Metric
from twisted.internet.interfaces import IReactorTime

from osqtwist.housekeeping import Rounds
from osqtwist.interfaces import IStores
from osqtwist.inventory import Inventory
from osqtwist.sample import FIGURES, SPANS, Sample, curves
from osqtwist.sinkview import SinkView

SpanName = Literal["hour", "day"]


class Curves(TypedDict):
    """
    Figures over time, the oldest first, `step` seconds from one to the next; `at` is the time of the last.

    A point is null where nothing is known. `accepted` (connections), `enrollments`, `log_lines`, `refusals` and
    `results` are so many a second, the others as they were.
    """

    span: SpanName
    step: int
    at: float
    figures: dict[str, list[float | None]]


@attrs.frozen
class History:
    """Reads it."""

    clock: IReactorTime
    stores: IStores

    async def curves(self, name: SpanName) -> Curves:
        """The curves of a span that ends now."""
        now = self.clock.seconds()
        span = next(each for each in SPANS if each.name == name)
        # The last point that is whole: one that samples are still to come for would dip.
        until = now // span.step * span.step
        # A rate needs the sample before.
        samples = await self.stores.history.since(name, until - span.seconds - 4 * span.step)
        return {"span": name, "step": span.step, "at": until, "figures": curves(samples, span, until)}


@attrs.define(eq=False)
class Sampling(Rounds):
    """
    Keeps a sample every few seconds; one write for each.

    :ivar process: the name of this process, another one after each start.
    """

    interval: ClassVar[float] = SPANS[0].step

    inventory: Inventory
    sinks: SinkView
    process: str
    _last: dict[str, int] = attrs.field(factory=dict, init=False)

    async def go_round(self) -> None:
        """Once."""
        await self.inventory.ping()
        await self.inventory.update_metrics()
        await self.sinks.update_metrics()
        now = self.clock.seconds()
        sample = Sample(process=self.process, at=round(now, 1), values=_values(list(self.inventory.figures.collect())))
        due = [span for span in SPANS if self._last.get(span.name) != int(now // span.step)]
        if due:
            await self.stores.history.add(sample, {span.name: now - span.seconds - 4 * span.step for span in due})
            self._last |= {span.name: int(now // span.step) for span in due}


def _values(metrics: list[Metric]) -> dict[str, float]:
    by_sample: dict[str, float] = {}
    for metric in metrics:
        for each in metric.samples:
            by_sample[each.name] = by_sample.get(each.name, 0.0) + each.value
    # What has labels has no sample before it first counts something.
    return {figure.name: by_sample.get(figure.metric, 0.0) for figure in FIGURES}
