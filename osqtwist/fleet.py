"""
What operators see and do: nodes, queries, logs, carves, and the figures of it all.

Everything here is in the operators' words and shapes, ready to be JSON; the edges only carry it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from osqtwist import __version__
from osqtwist.carves import Carves, public_id
from osqtwist.configuration import NodeConfiguration
from osqtwist.directory import Directory
from osqtwist.distributed import Distributed
from osqtwist.interfaces import CarveProgress, IStores, StoredBatch, StoreFull, StoreUnavailable
from osqtwist.logbatch import event_id
from osqtwist.metrics import Metrics
from osqtwist.node import Node, Revocation, Sighting
from osqtwist.parking import ParkedReads
from osqtwist.query import DistributedQuery, QueryResult, new_query_id
from osqtwist.targeting import Target
from osqtwist.wire import decode_array

ONLINE_WITHIN = 60.0
"""A node that was heard of in this many seconds counts as online."""

_PAGE = 500
_RESULTS_AT_ONCE = 100
_BATCHES_AT_ONCE = 50

Emit = Callable[[dict[str, Any]], None]


class NoSuchThing(LookupError):
    """What an operator named does not exist; the text says what."""


@attrs.define
class _LookAgain:
    """Waits for a signal, or for a while; a signal that comes when nobody waits is kept."""

    clock: IReactorTime
    _is_due: bool = False
    _waiting: Deferred[None] | None = None

    def wake(self, payload: str = "") -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self._is_due = True
        else:
            waiting.callback(None)

    async def wait(self, seconds: float) -> None:
        if self._is_due or seconds <= 0:
            self._is_due = False
            return
        self._waiting = Deferred()
        over: IDelayedCall = self.clock.callLater(seconds, self.wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            self._is_due = False
            if over.active():
                over.cancel()


@attrs.frozen
class Fleet:
    """The whole fleet, as an operator sees it."""

    clock: IReactorTime
    stores: IStores
    directory: Directory
    distributed: Distributed
    configuration: NodeConfiguration
    carves_service: Carves
    parked: ParkedReads
    metrics: Metrics
    started_at: float = attrs.field(factory=time.time)

    async def ping(self) -> None:
        """Fire if the store answers."""
        await self.stores.ping()

    async def update_metrics(self) -> None:
        """Look up the figures that live in the store."""
        metrics = self.metrics
        try:
            size = await self.stores.logs.size()
            now = self.clock.seconds()
            metrics.nodes_online.set(await self.stores.nodes.count_since(now - ONLINE_WITHIN))
            metrics.nodes_known.set(await self.stores.nodes.count_since(0))
        except (StoreUnavailable, StoreFull):
            metrics.store_up.set(0)
            return
        metrics.store_up.set(1)
        metrics.log_buffer_bytes.set(size.bytes)
        metrics.log_buffer_budget_bytes.set(size.budget_bytes)
        metrics.dead_letters.set(size.dead_letters)

    async def status(self) -> dict[str, Any]:
        """One page of figures."""
        now = self.clock.seconds()
        size = await self.stores.logs.size()
        return {
            "version": __version__,
            "uptime_seconds": round(now - self.started_at, 1),
            "nodes": await self.stores.nodes.count_since(0),
            "nodes_online": await self.stores.nodes.count_since(now - ONLINE_WITHIN),
            "nodes_revoked": len(await self.stores.nodes.revocations()),
            "parked_reads": len(self.parked),
            "open_queries": len(await self.stores.queries.open_queries(now)),
            "log_buffer": {
                "batches": size.batches,
                "bytes": size.bytes,
                "budget_bytes": size.budget_bytes,
                "dead_letters": size.dead_letters,
            },
            "config_layers": self.configuration.layer_names(),
        }

    async def nodes(self, offset: int, limit: int, online: bool) -> dict[str, Any]:
        """A page of nodes, the one heard of last first."""
        now = self.clock.seconds()
        node_ids = await self.stores.nodes.seen_since(now - ONLINE_WITHIN if online else 0.0, offset, limit)
        nodes = await self.stores.nodes.get_many(node_ids)
        sightings = await self.stores.nodes.sightings(node_ids)
        page = [self._node_row(nodes[each], sightings.get(each), now) for each in node_ids if each in nodes]
        return {"nodes": page, "next_offset": offset + limit if len(node_ids) == limit else None}

    async def node(self, name: str) -> dict[str, Any]:
        """One node, with everything known of it."""
        node = await self._find(name)
        sightings = await self.stores.nodes.sightings([node.node_id])
        row = self._node_row(node, sightings.get(node.node_id), self.clock.seconds())
        certificate = msgspec.to_builtins(node.certificate) if node.certificate else None
        return row | {"host_details": node.host_details, "certificate": certificate}

    async def config_of(self, name: str) -> dict[str, Any]:
        """The config that a node gets, and which layers it is made of."""
        node = await self._find(name)
        answer = self.configuration.config_for(node.facts(), None)
        return {
            "node": node.node_id,
            "layers": list(answer.layers),
            "etag": answer.etag,
            "config": msgspec.Raw(answer.body),
        }

    async def revoke(self, name: str, reason: str) -> dict[str, Any]:
        """Refuse a node everywhere from now on."""
        node = await self._find(name)
        now = self.clock.seconds()
        await self.stores.nodes.revoke(Revocation(node_id=node.node_id, revoked_at=now, reason=reason[:500]))
        await self._announce(node.node_id)
        return {"node": node.node_id, "revoked": True}

    async def restore(self, name: str) -> dict[str, Any]:
        """Take a revocation back."""
        node = await self._find(name)
        await self.stores.nodes.restore(node.node_id)
        await self._announce(node.node_id)
        return {"node": node.node_id, "revoked": False}

    async def queries(self, count: int) -> list[dict[str, Any]]:
        """The newest queries, each with how far it has come."""
        return [await self._query_row(query) for query in await self.stores.queries.recent(count)]

    async def query(self, query_id: str) -> dict[str, Any]:
        """One query and how far it has come."""
        query = await self.stores.queries.get(query_id)
        if query is None:
            raise NoSuchThing(f"there is no query {query_id!r}")
        return await self._query_row(query)

    async def issue(
        self, sql: str, target: Target, expires_in: float, *, discovery: str = "", created_by: str = ""
    ) -> dict[str, Any]:
        """Ask nodes something."""
        query = self._new_query(sql, target, expires_in, discovery, created_by)
        await self.distributed.issue(query)
        return await self._query_row(query)

    async def run(
        self, sql: str, target: Target, expires_in: float, emit: Emit, *, discovery: str = "", created_by: str = ""
    ) -> None:
        """
        Ask nodes something and hand on what they answer, until all that are online did, or time is up.

        Emits ``begin`` with the number of nodes expected, ``result`` for each answer, ``end`` with those that
        were silent.  Cancelling it calls the query off.
        """
        query = self._new_query(sql, target, expires_in, discovery, created_by)
        look = _LookAgain(self.clock)
        forget = self.stores.signals.subscribe(
            "results", lambda payload: look.wake() if payload in ("", query.query_id) else None
        )
        is_over = False
        try:
            expected = await self._online_names(target)
            await self.distributed.issue(query)
            emit({"type": "begin", "query_id": query.query_id, "expected": len(expected)})
            answered, cursor = 0, ""
            while True:
                page = await self.stores.queries.results(query.query_id, cursor, _RESULTS_AT_ONCE)
                for stored in page:
                    cursor = stored.result_id
                    answered += 1
                    expected.pop(stored.result.node_id, None)
                    emit(_result_row(stored.result))
                if page:
                    continue
                remaining = query.expires_at - self.clock.seconds()
                if remaining <= 0 or not expected:
                    break
                await look.wait(min(remaining, 2.0))
            emit({"type": "end", "answered": answered, "silent": sorted(expected.values())})
            is_over = True
        finally:
            forget()
            if not is_over:
                Deferred.fromCoroutine(self._call_off(query.query_id))

    async def results(self, query_id: str, emit: Emit) -> None:
        """Hand on the results that are in."""
        cursor = ""
        while page := await self.stores.queries.results(query_id, cursor, _RESULTS_AT_ONCE):
            for stored in page:
                cursor = stored.result_id
                emit(_result_row(stored.result))

    async def cancel(self, query_id: str) -> dict[str, Any]:
        """Ask no more nodes."""
        if not await self.distributed.cancel(query_id):
            raise NoSuchThing(f"there is no query {query_id!r}")
        return await self.query(query_id)

    async def tail(self, emit: Emit, *, from_start: bool, follow: bool) -> None:
        """Hand on log lines: those in the buffer if ``from_start``, and those to come if ``follow``."""
        logs = self.stores.logs
        look = _LookAgain(self.clock)
        forget = self.stores.signals.subscribe("logs", look.wake)
        try:
            cursor = "" if from_start else await logs.last_id()
            while True:
                page = await logs.read(cursor, _BATCHES_AT_ONCE)
                for stored in page:
                    cursor = stored.batch_id
                    for line in _lines(stored):
                        emit(line)
                if not page:
                    if not follow:
                        return
                    await look.wait(2.0)
        finally:
            forget()

    async def dead_letters(self, emit: Emit) -> None:
        """Hand on the dead letters that are kept."""
        cursor = ""
        while page := await self.stores.logs.dead_letters(cursor, _BATCHES_AT_ONCE):
            for stored in page:
                cursor = stored.batch_id
                for dead in stored.batch.dead:
                    line = dead.line.decode("utf-8", "backslashreplace")
                    emit(_origin(stored) | {"reason": dead.reason, "text": line})

    async def trim_logs(self, older_than: float) -> dict[str, Any]:
        """Delete old batches and dead letters."""
        before = self.clock.seconds() - older_than
        deleted = 0
        while part := await self.stores.logs.trim(before, _PAGE):
            deleted += part
        return {"deleted": deleted}

    async def carves(self, count: int) -> list[dict[str, Any]]:
        """The newest carves."""
        return [_carve_row(progress) for progress in await self.stores.carves.recent(count)]

    async def carve_file(self, carve_id: str) -> tuple[Path, str]:
        """Where the bytes of a carve are, and their SHA-256."""
        for progress in await self.stores.carves.recent(10_000):
            session = progress.session
            if carve_id in (public_id(session), session.carve_id, session.file_name):
                if not session.is_complete:
                    raise NoSuchThing(f"carve {carve_id!r} is not complete")
                path = self.carves_service.path_of(session)
                if not path.exists():
                    raise NoSuchThing(f"the file of carve {carve_id!r} is not on this machine")
                return path, session.sha256
        raise NoSuchThing(f"there is no carve {carve_id!r}")

    async def _find(self, name: str) -> Node:
        found: list[Node] = await self.stores.nodes.find(name, 2)
        if not found:
            raise NoSuchThing(f"there is no node {name!r}")
        if len(found) > 1:
            raise NoSuchThing(f"{name!r} names more than one node; give its id")
        return found[0]

    async def _announce(self, node_id: str) -> None:
        try:
            await self.stores.signals.publish("nodes", node_id)
        finally:
            await self.directory.refresh_revocations()

    async def _call_off(self, query_id: str) -> None:
        try:
            await self.distributed.cancel(query_id)
        except (StoreUnavailable, StoreFull):
            return  # It expires by itself.

    def _new_query(
        self, sql: str, target: Target, expires_in: float, discovery: str, created_by: str
    ) -> DistributedQuery:
        now = self.clock.seconds()
        return DistributedQuery(
            query_id=new_query_id(now),
            sql=sql,
            target=target,
            created_at=now,
            expires_at=now + expires_in,
            discovery=discovery,
            created_by=created_by,
        )

    async def _online_names(self, target: Target) -> dict[str, str]:
        await self.directory.flush()
        since = self.clock.seconds() - ONLINE_WITHIN
        names: dict[str, str] = {}
        offset = 0
        while page := await self.stores.nodes.seen_since(since, offset, _PAGE):
            nodes = await self.stores.nodes.get_many(page)
            for node in nodes.values():
                if target.matches(node.facts()) and not self.directory.is_revoked(node.node_id):
                    names[node.node_id] = node.name
            offset += _PAGE
        return names

    def _node_row(self, node: Node, sighting: Sighting | None, now: float) -> dict[str, Any]:
        return {
            "node": node.node_id,
            "name": node.name,
            "proof": node.proof,
            "host_identifier": node.host_identifier,
            "platform": node.platform,
            "osquery_version": node.osquery_version,
            "tags": list(node.tags),
            "enrolled_at": node.enrolled_at or None,
            "first_seen_at": sighting.first_seen_at if sighting else None,
            "seen_at": sighting.seen_at if sighting else None,
            "online": bool(sighting and sighting.seen_at >= now - ONLINE_WITHIN),
            "address": sighting.address if sighting else "",
            "user_agent": sighting.user_agent if sighting else "",
            "revoked": self.directory.is_revoked(node.node_id),
        }

    async def _query_row(self, query: DistributedQuery) -> dict[str, Any]:
        progress = await self.stores.queries.progress(query.query_id)
        now = self.clock.seconds()
        state = "cancelled" if query.cancelled_at else "open" if query.is_open(now) else "expired"
        return {
            "query_id": query.query_id,
            "sql": query.sql,
            "discovery": query.discovery,
            "target": msgspec.to_builtins(query.target),
            "created_at": query.created_at,
            "expires_at": query.expires_at,
            "created_by": query.created_by,
            "state": state,
            "offered": progress.offered,
            "answered": progress.answered,
            "failed": progress.failed,
            "results_bytes": progress.results_bytes,
        }


def _result_row(result: QueryResult) -> dict[str, Any]:
    return {
        "type": "result",
        "node": result.node_id,
        "name": result.node_name,
        "received_at": result.received_at,
        "status": result.status,
        "message": result.message,
        "rows": result.rows,
        "stats": result.stats,
        "rows_dropped": result.rows_dropped,
    }


def _origin(stored: StoredBatch) -> dict[str, Any]:
    batch = stored.batch
    return {
        "node": batch.node_id,
        "name": batch.node_name,
        "identity": batch.identity,
        "serial": batch.serial,
        "address": batch.address,
        "received_at": batch.received_at,
        "log_type": batch.log_type,
    }


def _lines(stored: StoredBatch) -> list[dict[str, Any]]:
    batch, origin = stored.batch, _origin(stored)
    return [
        origin | {"event_id": event_id(batch.node_id, batch.digest, index), "line": line}
        for index, line in enumerate(decode_array(batch.data))
    ]


def _carve_row(progress: CarveProgress) -> dict[str, Any]:
    session = progress.session
    return {
        "carve": public_id(session),
        "node": session.node_id,
        "name": session.node_name,
        "carve_id": session.carve_id,
        "request_id": session.request_id,
        "size": session.carve_size,
        "blocks": session.block_count,
        "received_blocks": progress.received_blocks,
        "started_at": session.started_at,
        "completed_at": session.completed_at or None,
        "sha256": session.sha256,
        "file": session.file_name,
    }
