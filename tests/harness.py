"""
A whole server in memory: a clock, the in-memory stores, the real services and routes, and a real HTTP client.

The certificate of a connection is said rather than shown: ``server.certificate = "node-1"``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import msgspec
from treq.testing import StubTreq
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from werkzeug.routing.rules import Rule
from zope.interface import directlyProvides, providedBy

from osqtwist.alertrule import read_rules
from osqtwist.assembly import assemble
from osqtwist.configuration import NodeConfiguration
from osqtwist.enrollsecret import EnrollSecrets, parse_enroll_secrets
from osqtwist.figures import SummedFigures
from osqtwist.flags import Flagfiles, NodeFiles
from osqtwist.housekeeping import LogKeeping
from osqtwist.identity import CertificateIdentity
from osqtwist.interfaces import StoreUnavailable
from osqtwist.inventory import Inventory
from osqtwist.layers import parse_layer
from osqtwist.livequery import LiveQueries
from osqtwist.loginterfaces import Budgets
from osqtwist.metrics import Metrics
from osqtwist.nodekey import NodeKeys, new_signing_key
from osqtwist.operating import admin_api
from osqtwist.operator import Actor, Role
from osqtwist.query import DistributedQuery, new_query_id
from osqtwist.settings import Settings
from osqtwist.sinkview import SinkView
from osqtwist.storage.memory import MemoryStores
from osqtwist.targeting import Target
from osqtwist.tracing import Traces
from osqtwist.web.admin import AdminAPI, Gate
from tests.answers import described_by


def _builds_nothing(*arguments: Any, **named: Any) -> Callable[..., Any]:
    raise AssertionError("no URL is built here")


# werkzeug compiles each route for building URLs too, with Python's own compiler.  Nothing builds any, and it is most of
# what a server in memory costs.
Rule._compile_builder = lambda self, append_unknown=True: _builds_nothing  # type: ignore[method-assign,assignment,misc]

SECRET = "open sesame".replace(" ", "-")
START = 1_790_000_000.0
LAYER = '{"schedule": {"heartbeat": {"query": "select 1", "interval": 60}}}'


class _Pool:
    """Runs at once what would run in a thread."""

    def callInThreadWithCallback(self, on_result: Any, function: Any, *arguments: Any, **named: Any) -> None:
        try:
            result = function(*arguments, **named)
        except Exception:
            on_result(False, Failure())
        else:
            on_result(True, result)


class ClockReactor(Clock):
    """As much of a reactor as the services need, with a clock that tests move."""

    def __init__(self) -> None:
        super().__init__()
        self.rightNow = START

    def getThreadPool(self) -> _Pool:
        return _Pool()

    def callFromThread(self, function: Any, *arguments: Any) -> None:
        function(*arguments)


class Outage:
    """Stands before a store; while it is down every call fails as a store that does not answer does."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.is_down = False
        self.calls: list[str] = []
        self.before: Callable[[str], Deferred[None] | None] = lambda name: None
        directlyProvides(self, providedBy(store))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)
        if name == "subscribe":
            return method

        async def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if self.is_down:
                raise StoreUnavailable("down")
            waiting = self.before(name)
            if waiting is not None:
                await waiting
            return await method(*arguments)

        return call


@attrs.define
class _Said:
    server: InMemoryServer

    def of(self, transport: Any) -> CertificateIdentity | None:
        name = self.server.certificate
        return None if name is None else certificate_for(name, self.server.fingerprint)

    def chain_of(self, transport: Any) -> list[Any]:
        return self.server.chain


def certificate_for(name: str, fingerprint: str = "") -> CertificateIdentity:
    """What a certificate with this common name says."""
    return CertificateIdentity(
        value=name,
        source="subject.CN",
        issuer="CN=test CA",
        serial="1f",
        fingerprint=fingerprint or name.encode().hex(),
        not_after=START + 1e6,
        key_type="P-256",
        tags=("ou:test",),
    )


@attrs.define
class _Door:
    """A gate where everybody without a token is the operator whom the test says."""

    server: InMemoryServer
    gate: Gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self.gate, name)

    async def actor_of(self, request: Any) -> Actor:
        if self.server.operator and request.getHeader("authorization") is None:
            return self.server.operator
        return await self.gate.actor_of(request)


class InMemoryServer:
    """The server; everything it is made of can be reached."""

    def __init__(
        self, folder: Path, layers: dict[str, str] | None = None, traces: Traces = Traces(), **settings: Any
    ) -> None:
        self.reactor = ClockReactor()
        self.settings = Settings(**settings)
        self.certificate: str | None = None
        self.fingerprint = ""
        self.chain: list[Any] = []
        self.operator: Actor | None = Actor("tester", Role.ADMIN, "socket")
        self.stores = MemoryStores(self.reactor, Budgets(live=1_000_000))
        self.outages = {}
        for name in (
            "nodes",
            "queries",
            "logs",
            "sinks",
            "carves",
            "clones",
            "denials",
            "audit",
            "operators",
            "secrets",
            "pending",
        ):
            self.outages[name] = Outage(getattr(self.stores, name))
            setattr(self.stores, name, self.outages[name])
        self.traces = traces
        traces.stores(self.stores)
        self.metrics = Metrics()
        self.secrets = EnrollSecrets(parse_enroll_secrets(f"{SECRET} tagged\n"))
        self.configuration = NodeConfiguration(
            [parse_layer(name, text) for name, text in (layers or {"00.conf": LAYER}).items()]
        )
        parts = assemble(
            self.reactor,
            self.settings,
            self.stores,
            self.configuration,
            _Said(self),
            self.secrets,
            NodeKeys((new_signing_key(),)),
            folder,
            self.metrics,
            traces=traces,
        )
        self.parts, self.api = parts, parts.api
        self.parked, self.distributed = parts.parked, parts.api.distributed
        self.client = StubTreq(parts.api.app(self.settings.route_prefix).resource())
        figures = SummedFigures(self.metrics.registry)
        self.inventory = Inventory(
            self.reactor, self.stores, parts.api.directory, self.configuration, parts.api.clones, figures, self.metrics
        )
        self.live = LiveQueries(self.reactor, self.stores, self.distributed, self.inventory, self.settings.live)
        self.sinks = SinkView(self.reactor, self.stores, self.metrics)
        self.figures = figures
        self._admin: StubTreq | None = None
        keeping = LogKeeping(self.reactor, self.stores, self.sinks, self.settings.log_retention_hours * 3600)
        self.services = [keeping, *parts.services]
        for service in self.services:
            service.startService()
        self.turn()

    @property
    def admin_api(self) -> AdminAPI:
        """The operators' API."""
        rules = self.settings.operators
        made = admin_api(
            self.reactor,
            self.stores,
            self.parts,
            self.sinks,
            self.figures,
            rules,
            Flagfiles(8443, NodeFiles("ca.pem", "node.pem", "node.key", "secret"), "osquery.example.com"),
            live_rules=self.settings.live,
            alert_rules=read_rules(self.settings.alert),
        )
        return self.traces.admin(attrs.evolve(made, gate=_Door(self, made.gate)))

    @property
    def admin(self) -> StubTreq:
        """A client of it, which takes its time to make."""
        if self._admin is None:
            api = self.admin_api
            self._described = described_by(api)
            self._admin = StubTreq(api.app().resource())
        return self._admin

    def stop(self) -> None:
        """End it; nothing may be left on the clock."""
        for service in reversed(self.services):
            service.stopService()
        self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and deliver what is on the way."""
        self.reactor.advance(seconds)
        for _ in range(5):
            self.reactor.advance(0)
            self.client.flush()
            if self._admin:
                self._admin.flush()

    def down(self, is_down: bool = True) -> None:
        """Take every store away, or give it back."""
        for outage in self.outages.values():
            outage.is_down = is_down

    def begin(self, path: str, body: Any = None, *, method: str = "POST", headers: Any = None, raw: Any = None) -> Any:
        """Send a request; answers with the Deferred of ``(status, headers, body)``."""
        data = raw if raw is not None else msgspec.json.encode(body)
        return Deferred.fromCoroutine(self._exchange(self.client, method, path, data, headers or {}))

    async def _exchange(self, client: Any, method: str, path: str, data: Any, headers: dict[str, str]) -> Any:
        response = await client.request(method, f"https://server{path}", data=data, headers=headers)
        content = await response.content()
        if client is self._admin:
            media = (response.headers.getRawHeaders("content-type") or [""])[0]
            self._described.check(method, path, response.code, media, content)
        return response.code, response.headers, content

    def ask(self, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        """Send a request that is answered at once; answers with status and JSON."""
        code, _, content = self.finish(self.begin(path, body, **more))
        return code, json.loads(content)

    def finish(self, asking: Deferred[Any]) -> Any:
        """The result of a Deferred that has one by now."""
        self.turn()
        return result_of(asking)

    def begin_operation(self, path: str, body: Any = None, method: str = "GET", headers: Any = None) -> Any:
        """Send a request to the operators' API; answers with the Deferred of ``(status, headers, body)``."""
        data = None if body is None else msgspec.json.encode(body)
        return Deferred.fromCoroutine(self._exchange(self.admin, method, path, data, headers or {}))

    def operate(self, path: str, body: Any = None, method: str = "GET", **headers: str) -> tuple[int, Any]:
        """A request to the operators' API that is answered at once; headers with ``_`` for ``-``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        code, heads, content = self.finish(self.begin_operation(path, body, method, named))
        if "json" not in str(heads.getRawHeaders("content-type")):
            return code, content
        lines = [json.loads(line) for line in content.splitlines()]
        return code, lines[0] if len(lines) == 1 else lines

    def enroll(self, host: str = "host-1", platform: str = "9") -> str:
        """Enroll with the secret; answers with the node key."""
        code, answer = self.ask(
            "/enroll", {"enroll_secret": SECRET, "host_identifier": host, "platform_type": platform, "host_details": {}}
        )
        assert code == 200, answer
        key = answer["node_key"]
        assert isinstance(key, str)
        return key

    def issue(self, sql: str = "select 1", **more: Any) -> DistributedQuery:
        """Ask all nodes something."""
        now = self.reactor.seconds()
        query = DistributedQuery(
            **{
                "query_id": new_query_id(now),
                "sql": sql,
                "target": Target(),
                "created_at": now,
                "expires_at": now + 3600,
                **more,
            }
        )
        self.finish(Deferred.fromCoroutine(self.distributed.issue(query)))
        return query

    def await_(self, coroutine: Any) -> Any:
        """The result of a coroutine that needs no time."""
        return self.finish(Deferred.fromCoroutine(coroutine))


def result_of(deferred: Deferred[Any]) -> Any:
    """The result a Deferred has."""
    found: list[Any] = []
    deferred.addBoth(found.append)
    assert found, "there is no result yet"
    if isinstance(found[0], Failure):
        found[0].raiseException()
    return found[0]
