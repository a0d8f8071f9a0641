"""
Alerts: lines that a rule matches become lines of their own, which sinks deliver like any other.

The rules are asked where lines are delivered from: they are a sink, ``alerts``, with a cursor, so that no line is
missed and a crash has some looked at twice.  What they raise goes into the log buffer with the log type ``alert``, and
from there to whichever sink has ``when = "log_type:alert"``: with its retries, dead letters and replays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from osqtwist.alertinterfaces import Silence
from osqtwist.alertrule import ALERT, Alert, AlertRule
from osqtwist.expression import parse
from osqtwist.interfaces import IStores, StoreFull, StoreUnavailable
from osqtwist.logbatch import LogBatch
from osqtwist.logevent import LogEvent
from osqtwist.loginterfaces import BufferFull
from osqtwist.routing import VOCABULARY
from osqtwist.sinkinterfaces import ILogSink, Outcome, RefusedEvent, SinkUnavailable

SINK = "alerts"
"""The name of the cursor."""
_LOOK_EVERY = 5.0


@implementer(ILogSink)
@attrs.define(eq=False)
class AlertSink:
    """
    See :class:`osqtwist.sinkinterfaces.ILogSink`; what it delivers to is the log buffer itself.

    :ivar stores: of its own: opened and closed here.
    """

    clock: IReactorTime
    stores: IStores
    rules: Sequence[AlertRule]
    _silences: list[Silence] = attrs.field(factory=list, init=False)
    _looked_at: float = attrs.field(default=0.0, init=False)

    async def open(self) -> None:
        """Connect."""
        try:
            await self.stores.ready()
        except (StoreUnavailable, StoreFull) as problem:
            raise SinkUnavailable(str(problem)) from None

    async def close(self) -> None:
        """Let go of the store."""
        await self.stores.close()

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """
        Raise what is to be raised.

        Where the log buffer is full the line becomes a dead letter: were it waited for, it would itself be what keeps
        the buffer full.
        """
        refused = []
        try:
            for index, event in enumerate(events):
                try:
                    await self._look_at(event)
                except BufferFull:
                    refused.append(RefusedEvent(index, "the log buffer is full: there is no room for the alert"))
                except (msgspec.MsgspecError, RecursionError) as problem:
                    refused.append(RefusedEvent(index, f"no rule can look at it: {problem}"))
        except (StoreUnavailable, StoreFull) as problem:
            raise SinkUnavailable(f"alerts cannot be kept: {problem}") from None
        return Outcome(refused=tuple(refused))

    async def _look_at(self, event: LogEvent) -> None:
        for rule in self.rules:
            alert = rule.ask(event)
            if alert is not None:
                await self._raise(alert, rule, event)

    async def _raise(self, alert: Alert, rule: AlertRule, event: LogEvent) -> None:
        if await self._is_silenced(rule, event):
            await self.stores.alerts.keep_quiet(rule.name)
            return
        window = rule.settings.window
        if await self.stores.alerts.claim(rule.name, alert.group, alert.alert_id, window):
            await self.stores.logs.append(batch_of(alert))
            await self.stores.alerts.told(alert.group, alert.alert_id, window)

    async def _is_silenced(self, rule: AlertRule, event: LogEvent) -> bool:
        now = self.clock.seconds()
        if now - self._looked_at >= _LOOK_EVERY:
            self._silences, self._looked_at = await self.stores.alerts.silences(now), now
        return any(
            each.until > now
            and each.rule in ("", rule.name)
            and (not each.when or parse(each.when, VOCABULARY).matches(rule.lookup(event)))
            for each in self._silences
        )


def batch_of(alert: Alert) -> LogBatch:
    """An alert as the batch of one line that it is in the buffer; the same alert is the same batch."""
    line = msgspec.json.encode(alert.as_line())
    return LogBatch(
        node_id=alert.node_id,
        node_name=alert.node_name,
        log_type=ALERT,
        data=b"[" + line + b"]",
        count=1,
        digest=hashlib.sha256(alert.alert_id.encode()).hexdigest(),
        received_at=alert.at,
    )
