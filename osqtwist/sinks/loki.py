"""
Sink ``loki``: Grafana Loki's push route.

Loki keeps what it can of a request and answers 400 if it dropped any of it, saying why for some.  An entry that is
there already with the same time and line is no second one, so entries can be sent again to see which are at fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ISinkKind, RefusedEvent
from osqtwist.sinks.http import Answer, HttpSink, Part, Verdict
from osqtwist.sinks.httpsettings import HttpSettings

_ROUTE = "/loki/api/v1/push"
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OURS = ("job", "log_type")
# From "timestamp too old" and "entry too far behind".
_OLDEST = re.compile(rb"oldest acceptable timestamp is: ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(?:Z|[+-][0-9:]{5}))")


class LokiSettings(HttpSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Keys of a ``loki`` sink, beside those of every sink over HTTP.

    :ivar url: of Loki, as ``https://loki.example.com``; ``/loki/api/v1/push`` is added if it has no path.
    :ivar tenant: the ``X-Scope-OrgID`` header of a Loki with several tenants.
    :ivar job: the label ``job`` of all streams.
    :ivar labels: more labels of all streams, beside ``job`` and ``log_type``.
    :ivar time: the time of an entry: when the server ``received`` the line, or when it ``occurred`` on the node.
        Loki refuses what is an hour or more behind the newest entry of its stream, as lines of nodes that were away
        are by the latter.
    :ivar metadata: whether entries get the structured metadata ``node`` and ``event_id``, which Loki 3 keeps.
    """

    tenant: str = ""
    job: str = "osqtwist"
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    time: Literal["received", "occurred"] = "received"
    metadata: bool = False


@attrs.frozen
class LokiProfile:
    """Streams of entries: one for each log type."""

    url: str
    labels: Mapping[str, str]
    by_arrival: bool
    metadata: bool
    headers: Mapping[str, str]
    scheme: str = "Bearer"

    def body(self, events: Sequence[LogEvent]) -> bytes:
        """Entries by stream, ordered by time."""
        streams: dict[str, list[LogEvent]] = {}
        for event in events:
            streams.setdefault(event.log_type, []).append(event)
        return b'{"streams":[' + b",".join([self._stream(kind, found) for kind, found in streams.items()]) + b"]}"

    def _stream(self, log_type: str, events: list[LogEvent]) -> bytes:
        labels = msgspec.json.encode({**self.labels, "log_type": log_type})
        entries = [self._entry(event) for event in sorted(events, key=self._when)]
        return b'{"stream":%s,"values":[%s]}' % (labels, b",".join(entries))

    def _entry(self, event: LogEvent) -> bytes:
        line = msgspec.json.encode(event.document.decode())
        if not self.metadata:
            return b'["%d",%s]' % (self._when(event), line)
        more = msgspec.json.encode({"node": event.node_name, "event_id": event.event_id})
        return b'["%d",%s,%s]' % (self._when(event), line, more)

    def _when(self, event: LogEvent) -> int:
        """The time of an entry in nanoseconds; a float holds microseconds."""
        return round((event.received_at if self.by_arrival else event.occurred_at) * 1e6) * 1000

    def judge(self, answer: Answer, events: Sequence[LogEvent]) -> Verdict:
        """The status says it all, unless it says that some entries are too old."""
        streams: dict[str, list[int]] = {}
        for index, event in enumerate(events):
            streams.setdefault(event.log_type, []).append(index)
        found = _OLDEST.search(answer.body) if answer.status == 400 else None
        if found is None:
            return answer.by_status(len(events))
        if len(streams) > 1:
            # The time is that of one of them.
            return Verdict(apart=tuple(Part(tuple(indices)) for indices in streams.values()))
        oldest = int(datetime.fromisoformat(found[1].decode()).timestamp()) * 10**9
        old = [index for index, event in enumerate(events) if self._when(event) < oldest]
        if not old:
            return answer.fault(len(events))
        reason = str(answer.unavailable())
        rest = tuple(sorted({*range(len(events))}.difference(old)))
        return Verdict(tuple(RefusedEvent(index, reason) for index in old), apart=(Part(rest),) if rest else ())


@implementer(ISinkKind)
class LokiKind:
    """Makes Loki sinks."""

    kind = "loki"
    settings = LokiSettings

    def make(self, reactor: Any, name: str, settings: LokiSettings) -> HttpSink:
        """
        A sink that pushes to Loki.

        :raise BadSinkSetting: the keys cannot work together.
        """
        settings.check()
        for label in settings.labels:
            if not _LABEL.fullmatch(label) or label.startswith("__") or label in _OURS:
                raise BadSinkSetting(f"labels has {label!r}; it must be a letter and then letters, digits and _ only")
        if not re.fullmatch(r"[!-~]*", settings.tenant):
            raise BadSinkSetting(f"tenant is {settings.tenant!r}; it must be plain text without spaces")
        parts = urlsplit(settings.url)
        url = parts._replace(path=_ROUTE).geturl() if parts.path in ("", "/") else settings.url
        headers = {"Content-Type": "application/json"}
        if settings.tenant:
            headers["X-Scope-OrgID"] = settings.tenant
        labels = {"job": settings.job, **settings.labels}
        profile = LokiProfile(url, labels, settings.time == "received", settings.metadata, headers)
        return HttpSink(reactor, settings, profile)
