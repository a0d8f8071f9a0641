"""Sink ``pagerduty``: an event each by PagerDuty's Events API v2; alerts of one group are one incident there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink, ISinkKind
from osqtwist.sinks.alertwords import words_of
from osqtwist.sinks.http import Answer, HttpSink, Verdict
from osqtwist.sinks.httpsettings import HttpSettings, secret_in

_URL = "https://events.pagerduty.com/v2/enqueue"
_MOST_SUMMARY = 1024


class PagerDutySettings(HttpSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Keys of a ``pagerduty`` sink, beside those of every sink over HTTP.

    :ivar routing_key: of the integration (Events API v2) that gets the events; or ``routing_key_file``.
    :ivar gzip: off: PagerDuty does not say that it reads it.
    """

    routing_key: str = ""
    routing_key_file: str = ""
    url: str = _URL
    gzip: bool = False


@attrs.define
class PagerDutyProfile:
    """One event a request; the key is in the body."""

    url: str
    key: str = attrs.field(default="", repr=False)
    scheme: str = "Bearer"
    headers: Mapping[str, str] = attrs.field(factory=lambda: {"Content-Type": "application/json"})

    def body(self, events: Sequence[LogEvent]) -> bytes:
        """As the Events API v2 has it."""
        (event,) = events
        words = words_of(event)
        details = {name: value for name, value in event.fields.items() if name != "osqtwist"}
        return msgspec.json.encode(
            {
                "routing_key": self.key,
                "event_action": "trigger",
                "dedup_key": words.group,
                "client": "osqtwist",
                "payload": {
                    "summary": words.text[:_MOST_SUMMARY],
                    "source": event.node_name,
                    "severity": words.severity,
                    "timestamp": datetime.fromtimestamp(event.occurred_at, UTC).isoformat(),
                    "component": words.rule,
                    "custom_details": details,
                },
            }
        )

    def judge(self, answer: Answer, events: Sequence[LogEvent]) -> Verdict:
        """202 means taken, 400 that the event is at fault; of a wrong key it says 400 too."""
        if answer.status == 400 and b"routing" in answer.body.lower():
            raise answer.unavailable()
        return answer.by_status(len(events))


@implementer(ILogSink)
@attrs.define(eq=False)
class PagerDutySink(HttpSink):
    """Reads the key anew after each failure."""

    settings: PagerDutySettings
    profile: PagerDutyProfile
    most_events: int = 1

    async def open(self) -> None:
        """See :class:`osqtwist.sinks.http.HttpSink`."""
        settings = self.settings
        self.profile.key = settings.routing_key or secret_in("routing_key_file", settings.routing_key_file)
        await super().open()


@implementer(ISinkKind)
class PagerDutyKind:
    """Makes PagerDuty sinks."""

    kind = "pagerduty"
    settings = PagerDutySettings

    def make(self, reactor: Any, name: str, settings: PagerDutySettings) -> HttpSink:
        """
        A sink that sends events.

        :raise BadSinkSetting: the keys cannot work together.
        """
        settings.check()
        if bool(settings.routing_key) == bool(settings.routing_key_file):
            raise BadSinkSetting("routing_key or routing_key_file must be there, and not both")
        return PagerDutySink(reactor, settings, PagerDutyProfile(settings.url))
