"""The sinks, for operators: how far each has come, what is wrong with it, and what can be done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

import attrs
from twisted.internet.interfaces import IReactorTime

from osqtwist.interfaces import IStores, NoSuchThing, StoreFull, StoreUnavailable
from osqtwist.loginterfaces import LogServer, NoSuchSink, SinkLag, SinkReport, StoredBatch
from osqtwist.metrics import Metrics

REPORT_IS_OLD = 20.0
"""Seconds after which a delivery process that does not report counts as gone."""
_PAGE = 50

SinkWord = Literal["running", "waiting", "paused", "unserved"]
"""See :attr:`SinkState.state`."""


class SinkRow(TypedDict):
    """A log sink: how far it has come, and what is wrong with it."""

    sink: str
    kind: str
    state: SinkWord
    lag_lines: int
    lag_bytes: int
    lag_seconds: float
    under_way: int
    rate: float
    lines: int
    left_out: int
    refused: int
    dead_letters: int
    failures: int
    trouble: str
    consumers: list[str]


class SinkPaused(TypedDict):
    """Whether nothing is delivered to a sink."""

    sink: str
    paused: bool


class SinkReplayed(TypedDict):
    """How much a sink has before it again: at most so many lines, or dead letters."""

    sink: str
    lines: NotRequired[int]
    bytes: NotRequired[int]
    dead_letters: NotRequired[int]


class SinkForgotten(TypedDict):
    """A sink that nothing is kept for any more."""

    sink: str
    forgotten: bool


class LineOrigin(TypedDict):
    """Who sent a line, as proven, and when."""

    node: str
    name: str
    identity: str
    serial: str
    address: str
    received_at: float
    log_type: str


class DeadLine(LineOrigin):
    """A line that could not be delivered, and why."""

    reason: str
    text: str


class SinkDeadLine(DeadLine):
    """A line that a sink refused, and why."""

    sink: str


Emit = Callable[[SinkDeadLine], None]


_WORST_FIRST: tuple[SinkWord, ...] = ("paused", "unserved", "waiting", "running")


@attrs.frozen
class SinkState:
    """
    One sink: its lag, and what the processes that serve it say.

    :ivar reports: one of each process for each server of the log buffer.
    :ivar state: ``running``, ``waiting`` (its destination does not take lines), ``paused``, or ``unserved`` (no
        process serves it); with several servers that of the worst off.
    :ivar trouble: the last thing that went wrong, if it has not been mended since.
    :ivar lags: by server, those that answer.
    """

    name: str
    lag: SinkLag
    reports: Sequence[SinkReport]
    state: SinkWord
    trouble: str = ""
    lags: Mapping[str, SinkLag] = attrs.field(factory=dict)

    @property
    def kind(self) -> str:
        """What kind it is, if a process ever said so."""
        return self.reports[0].kind if self.reports else ""


@attrs.frozen
class SinkView:
    """Looks at the sinks and works their levers."""

    clock: IReactorTime
    stores: IStores
    metrics: Metrics

    async def states(self) -> list[SinkState]:
        """
        Every sink that has a cursor.

        :raise StoreUnavailable: no server answers; of one among others the sinks say that it does not.
        """
        found: dict[str, dict[str, SinkState]] = {}
        servers, trouble = [], []
        for server in self.stores.log_servers:
            try:
                found[server.name] = await self._states_on(server)
                servers.append(server)
            except (StoreUnavailable, StoreFull) as problem:
                trouble.append(f"{server.name} does not answer, and what it holds is not counted")
                if len(trouble) == len(self.stores.log_servers):
                    raise problem
        for name in {name for states in found.values() for name in states}:
            for server in servers:
                if name not in found[server.name]:
                    found[server.name] |= await self._without_cursor(server, name)
        names = sorted({name for states in found.values() for name in states})
        return [combined([states[name] for states in found.values() if name in states], trouble) for name in names]

    async def _states_on(self, server: LogServer) -> dict[str, SinkState]:
        names = await server.sinks.names()
        lags = await server.sinks.lag(names)
        paused = await server.sinks.paused()
        reports = await server.sinks.reports()
        return {
            name: self._state(server, name, lags[name], name in paused, [each for each in reports if each.sink == name])
            for name in names
            if name in lags
        }

    def _state(
        self, server: LogServer, name: str, lag: SinkLag, is_paused: bool, reports: list[SinkReport]
    ) -> SinkState:
        now = self.clock.seconds()
        live = [each for each in reports if now - each.at <= REPORT_IS_OLD]
        if is_paused:
            state: SinkWord = "paused"
        elif not live:
            state = "unserved"
        else:
            state = "waiting" if all(each.state == "waiting" for each in live) else "running"
        reports = live or reports
        trouble = ""
        if state in ("waiting", "unserved") and reports:
            trouble = max(reports, key=lambda each: each.trouble_at).trouble
        return SinkState(name, lag, reports, state, trouble, {server.name: lag})

    async def _without_cursor(self, server: LogServer, name: str) -> dict[str, SinkState]:
        """A sink that other servers know: what is here waits for a delivery process that knows of this server too."""
        try:
            held = (await server.logs.size()).bytes
        except (StoreUnavailable, StoreFull):
            return {}
        if not held:
            return {}
        lag = SinkLag(bytes=held)
        return {name: SinkState(name, lag, (), "unserved", f"nobody delivers from {server.name}", {server.name: lag})}

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

    async def rows(self) -> list[SinkRow]:
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

    async def pause(self, sink: str, is_paused: bool) -> SinkPaused:
        """Stop delivering, or go on."""
        await self.known(sink)
        await self.stores.sinks.pause(sink, is_paused)
        return {"sink": sink, "paused": is_paused}

    async def replay(self, sink: str, batch_id: str, since: float | None) -> SinkReplayed:
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

    async def replay_dead(self, sink: str) -> SinkReplayed:
        """Have the lines that a sink refused brought to it again; those it refuses again stay dead letters."""
        await self.known(sink)
        count = (await self.stores.sinks.lag([sink])).get(sink, SinkLag()).dead_letters
        await self.stores.sinks.ask_again(sink)
        return {"sink": sink, "dead_letters": count}

    async def forget(self, sink: str) -> SinkForgotten:
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
                    emit({**line, "sink": sink})

    async def known(self, sink: str) -> None:
        """Fire if there is such a sink; else :class:`NoSuchThing`."""
        if sink not in await self.stores.sinks.names():
            raise NoSuchThing(f"there is no sink {sink!r}")


def combined(parts: Sequence[SinkState], trouble: Sequence[str]) -> SinkState:
    """
    A sink as it is on all servers.

    Deliveries that have nothing to do know nothing of the destination: they count only if no other has anything.

    :param trouble: what is wrong with the servers themselves.
    """
    busy = [each for each in parts if each.lag.bytes or each.state == "waiting"]
    busy = busy or [each for each in parts if each.state == "running"] or list(parts)
    states = {each.state for each in busy} | ({each.state for each in parts} & {"paused"})
    lag = parts[0].lag
    for part in parts[1:]:
        lag += part.lag
    return SinkState(
        parts[0].name,
        lag,
        [report for part in parts for report in part.reports],
        next(state for state in _WORST_FIRST if state in states),
        "; ".join(dict.fromkeys(text for text in (*(each.trouble for each in busy), *trouble) if text)),
        {server: lag for part in parts for server, lag in part.lags.items()},
    )


def dead_lines(stored: StoredBatch) -> list[DeadLine]:
    """The dead lines of a dead letter, with who sent them and why they are there."""
    origin = origin_of(stored)
    return [
        {**origin, "reason": dead.reason, "text": dead.line.decode("utf-8", "backslashreplace")}
        for dead in stored.batch.dead
    ]


def origin_of(stored: StoredBatch) -> LineOrigin:
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
