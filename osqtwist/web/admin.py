"""
The operators' API, on the admin socket.  Whoever may open the socket may do everything here.

====================================  ====================================================================
GET  /healthz                         ``{"status":"ok"}``, or 503 when the store does not answer
GET  /metrics                         Prometheus
GET  /api/v1/status                   one page of figures
GET  /api/v1/flags                    an osqueryd flagfile that works with this server (text)
GET  /api/v1/nodes                    nodes, newest first; ``online=1``, ``where``, ``offset``, ``limit``
GET  /api/v1/nodes/NODE               one node, by id, name or host identifier
GET  /api/v1/nodes/NODE/config        its config, and which layers it is made of
POST /api/v1/nodes/NODE/revoke        refuse the node from now on
POST /api/v1/nodes/NODE/restore       take that back
POST /api/v1/nodes/NODE/tags          give it tags: ``{"add": [...], "remove": [...]}``
POST /api/v1/nodes/NODE/forget        keep nothing of it any more
GET  /api/v1/certificates             certificates of nodes that end ``within`` so many days, or have ended
POST /api/v1/queries                  ask nodes something: ``{"sql": ..., "target": {...}, "expires_in": 60}``
POST /api/v1/queries/run              the same, and stream the results (NDJSON) until all answered or time is up
GET  /api/v1/queries                  the newest queries
GET  /api/v1/queries/QUERY            one query and how far it has come
GET  /api/v1/queries/QUERY/results    its results so far (NDJSON)
POST /api/v1/queries/QUERY/cancel     ask no more nodes
GET  /api/v1/logs                     log lines as they come (NDJSON); ``from=start`` for all that is kept
GET  /api/v1/logs/dead                dead letters (NDJSON)
POST /api/v1/logs/trim                delete what is older than ``{"older_than": SECONDS}``
GET  /api/v1/sinks                    log sinks: how far each has come, and what is wrong with it
GET  /api/v1/sinks/SINK/dead          lines that the sink refused, and why (NDJSON)
POST /api/v1/sinks/SINK/pause         stop delivering to it
POST /api/v1/sinks/SINK/resume        go on
POST /api/v1/sinks/SINK/replay        deliver again: ``{"since": TIME}``, ``{"after": BATCH}`` or ``{"dead": true}``
POST /api/v1/sinks/SINK/forget        delete its cursor; the buffer keeps nothing for it any more
GET  /api/v1/workers                  worker processes and what they do
POST /api/v1/workers/replace          replace them one by one, refusing no connection
GET  /api/v1/audit                    what operators did, newest first; ``limit``
GET  /api/v1/audit/all                all of it, oldest first (NDJSON)
GET  /api/v1/audit/verify             whether each entry follows from the one before
GET  /api/v1/carves                   carves, newest first
GET  /api/v1/carves/CARVE/file        the bytes of a complete carve
====================================  ====================================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import attrs
import msgspec
from klein import Klein
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.protocols.basic import FileSender
from twisted.python.failure import Failure
from twisted.web.server import Request
from werkzeug.exceptions import HTTPException

from osqtwist.audittrail import AuditTrail
from osqtwist.carves import Carves
from osqtwist.figures import SummedFigures
from osqtwist.interfaces import NoSuchThing, StoreFull, StoreUnavailable
from osqtwist.inventory import BadTag, Inventory
from osqtwist.livequery import BadQuery, LiveQueries, refuse_bad_sql
from osqtwist.logview import LogView
from osqtwist.sinkview import SinkView
from osqtwist.targeting import BadTarget, Target
from osqtwist.web.asking import action_of, actor_of, begin_lines, body_of, json_of, number_of, text_of, write_line
from osqtwist.web.sinks import SinkRoutes
from osqtwist.web.workers import NotReplaced, WorkerCrew, WorkerRoutes
from osqtwist.wire import MalformedRequest

_MAX_PAGE = 1000
_MAX_SQL = 64 * 1024


class QueryOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What the body of a new query says; ``expires_in`` in seconds, ``check`` whether to look at the SQL first."""

    sql: str
    target: Target = Target()
    discovery: str = ""
    expires_in: float = 60.0
    created_by: str = ""
    check: bool = True


class TagOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What the body of a change of tags says; what is in both is removed."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class TrimOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What the body of a trim says; seconds."""

    older_than: float


@attrs.frozen
class AdminAPI:
    """
    The routes of operators.

    :ivar figures: those of every process.
    :ivar crew: the worker processes, if there are any.
    :ivar flags: writes the flagfile.
    """

    inventory: Inventory
    live: LiveQueries
    log_view: LogView
    sinks: SinkView
    carve_files: Carves
    trail: AuditTrail
    figures: SummedFigures
    crew: WorkerCrew | None
    flags: Callable[[], str]
    _log: Logger = Logger()

    def app(self) -> Klein:
        """The Klein application."""
        app = Klein()
        sinks, workers = SinkRoutes(self.sinks), WorkerRoutes(self.crew)
        get: Iterable[tuple[str, Callable[..., Awaitable[Any]]]] = (
            ("/healthz", self.healthz),
            ("/metrics", self.read_metrics),
            ("/api/v1/status", self.status),
            ("/api/v1/flags", self.read_flags),
            ("/api/v1/nodes", self.nodes),
            ("/api/v1/nodes/<path:name>/config", self.node_config),
            ("/api/v1/nodes/<path:name>", self.node),
            ("/api/v1/certificates", self.certificates),
            ("/api/v1/queries", self.queries),
            ("/api/v1/queries/<query_id>", self.query),
            ("/api/v1/queries/<query_id>/results", self.results),
            ("/api/v1/logs", self.logs),
            ("/api/v1/logs/dead", self.dead_letters),
            ("/api/v1/sinks", sinks.sinks),
            ("/api/v1/sinks/<sink>/dead", sinks.sink_dead_letters),
            ("/api/v1/audit", self.audit_entries),
            ("/api/v1/audit/all", self.whole_audit),
            ("/api/v1/audit/verify", self.verify_audit),
            ("/api/v1/workers", workers.workers),
            ("/api/v1/carves", self.carves),
            ("/api/v1/carves/<carve_id>/file", self.carve_file),
        )
        post: Iterable[tuple[str, Callable[..., Awaitable[Any]]]] = (
            ("/api/v1/nodes/<path:name>/revoke", self.revoke),
            ("/api/v1/nodes/<path:name>/restore", self.restore),
            ("/api/v1/nodes/<path:name>/tags", self.tag),
            ("/api/v1/nodes/<path:name>/forget", self.forget_node),
            ("/api/v1/queries", self.issue),
            ("/api/v1/queries/run", self.run),
            ("/api/v1/queries/<query_id>/cancel", self.cancel),
            ("/api/v1/logs/trim", self.trim),
            ("/api/v1/sinks/<sink>/pause", sinks.pause),
            ("/api/v1/sinks/<sink>/resume", sinks.resume),
            ("/api/v1/sinks/<sink>/replay", sinks.replay),
            ("/api/v1/sinks/<sink>/forget", sinks.forget),
            ("/api/v1/workers/replace", workers.replace),
        )
        for method, table in (("GET", get), ("POST", post)):
            for path, work in table:
                endpoint = self._endpoint(work, is_change=method == "POST")
                endpoint.__name__ = f"{method}_{work.__name__}"
                app.route(path, methods=[method])(endpoint)
        app.handle_errors(HTTPException)(self._refuse_route)
        return app

    async def healthz(self, request: Request) -> Any:
        """Whether requests of nodes can be served."""
        await self.inventory.ping()
        return {"status": "ok"}

    async def read_metrics(self, request: Request) -> bytes:
        """Every metric, with the figures of the store looked up now."""
        await self.inventory.update_metrics()
        with contextlib.suppress(StoreUnavailable, StoreFull):
            await self.sinks.update_metrics()
        request.setHeader(b"Content-Type", CONTENT_TYPE_LATEST.encode("ascii"))
        return generate_latest(self.figures)

    async def status(self, request: Request) -> Any:
        """One page of figures."""
        rows = await self.sinks.rows()
        brief = {each["sink"]: {key: each[key] for key in ("state", "lag_lines", "lag_seconds")} for each in rows}
        return await self.inventory.status() | {"sinks": brief}

    async def read_flags(self, request: Request) -> bytes:
        """A flagfile."""
        request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        return self.flags().encode()

    async def nodes(self, request: Request) -> Any:
        """A page of nodes."""
        limit = min(number_of(request, "limit", 100), _MAX_PAGE)
        offset, online = number_of(request, "offset", 0), bool(number_of(request, "online", 0))
        return await self.inventory.nodes(offset, limit, online, Target(where=text_of(request, "where", "")))

    async def node(self, request: Request, name: str) -> Any:
        """One node."""
        return await self.inventory.node(name)

    async def node_config(self, request: Request, name: str) -> Any:
        """The config of a node, and why it is that."""
        return await self.inventory.config_of(name)

    async def certificates(self, request: Request) -> Any:
        """Whose certificate ends soon."""
        limit = min(number_of(request, "limit", 100), _MAX_PAGE)
        return {"certificates": await self.inventory.certificates(number_of(request, "within", 30), limit)}

    async def revoke(self, request: Request, name: str) -> Any:
        """Refuse a node."""
        return await self.inventory.revoke(name, str(json_of(request, dict[str, str]).get("reason", "")))

    async def restore(self, request: Request, name: str) -> Any:
        """Take a revocation back."""
        return await self.inventory.restore(name)

    async def tag(self, request: Request, name: str) -> Any:
        """Change the tags that operators gave a node."""
        order: TagOrder = json_of(request, TagOrder)
        return await self.inventory.tag(name, order.add, order.remove)

    async def forget_node(self, request: Request, name: str) -> Any:
        """Forget a node."""
        return await self.inventory.forget(name)

    async def queries(self, request: Request) -> Any:
        """The newest queries."""
        return {"queries": await self.live.queries(min(number_of(request, "limit", 20), _MAX_PAGE))}

    async def query(self, request: Request, query_id: str) -> Any:
        """One query."""
        return await self.live.query(query_id)

    async def issue(self, request: Request) -> Any:
        """Ask nodes something, and do not wait."""
        order = _order(request)
        request.setResponseCode(201)
        return await self.live.issue(
            order.sql, order.target, order.expires_in, discovery=order.discovery, created_by=order.created_by
        )

    async def run(self, request: Request) -> None:
        """Ask nodes something and stream what they answer; when the operator goes away, nobody else is asked."""
        order = _order(request)
        begin_lines(request)
        await self.live.run(
            order.sql,
            order.target,
            order.expires_in,
            lambda line: write_line(request, line),
            discovery=order.discovery,
            created_by=order.created_by,
        )

    async def results(self, request: Request, query_id: str) -> None:
        """The results so far."""
        await self.live.query(query_id)
        begin_lines(request)
        await self.live.results(query_id, lambda line: write_line(request, line))

    async def cancel(self, request: Request, query_id: str) -> Any:
        """Ask no more nodes."""
        return await self.live.cancel(query_id)

    async def logs(self, request: Request) -> None:
        """Log lines, for as long as the operator listens; with ``follow=0`` only those that are there."""
        begin_lines(request)
        from_start = text_of(request, "from", "") == "start"
        follow = bool(number_of(request, "follow", 1))
        await self.log_view.tail(lambda line: write_line(request, line), from_start=from_start, follow=follow)

    async def dead_letters(self, request: Request) -> None:
        """The dead letters that are kept."""
        begin_lines(request)
        await self.log_view.dead_letters(lambda line: write_line(request, line))

    async def trim(self, request: Request) -> Any:
        """Make room in the log buffer."""
        return await self.log_view.trim(json_of(request, TrimOrder).older_than)

    async def carves(self, request: Request) -> Any:
        """The newest carves."""
        return {"carves": await self.carve_files.listing(min(number_of(request, "limit", 100), _MAX_PAGE))}

    async def carve_file(self, request: Request, carve_id: str) -> None:
        """The bytes of a carve, with their SHA-256 in a header."""
        path, sha256 = await self.carve_files.file_of(carve_id)
        with path.open("rb") as file:
            request.setHeader(b"Content-Type", b"application/octet-stream")
            request.setHeader(b"Content-Length", str(path.stat().st_size).encode())
            request.setHeader(b"X-Carve-SHA256", sha256.encode())
            request.setHeader(b"X-Carve-File-Name", path.name.encode())
            await FileSender().beginFileTransfer(file, request)

    async def audit_entries(self, request: Request) -> Any:
        """What operators did."""
        return {"entries": await self.trail.newest(min(number_of(request, "limit", 100), _MAX_PAGE))}

    async def whole_audit(self, request: Request) -> None:
        """All of it."""
        begin_lines(request)
        await self.trail.all(lambda line: write_line(request, line))

    async def verify_audit(self, request: Request) -> Any:
        """Whether it is whole."""
        return await self.trail.verify()

    def _endpoint(self, work: Callable[..., Awaitable[Any]], is_change: bool) -> Callable[..., Deferred[Any]]:
        async def answer(request: Request, **names: str) -> Any:
            request.setHeader(b"Server", b"osqtwist")
            try:
                if is_change:
                    await self.trail.begun(actor_of(request), action_of(request), body_of(request))
                result = await work(request, **names)
            except CancelledError:
                raise
            except Exception as problem:
                if is_change:
                    with contextlib.suppress(StoreUnavailable, StoreFull):
                        await self.trail.refused(actor_of(request), action_of(request), str(problem))
                return self._refuse(request, problem)
            if result is None or isinstance(result, bytes):
                return result or b""
            request.setHeader(b"Content-Type", b"application/json")
            return msgspec.json.encode(result) + b"\n"

        def endpoint(request: Request, **names: str) -> Deferred[Any]:
            return Deferred.fromCoroutine(answer(request, **names))

        return endpoint

    def _refuse(self, request: Request, problem: Exception) -> bytes:
        if isinstance(problem, NoSuchThing):
            code = 404
        elif isinstance(problem, MalformedRequest | BadTarget | BadTag | BadQuery):
            code = 400
        elif isinstance(problem, NotReplaced):
            code = 409
        elif isinstance(problem, StoreUnavailable | StoreFull):
            code = 503
        else:
            code = 500
            self._log.failure("the operators' API failed")
        text = str(problem) if code != 500 else "unexpected error; the log says more"
        if request.startedWriting:
            return msgspec.json.encode({"type": "error", "error": text}) + b"\n"
        request.setResponseCode(code)
        request.setHeader(b"Content-Type", b"application/json")
        return msgspec.json.encode({"error": text}) + b"\n"

    def _refuse_route(self, request: Any, failure: Failure) -> Any:
        problem: Any = failure.value
        request.setResponseCode(problem.code or 400)
        request.setHeader(b"Content-Type", b"application/json")
        return msgspec.json.encode({"error": problem.name}) + b"\n"


def _order(request: Request) -> QueryOrder:
    order: QueryOrder = json_of(request, QueryOrder)
    if not order.sql.strip() or len(order.sql) > _MAX_SQL:
        raise MalformedRequest(f"sql must have from 1 to {_MAX_SQL} letters")
    if not 0 < order.expires_in <= 366 * 86400:
        raise MalformedRequest("expires_in must be more than 0 and at most a year, in seconds")
    if order.check:
        refuse_bad_sql(order.target, *filter(None, (order.sql, order.discovery)))
    return order
