"""A node that asks one thing at a time, and says what osqueryd would make of the answer."""

from __future__ import annotations

import base64
import itertools
import json
import time
from typing import Any

import attrs

from osqtwist.simulator.rules import CallFailed, NodeInvalid, understand, understand_carve, understand_enroll
from osqtwist.simulator.tables import Machine
from osqtwist.simulator.transport import TimedOut, Transport, TransportFailed, client_context
from tests.faults.ledger import Ledger
from tests.faults.stage import Stage

BROKEN = frozenset({"NODE_INVALID", "WIPED", "DROPPED"})
"""What no fault may make a node see."""
BLOCK = 16384
"""Larger than a page, so that a full disk cannot take one more."""
_PADDING = "x" * 8192

_numbers = itertools.count(1)


@attrs.frozen
class Seen:
    """
    What a node saw.

    :ivar word: ``config``, ``stored``, ``held``, ``work``, ``enrolled``, ``started``: what it asked for; ``refused``:
        it keeps what it has and comes again; ``no answer`` in 16 s, or ``cut`` off, twice: the same; the words of
        :data:`BROKEN`.
    """

    word: str
    seconds: float
    text: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it got what it asked for."""
        return self.word in ("config", "stored", "held", "work", "enrolled", "started")

    def __str__(self) -> str:
        return f"{self.word} {self.seconds:.1f} s" if self.seconds >= 0.95 and self.word != "held" else self.word


@attrs.define(eq=False)
class Node:
    """One machine with osqueryd."""

    stage: Stage
    ledger: Ledger
    machine: Machine
    transport: Transport
    node_key: str = ""
    number: int = 0
    session: str = ""
    carve_id: str = ""
    carve_data: bytes = b""
    etag: str = ""
    has_config: bool = False
    work: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def on(cls, stage: Stage, ledger: Ledger, shows_certificate: bool = True) -> Node:
        """A new node."""
        machine = Machine.number(next(_numbers), 7)
        credential = stage.certificates.credential(machine.name) if shows_certificate else None
        found = (credential.certificate, credential.key) if credential else ()
        transport = Transport(stage.reactor, stage.nodes_server, client_context(stage.ca_file, *found))
        return cls(stage, ledger, machine, transport)

    # -- one request each

    async def enroll(self) -> Seen:
        """Ask for a node key."""
        body = {
            "enroll_secret": self.stage.enroll_secret,
            "host_identifier": self.machine.uuid,
            "platform_type": self.machine.platform_type,
            "host_details": self.machine.host_details,
        }

        def judge(answer: bytes) -> str:
            # osqueryd does not look at it here; but only a secret that is wrong deserves it.
            if b'"node_invalid":true' in answer:
                return "NODE_INVALID"
            self.node_key = understand_enroll(answer)
            self.ledger.keys.append(self)
            return "enrolled"

        return await self._ask("/enroll", body, judge)

    async def config(self) -> Seen:
        """Ask for the configuration."""
        body = {"node_key": self.node_key, "etag": self.etag}

        def judge(answer: bytes) -> str:
            found = understand(answer)
            if found == {"etag": "ok"} and self.has_config:
                return "config"
            if not found.get("schedule"):
                return "WIPED"
            self.has_config, self.etag = True, str(found.get("etag", ""))
            return "config"

        return await self._ask("/config", body, judge)

    async def log(self) -> Seen:
        """Post one numbered line; the same again until it is stored."""
        line = {
            "name": "numbered",
            "hostIdentifier": self.machine.uuid,
            "unixTime": int(time.time()),
            "action": "added",
            "columns": {"number": str(self.number + 1), "padding": _PADDING},
        }

        def judge(answer: bytes) -> str:
            understand(answer)
            self.number += 1
            self.ledger.lines.add((self.machine.uuid, self.number))
            return "stored"

        return await self._ask("/log", {"node_key": self.node_key, "log_type": "result", "data": [line]}, judge)

    async def read(self) -> Seen:
        """Ask for distributed queries."""

        def judge(answer: bytes) -> str:
            queries = understand(answer).get("queries", {})
            self.work |= queries
            return "work" if queries else "held"

        return await self._ask("/distributed/read", {"node_key": self.node_key}, judge)

    async def write(self) -> Seen:
        """Post what came of the queries at hand; the same again until it is stored."""
        rows = [{"node": self.machine.uuid}]
        body = {
            "node_key": self.node_key,
            "queries": dict.fromkeys(self.work, rows),
            "statuses": dict.fromkeys(self.work, 0),
        }

        def judge(answer: bytes) -> str:
            understand(answer)
            self.ledger.results += [(query_id, self.machine.uuid) for query_id in self.work]
            self.work = {}
            return "stored"

        return await self._ask("/distributed/write", body, judge)

    async def carve_start(self, blocks: int = 3) -> Seen:
        """Begin a carve."""
        self.carve_data = self.machine.uuid.encode() * (BLOCK * blocks // len(self.machine.uuid))
        self.carve_id = f"carve-{self.machine.uuid[:8]}-{time.monotonic_ns():x}"
        body = {
            "node_key": self.node_key,
            "block_count": -(-len(self.carve_data) // BLOCK),
            "block_size": BLOCK,
            "carve_size": len(self.carve_data),
            "carve_id": self.carve_id,
            "request_id": self.carve_id,
        }

        def judge(answer: bytes) -> str:
            session = understand_carve(answer).get("session_id")
            if not isinstance(session, str) or not session:
                raise CallFailed("no session_id")
            self.session = session
            return "started"

        return await self._ask("/carver/start", body, judge)

    async def carve_block(self, number: int) -> Seen:
        """Send a block of the carve."""
        data = base64.b64encode(self.carve_data[number * BLOCK : (number + 1) * BLOCK]).decode()
        body = {"block_id": number, "session_id": self.session, "request_id": self.carve_id, "data": data}

        def judge(answer: bytes) -> str:
            understand_carve(answer)
            return "stored"

        return await self._ask("/carver/continue", body, judge)

    def carve_is_sent(self) -> None:
        """Every block was acknowledged."""
        self.ledger.carves[self.carve_id] = self.carve_data

    async def _ask(self, path: str, body: dict[str, Any], judge: Any) -> Seen:
        headers = [("Content-Type", "application/json"), ("User-Agent", "osquery/5.23.0")]
        if self.node_key and path != "/enroll":
            headers.append(("Authorization", f"NodeKey {self.node_key}"))
        began = time.monotonic()
        text = ""
        try:
            answer = await self.transport.post(path, json.dumps(body).encode(), headers)
            text = answer.body[:200].decode("utf-8", "replace")
            # An empty body is success to osqueryd, whatever was meant: it would forget what it holds.
            word = judge(answer.body) if answer.body else "DROPPED"
        except TimedOut:
            word = "no answer"
        except TransportFailed as problem:
            word, text = "cut", str(problem)
        except NodeInvalid as problem:
            word, text = "NODE_INVALID", str(problem)
        except CallFailed as problem:
            word, text = "refused", str(problem)
        return Seen(word, time.monotonic() - began, text)
