"""Operations about alerts: how many there were, and when not to tell."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, TypedDict

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from osqtwist.alertinterfaces import Silence
from osqtwist.alertrule import ALERT, Alert, AlertRule, BadAlertRule, Severity
from osqtwist.expression import BadExpression, parse
from osqtwist.interfaces import IStores, NoSuchThing
from osqtwist.logevent import LogEvent
from osqtwist.loginterfaces import StoredBatch
from osqtwist.operator import Role
from osqtwist.routing import VOCABULARY, Route
from osqtwist.web.operations import NDJSON, Call, Operation
from osqtwist.wire import MalformedRequest

_YEAR = 366 * 86400
_AT_ONCE = 50
_ROUTE = Route()


class SilenceOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What not to tell of: a rule, lines of an expression, or both; ``seconds`` from now."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=_YEAR)]
    rule: str = ""
    when: str = ""
    why: Annotated[str, msgspec.Meta(max_length=500)] = ""


class TrialWanted(msgspec.Struct, forbid_unknown_fields=True):
    """A dry run: of a rule, or of an expression that is none yet; over the lines of so many seconds."""

    rule: str = ""
    when: str = ""
    seconds: Annotated[int, msgspec.Meta(ge=1, le=_YEAR)] = 3600


class RuleRow(TypedDict):
    """An alert rule as the settings have it, and how many alerts it raised, did not repeat, and kept to itself."""

    rule: str
    when: str
    severity: Severity
    text: str
    per: list[str]
    window: float
    raised: int
    repeated: int
    silenced: int


class RulesAndSilences(TypedDict):
    """Alert rules, and the silences in force, the first to end first."""

    rules: list[RuleRow]
    silences: list[Silence]


class SilenceEnded(TypedDict):
    """A silence that is no more."""

    silence_id: str
    ended: bool


class TrialAlert(Alert, frozen=True, kw_only=True, tag_field="type", tag="alert"):
    """What a rule would say of a line; `first_of_group`: and tell of, within its window."""

    first_of_group: bool


class TrialEnd(TypedDict):
    """How many lines were looked at, how many alerts there are of them, and of how many things."""

    type: Literal["end"]
    lines: int
    raised: int
    groups: int


@attrs.frozen
class AlertOperations:
    """
    Alert rules and silences.

    :ivar rules: those of the settings, by name.
    """

    clock: IReactorTime
    stores: IStores
    rules: Mapping[str, AlertRule]

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation("GET", "/api/v1/alerts", self.alerts, Role.VIEWER),
            Operation(
                "GET",
                "/api/v1/alerts/trial",
                self.trial,
                Role.VIEWER,
                query=TrialWanted,
                media=NDJSON,
                lines=(TrialAlert, TrialEnd),
            ),
            Operation("POST", "/api/v1/alerts/silences", self.silence, Role.OPERATOR, body=SilenceOrder, code=201),
            Operation("POST", "/api/v1/alerts/silences/{silence}/end", self.unsilence, Role.OPERATOR),
        )

    async def alerts(self, call: Call) -> RulesAndSilences:
        """Alert rules, how many alerts each raised, and the silences in force."""
        counts = await self.stores.alerts.counts()
        return {
            "rules": [
                {
                    "rule": name,
                    "when": rule.settings.when,
                    "severity": rule.settings.severity,
                    "text": rule.settings.text,
                    "per": list(rule.settings.per),
                    "window": rule.settings.window,
                    "raised": counts.get((name, "raised"), 0),
                    "repeated": counts.get((name, "repeated"), 0),
                    "silenced": counts.get((name, "silenced"), 0),
                }
                for name, rule in self.rules.items()
            ],
            "silences": await self.stores.alerts.silences(self.clock.seconds()),
        }

    async def trial(self, call: Call) -> None:
        """What rules would say of the lines in the log buffer: all, `rule=NAME`, or `when=EXPRESSION`; tells nobody."""
        wanted: TrialWanted = call.query
        rules = list(self.rules.values())
        if wanted.when:
            try:
                rules = [AlertRule.read("trial", {"when": wanted.when})]
            except BadAlertRule as problem:
                raise MalformedRequest(str(problem).removeprefix("[alert.trial]: ")) from None
        elif wanted.rule:
            if wanted.rule not in self.rules:
                raise NoSuchThing(f"there is no alert rule {wanted.rule!r}")
            rules = [self.rules[wanted.rule]]
        since, place, lines, raised = self.clock.seconds() - wanted.seconds, "", 0, 0
        told: set[str] = set()
        while page := await self.stores.logs.read(place, _AT_ONCE):
            place = page[-1].batch_id
            for event in _events_since(page, since):
                lines += 1
                for alert in filter(None, (rule.ask(event) for rule in rules)):
                    raised += 1
                    call.emit(TrialAlert(**msgspec.structs.asdict(alert), first_of_group=alert.group not in told))
                    told.add(alert.group)
            # Everybody else gets a turn between two pages.
            await deferLater(self.clock, 0)
        call.emit({"type": "end", "lines": lines, "raised": raised, "groups": len(told)})

    async def silence(self, call: Call) -> Silence:
        """Tell of no alerts of a rule, or of lines, for a time: `{"rule": ..., "when": ..., "seconds": 3600}`."""
        order: SilenceOrder = call.body
        if order.rule and order.rule not in self.rules:
            raise NoSuchThing(f"there is no alert rule {order.rule!r}")
        if not (order.rule or order.when):
            raise MalformedRequest("say which rule, or which lines (when), to be silent about")
        try:
            parse(order.when, VOCABULARY)
        except BadExpression as problem:
            raise MalformedRequest(f"when: {problem}") from None
        now = self.clock.seconds()
        silence = Silence(
            silence_id=secrets.token_hex(6),
            rule=order.rule,
            when=order.when,
            until=now + order.seconds,
            created_at=now,
            created_by=call.actor.name,
            why=order.why,
        )
        await self.stores.alerts.silence(silence)
        return silence

    async def unsilence(self, call: Call) -> SilenceEnded:
        """Tell of them again."""
        silence_id = call.path["silence"]
        if not await self.stores.alerts.unsilence(silence_id):
            raise NoSuchThing(f"there is no silence {silence_id!r}")
        return {"silence_id": silence_id, "ended": True}


def _events_since(page: Sequence[StoredBatch], since: float) -> Iterator[LogEvent]:
    for stored in page:
        if stored.batch.received_at >= since and stored.batch.log_type != ALERT:
            yield from _ROUTE.events(stored.batch)[0]
