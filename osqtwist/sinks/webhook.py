"""Sink ``webhook``: posts documents to any URL, as JSON lines or as a JSON array; every 2xx means taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import ISinkKind
from osqtwist.sinks.http import Answer, HttpSink, Verdict
from osqtwist.sinks.httpsettings import HttpSettings


class WebhookSettings(HttpSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Keys of a ``webhook`` sink, beside those of every sink over HTTP.

    :ivar body: ``lines`` for a document on each line (``application/x-ndjson``), ``array`` for a JSON array of them.
    :ivar gzip: off here unless asked for: not every server can read it.
    """

    body: Literal["lines", "array"] = "lines"
    gzip: bool = False


@attrs.frozen
class WebhookProfile:
    """Documents as they are."""

    url: str
    is_array: bool = False
    scheme: str = "Bearer"

    @property
    def headers(self) -> Mapping[str, str]:
        """JSON, or lines of it."""
        return {"Content-Type": "application/json" if self.is_array else "application/x-ndjson"}

    def body(self, events: Sequence[LogEvent]) -> bytes:
        """The documents, joined."""
        if self.is_array:
            return b"[" + b",".join([event.document for event in events]) + b"]"
        return b"\n".join([event.document for event in events]) + b"\n"

    def judge(self, answer: Answer, events: Sequence[LogEvent]) -> Verdict:
        """The status says it all."""
        return answer.by_status(len(events))


@implementer(ISinkKind)
class WebhookKind:
    """Makes webhook sinks."""

    kind = "webhook"
    settings = WebhookSettings

    def make(self, reactor: Any, name: str, settings: WebhookSettings) -> HttpSink:
        """
        A sink that posts to the URL as it is.

        :raise BadSinkSetting: the keys cannot work together.
        """
        settings.check()
        return HttpSink(reactor, settings, WebhookProfile(settings.url, settings.body == "array"))
