"""
Sink ``splunk``: Splunk's HTTP Event Collector (HEC), and what speaks like it.

HEC reads the events of a request one after the other and stops at the first that it cannot use; its answer has that
one's number, from 0, as ``invalid-event-number``.  Those before it are indexed.  It keeps no ids, so what is sent
again after a failure may be there twice; ``osqtwist.event_id`` in each document tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ISinkKind
from osqtwist.sinks.http import Answer, HttpSink, Part, Verdict
from osqtwist.sinks.httpsettings import HttpSettings

_ROUTE = "/services/collector/event"
# Codes of HEC.  An event is at fault: invalid data format, event field missing or blank, indexed fields unusable.
_EVENTS_FAULT = frozenset({6, 12, 13, 15})
_SUCCESS, _BUSY = 0, 9


class SplunkSettings(HttpSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Keys of a ``splunk`` sink, beside those of every sink over HTTP.

    :ivar url: of the collector, as ``https://splunk.example.com:8088``; ``/services/collector/event`` is added if it
        has no path.
    :ivar token: HEC's token; or ``token_file``.
    :ivar index: where events go; empty for what the token says.
    :ivar source: what Splunk is told they come from.
    :ivar sourcetype: their type; ``{log_type}`` in it becomes ``result`` or ``status``.
    """

    index: str = ""
    source: str = "osqtwist"
    sourcetype: str = "osquery:{log_type}"


class HecAnswer(msgspec.Struct, rename={"invalid_event_number": "invalid-event-number"}):
    """What HEC answers."""

    code: int
    text: str = ""
    invalid_event_number: int | None = None


_hec_answers = msgspec.json.Decoder(HecAnswer)


@attrs.frozen
class SplunkProfile:
    """Events as HEC has them: JSON objects, one after the other."""

    url: str
    index: str
    source: str
    sourcetype: str
    scheme: str = "Splunk"
    headers: Mapping[str, str] = attrs.field(factory=lambda: {"Content-Type": "application/json"})

    def body(self, events: Sequence[LogEvent]) -> bytes:
        """Each document in an envelope."""
        middles: dict[tuple[str, str], bytes] = {}
        pieces: list[bytes] = []
        for event in events:
            key = (event.node_name, event.log_type)
            if (middle := middles.get(key)) is None:
                middle = middles[key] = self._middle(event)
            pieces += (b'{"time":%.3f,' % event.occurred_at, middle, event.document, b"}\n")
        return b"".join(pieces)

    def _middle(self, event: LogEvent) -> bytes:
        """What stands between the time and the document, as it does for all lines of a node."""
        facts = {"host": event.node_name, "source": self.source, "index": self.index}
        facts["sourcetype"] = self.sourcetype.replace("{log_type}", event.log_type)
        return msgspec.json.encode({key: value for key, value in facts.items() if value})[1:-1] + b',"event":'

    def judge(self, answer: Answer, events: Sequence[LogEvent]) -> Verdict:
        """Believe HEC's code; what has none is not HEC, but perhaps a proxy in front of it."""
        count = len(events)
        try:
            said = _hec_answers.decode(answer.body)
        except msgspec.MsgspecError:
            if answer.status == 413:
                return answer.by_status(count)
            text = "this is not what Splunk's HTTP Event Collector says" if answer.status < 300 else ""
            raise answer.unavailable(text) from None
        number = said.invalid_event_number
        if said.code == _SUCCESS and answer.status == 200:
            return Verdict()
        if said.code in _EVENTS_FAULT:
            if count == 1 or number is None or not 0 <= number < count:
                return answer.fault(count)
            # The one that it names goes alone, so that nothing is refused or passed over for a wrong number.
            suspect, after = Part((number,), otherwise=tuple(range(number))), tuple(range(number + 1, count))
            return Verdict(apart=(suspect, Part(after)) if after else (suspect,))
        if said.code == _BUSY and number is not None and 1 < number <= count:
            # It got so far.  Whether it counts from 0 here is not documented: rather one line twice than none.
            trouble = str(answer.unavailable(said.text))
            return Verdict(again=tuple(range(number - 1, count)), retry_after=answer.retry_after, trouble=trouble)
        if answer.status == 413:
            return answer.by_status(count)
        # All else is a matter of tokens, indexes and the server: 400 for an index that is not allowed, and so on.
        raise answer.unavailable(f"{said.text} (code {said.code})")


@implementer(ISinkKind)
class SplunkKind:
    """Makes Splunk sinks."""

    kind = "splunk"
    settings = SplunkSettings

    def make(self, reactor: Any, name: str, settings: SplunkSettings) -> HttpSink:
        """
        A sink that posts to the collector.

        :raise BadSinkSetting: the keys cannot work together.
        """
        settings.check()
        if not settings.token and not settings.token_file and not settings.username:
            raise BadSinkSetting("token (or token_file) is missing; Splunk's HTTP Event Collector needs one")
        url = settings.url
        if urlsplit(url).path in ("", "/"):
            parts = urlsplit(url)
            url = parts._replace(path=_ROUTE).geturl()
        return HttpSink(reactor, settings, SplunkProfile(url, settings.index, settings.source, settings.sourcetype))
