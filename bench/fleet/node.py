"""
A node: the loops of osqueryd's threads, each with one request at a time.

Sources of the pace: distributed.cpp and distributed_runner.cpp (read, run, write, pause), tls_config.cpp (refresh),
buffered.cpp (log period and its back-off), tls_util.cpp (attempts after 1 and 4 seconds), tls_enroll.cpp.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from typing import Any

import attrs
from OpenSSL import SSL

from bench.fleet.exchange import Exchange, Loop
from bench.fleet.figures import Figures

ENROLL, CONFIG, LOG, READ, WRITE = "enroll", "config", "log", "read", "write"
PATHS = {
    ENROLL: "/enroll",
    CONFIG: "/config",
    LOG: "/log",
    READ: "/distributed/read",
    WRITE: "/distributed/write",
}
_ATTEMPT_WAITS = (1.0, 4.0)
_LOG_BACKOFF_MAX = 3600.0
_ENROLL_BACKOFF_MAX = 600.0
_LINES = 10


@attrs.frozen
class Behavior:
    """
    What all nodes do.

    :ivar pauses: for each loop (``read``, ``config``, ``log``, ``enroll``) seconds from an answer to the next request.
    :ivar secret: nodes enroll first if there is one; otherwise their certificate is all they show.
    :ivar log_bytes: of each log post, about, in ten lines.
    :ivar think: seconds that a node takes for a query, at most; each takes a random part.
    :ivar over: seconds over which the nodes begin.
    """

    paths: dict[str, str]
    pauses: dict[str, float]
    host: str
    secret: str = ""
    log_bytes: int = 2048
    result_bytes: int = 200
    think: float = 0.0
    over: float = 0.0
    sends_etag: bool = True
    acknowledged: Callable[[int, int], object] | None = None

    def request(self, kind: str, body: bytes, node_key: str) -> bytes:
        """The bytes of a request, as osqueryd orders its headers."""
        authorization = f"Authorization: NodeKey {node_key}\r\n" if node_key else ""
        head = (
            f"POST {self.paths[kind]} HTTP/1.1\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
            f"User-Agent: osquery/5.23.1\r\n{authorization}Host: {self.host}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("ascii") + body


class Node:
    """One node."""

    __slots__ = (
        "_context",
        "_etag",
        "_failures",
        "_figures",
        "_key",
        "_loop",
        "_pending",
        "_sequence",
        "does",
        "number",
    )

    def __init__(self, loop: Loop, figures: Figures, does: Behavior, number: int, context: SSL.Context) -> None:
        self._loop = loop
        self._figures = figures
        self.does = does
        self.number = number
        self._context = context
        self._key = ""
        self._etag = ""
        self._sequence = 0
        self._failures: dict[str, int] = {}
        self._pending: bytes | None = None

    def begin(self) -> None:
        """Begin somewhere within the time in which the fleet begins."""
        start = self._loop.now() + random.uniform(0, self.does.over)
        if self.does.secret and ENROLL not in self.does.pauses:
            self._at(start, ENROLL)
        else:
            self._begin_loops(start)

    def _begin_loops(self, start: float) -> None:
        for kind, pause in self.does.pauses.items():
            # What comes each minute is spread over a minute, as after a while it would be.
            spread = pause if kind != READ and self.does.over else 0.0
            self._at(start + random.uniform(0, spread), kind)

    def _at(self, when: float, kind: str) -> None:
        self._loop.at(when, functools.partial(self._due, kind, when))

    def _due(self, kind: str, when: float) -> None:
        self._figures.late.append(self._loop.now() - when)
        self._ask(kind)

    def _ask(self, kind: str) -> None:
        request = self.does.request(kind, self._body(kind), "" if kind == ENROLL else self._key)
        Exchange(self._loop, kind, self.number, self._context, request, self._ended)

    def _body(self, kind: str) -> bytes:
        if kind == WRITE:
            return self._pending or b"{}"
        if kind == ENROLL:
            name = f"node-{self.number}"
            return json.dumps({"enroll_secret": self.does.secret, "host_identifier": name}).encode()
        if kind == LOG:
            return self._log_post()
        etag = f',"etag":"{self._etag}"' if kind == CONFIG and self.does.sends_etag else ""
        return f'{{"node_key":"{self._key}"{etag}}}'.encode()

    def _log_post(self) -> bytes:
        # A post that was not acknowledged is sent again as it was: the sequence only moves with an acknowledgement.
        room = "x" * max(1, self.does.log_bytes // _LINES - 130)
        lines = ",".join(
            f'{{"name":"load","hostIdentifier":"node-{self.number}","unixTime":1790000000,"action":"added",'
            f'"columns":{{"line":"{self.number}:{self._sequence}:{place}","room":"{room}"}}}}'
            for place in range(_LINES)
        )
        return f'{{"node_key":"{self._key}","log_type":"result","data":[{lines}]}}'.encode()

    def _ended(self, exchange: Exchange) -> None:
        kind, problem, answer = exchange.kind, exchange.problem, None
        if not problem:
            answer, problem = _meaning(exchange.body)
        if not problem and kind == ENROLL and not (answer or {}).get("node_key"):
            problem = "answer: no node_key"
        self._figures.ended(exchange, problem)
        if problem:
            self._failed(kind, answer)
        else:
            self._failures.pop(kind, None)
            self._succeeded(kind, answer or {})

    def _succeeded(self, kind: str, answer: dict[str, Any]) -> None:
        if kind == ENROLL and kind not in self.does.pauses:
            self._key = str(answer["node_key"])
            self._begin_loops(self._loop.now())
            return
        if kind == READ and (queries := answer.get("queries")):
            self._take(list(queries))
            return
        if kind == READ and self._pending:
            self._ask(WRITE)
            return
        if kind == WRITE:
            for query in json.loads(self._pending or b"{}").get("statuses", ()):
                self._figures.results.setdefault(query, []).append(self._loop.now())
            self._pending = None
            kind = READ
        elif kind == CONFIG and answer.get("etag") not in (None, "ok"):
            self._etag = str(answer["etag"])
        elif kind == LOG:
            self._figures.log_lines += _LINES
            if self.does.acknowledged:
                self.does.acknowledged(self.number, self._sequence)
            self._sequence += 1
        self._pause(kind)

    def _take(self, queries: list[str]) -> None:
        now = self._loop.now()
        for query in queries:
            self._figures.queries.setdefault(query, []).append(now)
        rows = [{"text": "x" * self.does.result_bytes}]
        body = {
            "queries": dict.fromkeys(queries, rows),
            "statuses": dict.fromkeys(queries, 0),
            "node_key": self._key,
        }
        self._pending = json.dumps(body, separators=(",", ":")).encode()
        self._at(now + random.uniform(0, self.does.think), WRITE)

    def _failed(self, kind: str, answer: dict[str, Any] | None) -> None:
        if answer and answer.get("node_invalid") is True and self.does.secret and kind != ENROLL:
            self._key = ""
            self._at(self._loop.now(), ENROLL)
            return
        failures = self._failures[kind] = self._failures.get(kind, 0) + 1
        if kind == LOG:
            pause = max(self.does.pauses.get(LOG, 1.0), 0.1)
            wait = min(_LOG_BACKOFF_MAX, pause * failures**2)
        elif kind == ENROLL:
            wait = min(_ENROLL_BACKOFF_MAX, failures**2)
        elif failures % (len(_ATTEMPT_WAITS) + 1):
            wait = _ATTEMPT_WAITS[failures % (len(_ATTEMPT_WAITS) + 1) - 1]
        else:
            # Results that could not be sent are sent after the next read.
            self._pause(READ if kind == WRITE else kind)
            return
        self._at(self._loop.now() + wait, kind)

    def _pause(self, kind: str) -> None:
        self._at(self._loop.now() + self.does.pauses.get(kind, 0.0), kind)


def _meaning(body: bytes) -> tuple[dict[str, Any] | None, str]:
    """What osqueryd makes of an answer: its status never counts, an ``error`` in it does, and nothing is success."""
    if body in (b"", b"{}"):
        return {}, ""
    try:
        answer = json.loads(body)
    except ValueError:
        return None, "answer: not JSON"
    if not isinstance(answer, dict):
        return {}, ""
    if answer.get("node_invalid") is True:
        return answer, "answer: node_invalid"
    if "error" in answer:
        return answer, f"answer: {answer['error']}"
    return answer, ""
