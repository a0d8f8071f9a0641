"""
The node API: what osqueryd calls.

=====================  ===========================================================================
enroll                 a node key for an enroll secret or a certificate
config                 the configuration of the node, or ``{"etag":"ok"}``
log                    ``{}`` once the lines are stored
distributed_read       queries, or ``{}`` when the hold is over
distributed_write      ``{}`` once the results are stored
carver_start           a session id
carver_continue        ``{}`` once the block is written; a refusal is plain text
=====================  ===========================================================================

The paths are in :mod:`osqtwist.web.routes`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec
from cryptography import x509
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from osqtwist import wire
from osqtwist.authentication import Authentication, Caller, NodeInvalid
from osqtwist.canarywatch import CanaryWatch
from osqtwist.carves import Carves
from osqtwist.certificatechecks import CertificateChecks, CertificateRefused
from osqtwist.clones import Clones
from osqtwist.clonewatch import CloneWatch
from osqtwist.configuration import NodeConfiguration
from osqtwist.directory import Directory
from osqtwist.distributed import Distributed
from osqtwist.enrollment import Enrollment
from osqtwist.identity import CertificateIdentity, UnidentifiedCertificate, node_id_for_certificate
from osqtwist.logs import LogIntake
from osqtwist.metrics import Metrics
from osqtwist.node import ConfigState
from osqtwist.query import QueryResult
from osqtwist.targeting import NodeFacts
from osqtwist.web import routes
from osqtwist.web.exchange import Exchange, Visit, Work
from osqtwist.web.request import Endpoint

_HEADER_KEY = "NodeKey "
_GZIP_FROM_BYTES = 512
HOLD_SPREAD = 0.1
"""The share of a hold by which it may end early, by chance."""


@attrs.frozen
class NodeAPI:
    """
    The routes of nodes, over the services.

    :ivar certificate_of: the identity of the certificate that a request's connection showed, if any.
    :ivar chain_of: that certificate and those above it.
    :ivar checks: what is asked about it.
    :ivar hold: seconds, from the acceptance of its connection, that a distributed read is held; some end up to
        :data:`HOLD_SPREAD` of it earlier.
    :ivar enroll_secret_name: the key of the enroll secret, for nodes that run ``--tls_enroll_override``.
    """

    exchange: Exchange
    certificate_of: Callable[[Request], CertificateIdentity | None]
    chain_of: Callable[[Request], Sequence[x509.Certificate]]
    checks: CertificateChecks
    authentication: Authentication
    enrollment: Enrollment
    clones: Clones
    watch: CloneWatch
    directory: Directory
    configuration: NodeConfiguration
    canaries: CanaryWatch
    distributed: Distributed
    logs: LogIntake
    carves: Carves
    metrics: Metrics
    hold: float
    enroll_secret_name: str

    def app(self, prefixes: Sequence[str] = ()) -> Klein:
        """The Klein application, with every path of every route."""
        app = Klein()
        app.url_map.merge_slashes = False
        for path, endpoint in self.endpoints(prefixes).items():
            app.route(path, methods=list(routes.METHODS))(endpoint)
        app.handle_errors(HTTPException)(self._refuse_route)
        return app

    def endpoints(self, prefixes: Sequence[str] = ()) -> dict[str, Endpoint]:
        """What answers each path of each route."""
        work: dict[str, Work] = {
            routes.ENROLL: self.enroll,
            routes.CONFIG: self.config,
            routes.LOG: self.log,
            routes.READ: self.read,
            routes.WRITE: self.write,
            routes.CARVE_START: self.carve_start,
            routes.CARVE_CONTINUE: self.carve_continue,
        }
        return {
            path: self._endpoint(route, work[route])
            for route, paths in routes.paths_by_route(prefixes).items()
            for path in paths
        }

    async def enroll(self, visit: Visit) -> bytes:
        """Let a node in; never held."""
        request = wire.parse_enroll(await self.exchange.body_of(visit), self.enroll_secret_name)
        visit.node_name = request.host_identifier
        node, node_key = await self.enrollment.enroll(request, visit.certificate, visit.address)
        visit.node_id, visit.node_name = node.node_id, node.name
        self.directory.learn(node)
        self.directory.saw(node.node_id, visit.address, visit.header(b"User-Agent"))
        self.metrics.enrolled.labels(proof=node.proof).inc()
        return wire.enrolled(node_key)

    async def config(self, visit: Visit) -> bytes:
        """The node's configuration; an etag only for clients that sent one."""
        request = wire.parse(wire.NodeRequest, await self.exchange.body_of(visit))
        caller = self._admit(visit, request.node_key)
        facts = await self._facts(visit, caller)
        etag = request.etag if isinstance(request.etag, str) else None if request.etag is msgspec.UNSET else ""
        answer = self.configuration.config_for(facts, etag)
        self.metrics.configs.labels(etag="none" if etag is None else "ok" if answer.is_unchanged else "new").inc()
        state: ConfigState = "unconfirmed" if etag is None else "confirmed" if answer.is_unchanged else "sent"
        self.directory.served(caller.node_id, answer.etag, state)
        if answer.run:
            self.canaries.served(caller.node_id)
        if len(answer.body) >= _GZIP_FROM_BYTES and "gzip" in visit.header(b"Accept-Encoding"):
            visit.request.responseHeaders.setRawHeaders(b"Content-Encoding", [b"gzip"])
            return answer.gzipped()
        return answer.body

    async def log(self, visit: Visit) -> bytes:
        """Keep lines; the node deletes its own as soon as this answers without ``error``."""
        request = wire.parse_log(await self.exchange.body_of(visit))
        caller = self._admit(visit, request.node_key)
        facts = await self._facts(visit, caller)
        visit.lines = await self.logs.accept(caller, facts, request, visit.address)
        return wire.DONE

    async def read(self, visit: Visit) -> bytes:
        """Distributed queries, as soon as there are any."""
        request = wire.parse(wire.NodeRequest, await self.exchange.body_of(visit))
        caller = self._admit(visit, request.node_key)
        facts = await self._facts(visit, caller)
        began = self.exchange.clock.seconds()
        refusal = self._later_refusal(visit, request.node_key)
        # Nobody looks at them any more, and with many reads held they are megabytes.
        visit.request.requestHeaders = Headers()
        address = visit.address
        self.watch.begin_read(caller, address)
        try:
            # Nodes that came all at once, after a restart, must not come all at once for ever.
            until = visit.accepted_at + self.hold * (1 - HOLD_SPREAD * random.random())  # noqa: S311
            queries = await self.distributed.read(facts, until, lambda: refusal() is None, address)
        finally:
            visit.held_for = self.exchange.clock.seconds() - began
            self.watch.end_read(caller, address)
        if visit.is_gone:
            return b""
        if problem := refusal():
            raise problem
        visit.outcome = "work" if queries else "held"
        self.metrics.reads_ended.labels(way=visit.outcome).inc()
        return wire.work(
            {query.query_id: query.sql for query in queries},
            {query.query_id: query.discovery for query in queries if query.discovery},
        )

    async def write(self, visit: Visit) -> bytes:
        """Keep results; what came before or was never asked is passed over, so that it does not come again."""
        request = wire.parse(wire.WriteRequest, await self.exchange.body_of(visit))
        caller = self._admit(visit, request.node_key)
        now = self.exchange.clock.seconds()
        query_ids = wire.answered_by(request)
        visit.lines = len(query_ids)
        results = []
        for query_id in query_ids:
            rows = wire.rows_of(request, query_id)
            results.append(
                QueryResult(
                    query_id=query_id,
                    node_id=caller.node_id,
                    node_name=visit.node_name,
                    received_at=now,
                    status=request.statuses.get(query_id, 0),
                    message=request.messages.get(query_id, "")[:4096],
                    rows=rows,
                    row_count=wire.count_rows(rows),
                    stats=wire.stats_of(request, query_id),
                )
            )
        await self.distributed.record(results)
        return wire.DONE

    async def carve_start(self, visit: Visit) -> bytes:
        """Begin a carve."""
        request = wire.parse(wire.CarveStartRequest, await self.exchange.body_of(visit))
        caller = self._admit(visit, request.node_key)
        facts = await self._facts(visit, caller)
        session = await self.carves.start(caller, facts.name, request)
        return wire.carve_started(session.session_id)

    async def carve_continue(self, visit: Visit) -> bytes:
        """Keep one block.  Old clients show nothing but the session id with it."""
        request = wire.parse(wire.CarveBlockRequest, await self.exchange.body_of(visit))
        shows_key = request.node_key or visit.header(b"Authorization")
        caller = self._admit(visit, request.node_key) if shows_key else None
        await self.carves.add_block(request, caller, visit.certificate)
        return wire.DONE

    def is_out(self, channel: Any) -> bool:
        """Whether the node at the other end of a connection is refused, by its request or else its certificate."""
        caller: Caller | None = channel.caller
        if caller and self.directory.is_revoked(caller.node_id, caller.issued_at):
            return True
        try:
            certificate = caller.certificate if caller else self.certificate_of(channel)
        except UnidentifiedCertificate:
            return False
        except CertificateRefused:
            # A proxy passed it; its request was refused, or would be by now.
            return True
        if certificate is None:
            return False
        if caller is None and self.directory.is_revoked(node_id_for_certificate(certificate.value)):
            return True
        return bool(self.checks.refusal_of(certificate))

    def _admit(self, visit: Visit, body_key: str | None) -> Caller:
        caller = self._authenticate(visit, body_key)
        visit.node_id, visit.node_name = caller.node_id, self.directory.name_of(caller)
        self.directory.saw(caller.node_id, visit.address, visit.header(b"User-Agent"))
        self.watch.used(caller)
        if caller.signing_key:
            self.metrics.signing_key_requests.labels(key=caller.signing_key).inc()
        if not visit.is_gone:
            visit.request.channel.caller = caller  # type: ignore[attr-defined]
        return caller

    def _authenticate(self, visit: Visit, body_key: str | None) -> Caller:
        return self.authentication.authenticate(body_key, _header_key(visit), visit.certificate)

    async def _facts(self, visit: Visit, caller: Caller) -> NodeFacts:
        facts = await self.directory.facts_of(caller, visit.address)
        visit.node_name = facts.name
        return facts

    def _later_refusal(self, visit: Visit, body_key: str | None) -> Callable[[], Exception | None]:
        """What says, as long as a request waits, whether it would be refused if it came now."""
        # Looked up once: a query for all nodes asks for each of them again.
        header_key, certificate = _header_key(visit), visit.certificate

        def refusal() -> Exception | None:
            try:
                self.authentication.authenticate(body_key, header_key, certificate)
            except NodeInvalid as problem:
                return problem
            refused = self.checks.refusal_of(certificate) if certificate else ""
            return CertificateRefused(refused) if refused else None

        return refusal

    def _endpoint(self, route: str, work: Work) -> Endpoint:
        speaks_json = route != routes.CARVE_CONTINUE

        async def checked(visit: Visit) -> bytes:
            certificate = visit.certificate = self.certificate_of(visit.request)
            if certificate is not None:
                if not self.checks.is_settled(certificate):
                    await self.checks.ask(certificate, lambda: self.chain_of(visit.request))
                self.checks.admit(certificate)
            return await work(visit)

        def endpoint(request: Request) -> Deferred[bytes]:
            return Deferred.fromCoroutine(self.exchange.carry_out(request, route, checked, speaks_json))

        endpoint.__name__ = route
        return endpoint

    def _refuse_route(self, request: Any, failure: Failure) -> Any:
        problem: Any = failure.value
        code, text = 400, "bad request"
        if isinstance(problem, NotFound):
            code, text = 404, "there is no such route"
        elif isinstance(problem, MethodNotAllowed):
            code, text = 405, "this route takes POST"
            request.responseHeaders.setRawHeaders(b"Allow", [", ".join(routes.METHODS).encode()])
        request.setResponseCode(code)
        request.responseHeaders.setRawHeaders(b"Content-Type", [b"application/json"])
        request.responseHeaders.setRawHeaders(b"Server", [b"osqtwist"])
        self.metrics.refused.labels(reason=f"http_{code}").inc()
        return wire.refusal(text)


def _header_key(visit: Visit) -> str | None:
    header = visit.header(b"Authorization")
    return header.removeprefix(_HEADER_KEY).strip() if header.startswith(_HEADER_KEY) else None
