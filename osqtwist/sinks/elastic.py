"""
Sink ``elastic``: the ``_bulk`` route of Elasticsearch and OpenSearch.

Each document's id is its event id, so what is sent again after a failure is there once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ISinkKind, RefusedEvent
from osqtwist.sinks.http import Answer, HttpSink, Verdict
from osqtwist.sinks.httpsettings import HttpSettings, one_line

# As much of the answer as matters; without it each item comes with a dozen more fields.
_ROUTE = "/_bulk?filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason"
_TIMESTAMP = b'"@timestamp"'
# 400s that are no fault of the document: an index that is closed or cannot be named so, or no room for more shards.
_OPERATORS_FAULT = frozenset({"index_closed_exception", "invalid_index_name_exception", "validation_exception"})
_NOT_A_DATA_STREAM_OPERATION = "only write ops with an op_type of create are allowed in data streams"
_LATE, _EARLY = 30 * 86400.0, 86400.0


class ElasticSettings(HttpSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Keys of an ``elastic`` sink, beside those of every sink over HTTP.

    :ivar url: of the cluster, as ``https://es.example.com:9200``; ``/_bulk`` is added to its path.
    :ivar index: the index or data stream; may have ``%Y``, ``%m``, ``%d``, ``%H`` and their like in it, which become
        the time (UTC) of the event, or of its arrival if the event is more than 30 days older or a day younger.
    :ivar action: ``create`` never overwrites, and is what data streams need; ``index`` overwrites by id.
    :ivar scheme: the word before a token: ``ApiKey`` or ``Bearer``.
    """

    index: str = "osquery-%Y.%m.%d"
    action: Literal["create", "index"] = "create"
    scheme: Literal["ApiKey", "Bearer"] = "ApiKey"


class _Trouble(msgspec.Struct):
    type: str = ""
    reason: str | None = None


class _Item(msgspec.Struct):
    status: int
    error: _Trouble | None = None


class _BulkAnswer(msgspec.Struct):
    errors: bool
    items: list[dict[str, _Item]] = []


class _Stamped(msgspec.Struct, rename={"timestamp": "@timestamp"}):
    timestamp: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_answers = msgspec.json.Decoder(_BulkAnswer)
_stamps = msgspec.json.Decoder(_Stamped)


@attrs.frozen
class ElasticProfile:
    """Two lines for each event: what to do, and the document."""

    url: str
    index: str
    action: str
    scheme: str = "ApiKey"
    headers: Mapping[str, str] = attrs.field(factory=lambda: {"Content-Type": "application/x-ndjson"})

    def body(self, events: Sequence[LogEvent]) -> bytes:
        """Actions and documents, with ``@timestamp`` in those that have none."""
        starts: dict[int, bytes] = {}
        pieces: list[bytes] = []
        for event in events:
            occurred = event.occurred_at
            is_likely = event.received_at - _LATE <= occurred <= event.received_at + _EARLY
            # A clock that is wrong by years must not make an index for each day of them.
            minute = int(occurred if is_likely else event.received_at) // 60
            if (start := starts.get(minute)) is None:
                start = starts[minute] = self._start(minute * 60)
            pieces += (start, event.event_id.encode(), b'"}}\n', stamped(event.document, occurred), b"\n")
        return b"".join(pieces)

    def _start(self, when: float) -> bytes:
        """An action as far as the id."""
        name = time.strftime(self.index, time.gmtime(when)) if "%" in self.index else self.index
        return msgspec.json.encode({self.action: {"_index": name}})[:-2] + b',"_id":"'

    def judge(self, answer: Answer, events: Sequence[LogEvent]) -> Verdict:
        """Look at each item."""
        if answer.status != 200:
            return answer.by_status(len(events))
        try:
            said = _answers.decode(answer.body)
        except msgspec.MsgspecError:
            raise answer.unavailable("this is not what _bulk answers") from None
        if not said.errors:
            return Verdict()
        if len(said.items) != len(events):
            raise answer.unavailable(f"{len(said.items)} items for {len(events)} documents")
        refused: list[RefusedEvent] = []
        again: list[int] = []
        trouble = ""
        for index, found in enumerate(said.items):
            item = next(iter(found.values()), None) or _Item(500)
            if 200 <= item.status < 300 or (item.status == 409 and self.action == "create"):
                # 409: it is there already.
                continue
            error = item.error or _Trouble()
            reason = one_line(f"{item.status} {error.type}: {error.reason or 'no reason given'}")
            if item.status == 400 and not _is_operators_fault(error):
                refused.append(RefusedEvent(index, f"{answer.place}: {reason}"))
            else:
                again.append(index)
                trouble = trouble or f"{answer.place}: {reason}"
        return Verdict(tuple(refused), tuple(again), retry_after=answer.retry_after if again else 0.0, trouble=trouble)


def _is_operators_fault(error: _Trouble) -> bool:
    return error.type in _OPERATORS_FAULT or _NOT_A_DATA_STREAM_OPERATION in (error.reason or "")


def stamped(document: bytes, when: float) -> bytes:
    """A document with the key ``@timestamp``: its own, or one for a time in Unix seconds."""
    if _TIMESTAMP in document and _stamps.decode(document).timestamp is not msgspec.UNSET:
        return document
    milliseconds = round(when * 1000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000)).encode()
    rest = document.lstrip()[1:].lstrip()
    comma = b"" if rest.startswith(b"}") else b","
    return b'{"@timestamp":"%s.%03dZ"%s%s' % (text, milliseconds % 1000, comma, rest)


@implementer(ISinkKind)
class ElasticKind:
    """Makes Elasticsearch and OpenSearch sinks."""

    kind = "elastic"
    settings = ElasticSettings

    def make(self, reactor: Any, name: str, settings: ElasticSettings) -> HttpSink:
        """
        A sink that posts to the cluster.

        :raise BadSinkSetting: the keys cannot work together.
        """
        settings.check()
        if "?" in settings.url:
            raise BadSinkSetting("url has a query in it; it must end before that")
        plain = time.strftime(settings.index, time.gmtime(0))
        # What Elasticsearch allows in the name of an index.
        if not plain or plain in (".", "..") or plain != plain.lower() or re.search(r'^[-_+]|[\\/*?"<>| ,#:]', plain):
            raise BadSinkSetting(f"index is {settings.index!r}; an index cannot be called {plain!r}")
        url = settings.url.rstrip("/") + _ROUTE
        return HttpSink(reactor, settings, ElasticProfile(url, settings.index, settings.action, settings.scheme))
