"""
Alert rules: which lines somebody wants to be told of.

A line is one that a node logged, or one that the server itself wrote about its fleet (log type ``event``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import attrs
import msgspec

from osqtwist.expression import BadExpression, Expression, parse
from osqtwist.logevent import LogEvent
from osqtwist.routing import VOCABULARY, BadRoute, values_of_fields

Severity = Literal["info", "warning", "error", "critical"]

ALERT, EVENT = "alert", "event"
"""The log types of alerts and of what the server says itself."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_HOLE = re.compile(r"\{([a-z][a-z0-9_.-]*)\}")
_MOST_TEXT = 1000
_MOST_VALUE = 200
_DEFAULT_TEXT = "{name} on {node}"


class BadAlertRule(ValueError):
    """A rule cannot mean anything; one sentence that names block and key."""


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The keys of an ``[alert.NAME]`` block.

    :ivar when: an expression; the lines that it matches are told of.
    :ivar severity: for those who are told.
    :ivar text: with ``{KEY}`` for what the line has there.
    :ivar per: lines that have the same at all of these keys are one thing, told of once in a :attr:`window`.
    :ivar window: seconds; 0 for each line.
    """

    when: str
    severity: Severity = "warning"
    text: str = _DEFAULT_TEXT
    per: tuple[str, ...] = ("node",)
    window: float = 3600.0


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """
    What somebody is told.

    :ivar alert_id: of the rule and the line: the same line raises the same alert, however often it is looked at.
    :ivar group: of the rule and what the line has at its ``per``.
    """

    alert_id: str
    group: str
    rule: str
    severity: str
    text: str
    node_id: str
    node_name: str
    at: float
    event_id: str
    line: dict[str, Any]

    def as_line(self) -> dict[str, Any]:
        """As a line of the log, as a snapshot of osquery would be: the alert in ``columns``, its cause beside."""
        return {
            "name": "osqtwist_alert",
            "action": "alert",
            "hostIdentifier": self.node_name,
            "unixTime": int(self.at),
            "columns": {
                "alert_id": self.alert_id,
                "group": self.group,
                "rule": self.rule,
                "severity": self.severity,
                "text": self.text,
                "event_id": self.event_id,
            },
            "cause": self.line,
        }


@attrs.frozen
class AlertRule:
    """A rule that can be asked."""

    name: str
    settings: AlertSettings
    _when: Expression

    @classmethod
    def read(cls, name: str, block: Mapping[str, Any]) -> AlertRule:
        """
        The rule of an ``[alert.NAME]`` block.

        :raise BadAlertRule: there is none in it.
        """
        if not _NAME.fullmatch(name):
            raise BadAlertRule(f"[alert.{name[:64]}]: a name has small letters, digits, - and _ only")
        try:
            settings = msgspec.convert(block, AlertSettings)
            when = parse(settings.when, VOCABULARY)
            for key in (*settings.per, *_HOLE.findall(settings.text)):
                VOCABULARY.check(key, False, 1)
        except (msgspec.ValidationError, BadExpression, BadRoute) as problem:
            raise BadAlertRule(f"[alert.{name}]: {problem}") from None
        if settings.window < 0:
            raise BadAlertRule(f"[alert.{name}]: window is {settings.window:g}; it must be at least 0")
        return cls(name, settings, when)

    def lookup(self, event: LogEvent) -> Callable[[str], Iterable[str]]:
        """What a line, with what the server vouches for, has at a key of an expression."""
        return _lookup_in(event)

    def ask(self, event: LogEvent) -> Alert | None:
        """The alert that a line raises, if it raises one."""
        if event.log_type == ALERT:
            return None
        fields = event.fields
        lookup = self.lookup(event)
        if not self._when.matches(lookup):
            return None
        values = ["\x1f".join(sorted(lookup(key))) for key in self.settings.per]
        return Alert(
            alert_id=_digest(self.name, event.event_id),
            group=_digest(self.name, *values),
            rule=self.name,
            severity=self.settings.severity,
            text=_filled(self.settings.text, lookup),
            node_id=event.node_id,
            node_name=event.node_name,
            at=event.received_at,
            event_id=event.event_id,
            line={key: value for key, value in fields.items() if key != "osqtwist"},
        )


def _lookup_in(event: LogEvent) -> Callable[[str], Iterable[str]]:
    fields = event.fields
    facts = fields.get("osqtwist")
    known: Mapping[str, Any] = facts if isinstance(facts, dict) else {}

    def lookup(key: str) -> Iterable[str]:
        match key:
            case "log_type":
                return (event.log_type,)
            case "node":
                return (event.node_name, event.node_id)
            case "tag":
                return [str(tag) for tag in known.get("tags", ())]
            case "identity" | "issuer" | "serial" | "address":
                return (str(known.get(key, "")),)
        return values_of_fields(fields, key)

    return lookup


def read_rules(blocks: Mapping[str, Mapping[str, Any]]) -> list[AlertRule]:
    """
    All rules of the settings.

    :raise BadAlertRule: one of them is none.
    """
    return [AlertRule.read(name, block) for name, block in sorted(blocks.items())]


def _filled(text: str, lookup: Callable[[str], Iterable[str]]) -> str:
    def value(hole: re.Match[str]) -> str:
        found = next(iter(lookup(hole[1])), "")
        return "".join(letter if letter.isprintable() else " " for letter in found[:_MOST_VALUE])

    return _HOLE.sub(value, text)[:_MOST_TEXT]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1e".join(parts).encode()).hexdigest()[:32]
