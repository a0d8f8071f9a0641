"""The sinks, for operators: how far each has come, what is wrong with it, and what can be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from osqtwist.interfaces import IStores, NoSuchThing
from osqtwist.loginterfaces import NoSuchSink, SinkLag, SinkReport, StoredBatch
from osqtwist.metrics import Metrics

REPORT_IS_OLD = 20.0
"""Seconds after which a delivery process that does not report counts as gone."""
_PAGE = 50

Emit = Callable[[dict[str, Any]], None]


@attrs.frozen
class SinkState:
    """
    One sink: its lag, and what the processes that serve it say.

    :ivar state: ``running``, ``waiting`` (its destination does not take lines), ``paused``, or ``unserved`` (no
        process serves it).
    """

    name: str
    lag: SinkLag
    reports: Sequence[SinkReport]
    state: str

    @property
    def kind(self) -> str:
        """What kind it is, if a process ever said so."""
        return self.reports[0].kind if self.reports else ""

    @property
    def trouble(self) -> str:
        """The last thing that went wrong, if it has not been mended since."""
        if self.state not in ("waiting", "unserved") or not self.reports:
            return ""
        return max(self.reports, key=lambda each: each.trouble_at).trouble


@attrs.frozen
class SinkView:
    """Looks at the sinks and works their levers."""

    clock: IReactorTime
    stores: IStores
    metrics: Metrics

    async def states(self) -> list[SinkState]:
        """Every sink that has a cursor."""
        sinks = self.stores.sinks
        names = await sinks.names()
        lags = await sinks.lag(names)
        paused = await sinks.paused()
        reports = await sinks.reports()
        return [
            self._state(name, lags[name], name in paused, [each for each in reports if each.sink == name])
            for name in names
            if name in lags
        ]

    def _state(self, name: str, lag: SinkLag, is_paused: bool, reports: list[SinkReport]) -> SinkState:
        now = self.clock.seconds()
        live = [each for each in reports if now - each.at <= REPORT_IS_OLD]
        if is_paused:
            state = "paused"
        elif not live:
            state = "unserved"
        else:
            state = "waiting" if all(each.state == "waiting" for each in live) else "running"
        return SinkState(name, lag, live or reports, state)

    async def update_metrics(self) -> None:
        """Set the sinks' metrics; those of sinks that are no more are dropped."""
        metrics, now = self.metrics, self.clock.seconds()
        gauges = (
            (metrics.sink_lag_lines, lambda each: each.lag.lines),
            (metrics.sink_lag_bytes, lambda each: each.lag.bytes),
            (metrics.sink_lag_seconds, lambda each: max(0.0, now - each.lag.oldest) if each.lag.oldest else 0.0),
            (metrics.sink_dead_letters, lambda each: each.lag.dead_letters),
            (metrics.sink_lines, lambda each: sum(report.lines for report in each.reports)),
            (metrics.sink_refused, lambda each: sum(report.refused for report in each.reports)),
            (metrics.sink_failures, lambda each: sum(report.failures for report in each.reports)),
            (metrics.sink_up, lambda each: each.state in ("running", "paused")),
        )
        states = await self.states()
        for gauge, figure in gauges:
            gauge.clear()
            for each in states:
                gauge.labels(sink=each.name).set(figure(each))

    async def rows(self) -> list[dict[str, Any]]:
        """All sinks, ready to be JSON."""
        now = self.clock.seconds()
        return [
            {
                "sink": each.name,
                "kind": each.kind,
                "state": each.state,
                "lag_lines": each.lag.lines,
                "lag_bytes": each.lag.bytes,
                "lag_seconds": round(max(0.0, now - each.lag.oldest), 1) if each.lag.oldest else 0.0,
                "under_way": each.lag.taken,
                "rate": round(sum(report.rate for report in each.reports), 2),
                "lines": sum(report.lines for report in each.reports),
                "left_out": sum(report.left_out for report in each.reports),
                "refused": sum(report.refused for report in each.reports),
                "dead_letters": each.lag.dead_letters,
                "failures": sum(report.failures for report in each.reports),
                "trouble": each.trouble,
                "consumers": sorted({report.consumer for report in each.reports}),
            }
            for each in await self.states()
        ]

    async def pause(self, sink: str, is_paused: bool) -> dict[str, Any]:
        """Stop delivering, or go on."""
        await self.known(sink)
        await self.stores.sinks.pause(sink, is_paused)
        return {"sink": sink, "paused": is_paused}

    async def replay(self, sink: str, batch_id: str, since: float | None) -> dict[str, Any]:
        """
        Deliver again what is still in the buffer, from a batch or a moment on.

        :raise NoSuchThing: there is no such sink.
        :raise ValueError: the id is none.
        """
        try:
            await self.stores.sinks.rewind(sink, batch_id, since or 0.0)
        except NoSuchSink as problem:
            raise NoSuchThing(str(problem)) from None
        lag = (await self.stores.sinks.lag([sink])).get(sink, SinkLag())
        return {"sink": sink, "lines": lag.lines, "bytes": lag.bytes}

    async def replay_dead(self, sink: str) -> dict[str, Any]:
        """Have the lines that a sink refused brought to it again; those it refuses again stay dead letters."""
        await self.known(sink)
        count = (await self.stores.sinks.lag([sink])).get(sink, SinkLag()).dead_letters
        await self.stores.sinks.ask_again(sink)
        return {"sink": sink, "dead_letters": count}

    async def forget(self, sink: str) -> dict[str, Any]:
        """Delete a sink's cursor, so that the buffer keeps nothing for it any more."""
        if not await self.stores.sinks.forget(sink):
            raise NoSuchThing(f"there is no sink {sink!r}")
        return {"sink": sink, "forgotten": True}

    async def dead_letters(self, sink: str, emit: Emit) -> None:
        """Hand on the lines that a sink refused."""
        await self.known(sink)
        cursor = ""
        while page := await self.stores.sinks.dead_letters(sink, cursor, _PAGE):
            for stored in page:
                cursor = stored.batch_id
                for line in dead_lines(stored):
                    emit({"sink": sink} | line)

    async def known(self, sink: str) -> None:
        """Fire if there is such a sink; else :class:`NoSuchThing`."""
        if sink not in await self.stores.sinks.names():
            raise NoSuchThing(f"there is no sink {sink!r}")


def dead_lines(stored: StoredBatch) -> list[dict[str, Any]]:
    """The dead lines of a dead letter, with who sent them and why they are there."""
    origin = origin_of(stored)
    return [
        origin | {"reason": dead.reason, "text": dead.line.decode("utf-8", "backslashreplace")}
        for dead in stored.batch.dead
    ]


def origin_of(stored: StoredBatch) -> dict[str, Any]:
    """Who sent a batch, as proven, and when."""
    batch = stored.batch
    return {
        "node": batch.node_id,
        "name": batch.node_name,
        "identity": batch.identity,
        "serial": batch.serial,
        "address": batch.address,
        "received_at": batch.received_at,
        "log_type": batch.log_type,
    }
