"""
One simulated node: what osqueryd's threads do, each on its own.

Config is fetched at the start and every ``config_refresh``; the logger flushes every ``logger_tls_period``; one
distributed loop reads, runs, writes and pauses.  None waits for another, but while the node enrolls all do.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.task import deferLater

from osqtwist.simulator.logbuffer import LogBuffer
from osqtwist.simulator.rules import (
    CallFailed,
    NodeInvalid,
    call_wait,
    enroll_wait,
    log_wait,
    understand,
    understand_carve,
    understand_enroll,
)
from osqtwist.simulator.tables import Machine, QueryFailed, Tables
from osqtwist.simulator.transport import Transport, TransportFailed, inflated


@attrs.frozen
class Flags:
    """
    What stands in the node's flagfile.

    :ivar has_header_key: osquery from 5.23 on sends the node key in a header too.
    :ivar knows_etags: newer clients send the etag of the config they have.
    :ivar time_scale: all waits are multiplied with it; 1 is real.
    """

    enroll_secret: str = ""
    enroll_secret_name: str = "enroll_secret"  # noqa: S105
    disable_enrollment: bool = False
    config_refresh: float = 60.0
    has_header_key: bool = True
    knows_etags: bool = True
    accepts_gzip: bool = False
    secret_in_query: bool = False
    enroll_max_attempts: int = 12
    carver_block_size: int = 300_000
    prefix: str = ""
    extra_lines_per_second: float = 0.0
    time_scale: float = 1.0


@attrs.define
class NodeStatistics:
    """What a node did, and what was done to it."""

    requests: dict[str, int] = attrs.field(factory=dict)
    failures: dict[str, int] = attrs.field(factory=dict)
    seconds: dict[str, list[float]] = attrs.field(factory=dict)
    enrollments: int = 0
    invalidated: int = 0
    configs_applied: int = 0
    configs_unchanged: int = 0
    schedule_wipes: int = 0
    queries_answered: int = 0
    carves_completed: int = 0


@attrs.define(eq=False)
class SimulatedNode:
    """A node; :meth:`run` is its life."""

    reactor: Any
    transport: Transport
    machine: Machine
    flags: Flags
    statistics: NodeStatistics = attrs.field(factory=NodeStatistics)
    logs: LogBuffer = attrs.field(factory=LogBuffer)
    node_key: str = ""
    config: dict[str, Any] = attrs.field(factory=dict)
    _etag: str = ""
    _config_hash: str = ""
    _enrolling: DeferredLock = attrs.field(factory=DeferredLock)
    _tables: Tables = attrs.field(init=False)
    _results: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    _accelerated_until: float = 0.0
    _random: random.Random = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tables = Tables(self.machine)
        self._random = random.Random(self.machine.uuid)  # noqa: S311 - the same in every run

    async def run(self) -> None:
        """Live until cancelled: start up, then all loops at once."""
        loops: list[Deferred[None]] = []
        try:
            await self._survive(self.refresh_config)
            for loop in (self._config_loop, self._log_loop, self._distributed_loop, self._schedule_loop):
                running = Deferred.fromCoroutine(loop())
                running.addErrback(lambda failure: failure.trap(CancelledError) and None)
                loops.append(running)
            await Deferred()
        finally:
            for running in loops:
                running.cancel()
            self._tables.close()

    # -- calls

    async def enroll(self) -> None:
        """
        Get a node key: up to 12 attempts, with waits of n² seconds.

        :raise CallFailed: the round is over without one.
        """
        body = {
            self.flags.enroll_secret_name: self.flags.enroll_secret,
            "host_identifier": self.machine.uuid,
            "platform_type": self.machine.platform_type,
            "host_details": self.machine.host_details,
        }
        for failures in range(1, self.flags.enroll_max_attempts + 1):
            try:
                answer = await self._post("enroll", "/enroll", body, with_key=False)
                self.node_key = understand_enroll(answer)
                self.statistics.enrollments += 1
                return
            except (CallFailed, TransportFailed) as problem:
                self._failed("enroll", problem)
                if failures < self.flags.enroll_max_attempts:
                    await self._sleep(enroll_wait(failures))
        raise CallFailed("enrollment failed")

    async def refresh_config(self) -> None:
        """Fetch and apply the configuration, in three attempts."""
        body: dict[str, Any] = {}
        if self.flags.knows_etags:
            body["etag"] = self._etag
        found = await self._attempts("config", "/config", body)
        if found == {"etag": "ok"}:
            self.statistics.configs_unchanged += 1
            return
        text = json.dumps(found, separators=(",", ":"))
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        if digest == self._config_hash:
            self.statistics.configs_unchanged += 1
            return
        if self.config.get("schedule") and not found.get("schedule"):
            self.statistics.schedule_wipes += 1
        self._config_hash, self.config = digest, found
        self._etag = str(found.get("etag", ""))
        self.statistics.configs_applied += 1

    async def flush_logs(self) -> None:
        """
        Post what is buffered, results first; lines go when their batch is acknowledged.

        :raise CallFailed: a batch was refused; its lines stay.
        """
        self.logs.max_lines = int(self._option("logger_tls_max_lines", 1024))
        compress = self._option("logger_tls_compress", False) in (True, "true")
        try:
            for log_type, batch in self.logs.scan().items():
                await self._key()
                body = {"log_type": log_type, "data": [line for _, line in batch]}
                answer = await self._post("log", "/log", body, compress=compress)
                self._understand(answer)
                self.logs.delete(log_type, batch)
        finally:
            self.logs.purge()

    async def read_and_run(self) -> int:
        """One round of the distributed loop; answers with how many queries ran."""
        work = await self._attempts("distributed_read", "/distributed/read", {})
        count = self._run_queries(work)
        accelerate = work.get("accelerate")
        if isinstance(accelerate, int) and not isinstance(accelerate, bool):
            self._accelerated_until = self.reactor.seconds() + accelerate
        if self._results:
            await self._write_results()
        return count

    async def carve(self, data: bytes) -> str:
        """
        Send a file; answers with the session id.

        :raise CallFailed: osquery would call it ``DATA POST FAILED``.
        """
        size = self.flags.carver_block_size
        request_id = str(uuid.uuid4())
        blocks = -(-len(data) // size)
        start = {
            "block_count": blocks,
            "block_size": size,
            "carve_size": len(data),
            "carve_id": str(uuid.uuid4()),
            "request_id": request_id,
        }
        await self._key()
        session = (await self._carve_call("carver_start", "/carver/start", start, True)).get("session_id")
        if not isinstance(session, str) or not session:
            raise CallFailed("no session_id")
        for block in range(blocks):
            part = base64.b64encode(data[block * size : (block + 1) * size]).decode()
            body = {"block_id": block, "session_id": session, "request_id": request_id, "data": part}
            await self._carve_call("carver_continue", "/carver/continue", body, False)
        self.statistics.carves_completed += 1
        return session

    # -- loops

    async def _config_loop(self) -> None:
        while True:
            await self._sleep(self.flags.config_refresh)
            await self._survive(self.refresh_config)

    async def _log_loop(self) -> None:
        failures = 0
        while True:
            await self._sleep(log_wait(failures, float(self._option("logger_tls_period", 4))))
            failures = 0 if await self._survive(self.flush_logs) else failures + 1

    async def _distributed_loop(self) -> None:
        while True:
            if self._option("disable_distributed", True) in (False, "false"):
                await self._survive(self.read_and_run)
            pause = float(self._option("distributed_interval", 60))
            await self._sleep(5.0 if self._accelerated_until > self.reactor.seconds() else pause)

    async def _schedule_loop(self) -> None:
        started = self.reactor.seconds()
        next_run: dict[str, float] = {}
        owed = 0.0
        self._status("osqueryd started")
        while True:
            await self._sleep(1.0)
            now = self.reactor.seconds() - started
            for name, query in self._schedule().items():
                interval = float(query.get("interval", 3600))
                # Real nodes spread their first runs by schedule_splay_percent; these come soon, to be seen.
                first = self._random.uniform(0, min(interval, 5.0)) * self.flags.time_scale
                if now >= next_run.setdefault(name, first):
                    next_run[name] = now + interval * self.flags.time_scale
                    self._log_rows(name, query)
            owed += self.flags.extra_lines_per_second
            while owed >= 1:
                owed -= 1
                self._result("simulated", "added", {"columns": {"load": "1"}})

    async def _survive(self, call: Callable[[], Awaitable[object]]) -> bool:
        try:
            await call()
        except (CallFailed, TransportFailed):
            return False
        return True

    # -- the wire

    async def _attempts(self, route: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        for failures in range(1, 4):
            try:
                await self._key()
                return self._understand(await self._post(route, path, body))
            except (CallFailed, TransportFailed) as problem:
                self._failed(route, problem)
                if failures == 3:
                    raise
                await self._sleep(call_wait(failures))
        raise AssertionError

    async def _carve_call(self, route: str, path: str, body: dict[str, Any], with_key: bool) -> dict[str, Any]:
        for failures in range(1, 4):
            try:
                return understand_carve(await self._post(route, path, body, key_in_body=with_key))
            except (CallFailed, TransportFailed) as problem:
                self._failed(route, problem)
                if failures == 3:
                    raise CallFailed("DATA POST FAILED") from None
                await self._sleep(call_wait(failures))
        raise AssertionError

    async def _key(self) -> None:
        if self.flags.disable_enrollment or self.node_key:
            return
        await self._enrolling.acquire()
        try:
            if not self.node_key:
                await self.enroll()
        finally:
            self._enrolling.release()

    def _understand(self, answer: bytes) -> dict[str, Any]:
        try:
            return understand(answer)
        except NodeInvalid:
            self.statistics.invalidated += 1
            self.node_key = ""
            raise

    async def _post(
        self,
        route: str,
        path: str,
        body: dict[str, Any],
        *,
        with_key: bool = True,
        key_in_body: bool = True,
        compress: bool = False,
    ) -> bytes:
        flags = self.flags
        headers = [
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
            ("User-Agent", f"osquery/{self.machine.osquery_version}"),
        ]
        if with_key and self.node_key and flags.has_header_key:
            headers.append(("Authorization", f"NodeKey {self.node_key}"))
        if with_key and key_in_body:
            body = body | {"node_key": self.node_key}
        data = json.dumps(body, separators=(",", ":")).encode()
        if compress:
            data = gzip.compress(data, 9)
            headers.append(("Content-Encoding", "gzip"))
        if flags.accepts_gzip:
            headers.append(("Accept-Encoding", "gzip"))
        if flags.secret_in_query:
            path += f"?{flags.enroll_secret_name}={flags.enroll_secret}"
        self.statistics.requests[route] = self.statistics.requests.get(route, 0) + 1
        answer = await self.transport.post(flags.prefix + path, data, headers)
        self.statistics.seconds.setdefault(route, []).append(answer.seconds)
        return inflated(answer) if flags.accepts_gzip else answer.body

    def _failed(self, route: str, problem: Exception) -> None:
        kind = f"{route}: {type(problem).__name__}: {str(problem)[:80]}"
        self.statistics.failures[kind] = self.statistics.failures.get(kind, 0) + 1

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self.reactor, seconds * self.flags.time_scale)

    # -- queries and lines

    def _run_queries(self, work: dict[str, Any]) -> int:
        queries, discovery = work.get("queries", {}), work.get("discovery", {})
        if not isinstance(queries, dict) or not isinstance(discovery, dict):
            return 0
        dropped = set()
        for name, sql in discovery.items():
            try:
                if not self._tables.rows(sql):
                    dropped.add(name)
            except QueryFailed:
                # One bad discovery query sinks the whole reply (distributed.cpp).
                return 0
        count = 0
        for name in sorted(queries):
            if name not in dropped:
                self._results[name] = self._run_query(queries[name])
                count += 1
        return count

    def _run_query(self, sql: str) -> dict[str, Any]:
        began = time.perf_counter()
        rows: list[dict[str, str]] = []
        message = ""
        if "carve=1" in sql.replace(" ", "") and "carves" in sql:
            Deferred.fromCoroutine(self._survive(lambda: self.carve(self.machine.name.encode() * 5000)))
            return {"rows": rows, "status": 0, "message": "", "stats": {}}
        try:
            rows = self._tables.rows(sql)
        except QueryFailed as problem:
            message = str(problem)
        wall = int((time.perf_counter() - began) * 1000)
        stats = {"wall_time_ms": wall, "user_time": wall, "system_time": 0, "memory": 4096}
        return {"rows": rows, "status": int(bool(message)), "message": message, "stats": stats}

    async def _write_results(self) -> None:
        results = self._results
        body = {
            "queries": {name: result["rows"] for name, result in results.items()},
            "statuses": {name: result["status"] for name, result in results.items()},
            "messages": {name: result["message"] for name, result in results.items()},
            "stats": {name: result["stats"] for name, result in results.items()},
        }
        await self._attempts("distributed_write", "/distributed/write", body)
        self.statistics.queries_answered += len(results)
        self._results = {}

    def _schedule(self) -> dict[str, dict[str, Any]]:
        schedule = dict(self.config.get("schedule") or {})
        for pack, content in (self.config.get("packs") or {}).items():
            if isinstance(content, dict):
                for name, query in (content.get("queries") or {}).items():
                    schedule[f"pack_{pack}_{name}"] = query
        return schedule

    def _log_rows(self, name: str, query: dict[str, Any]) -> None:
        try:
            rows = self._tables.rows(str(query.get("query", "")))
        except QueryFailed as problem:
            self._status(f"Error executing scheduled query {name}: {problem}", severity=1)
            return
        if query.get("snapshot"):
            self._result(name, "snapshot", {"snapshot": rows})
        else:
            for row in rows:
                self._result(name, "added", {"columns": row})

    def _result(self, name: str, action: str, content: dict[str, Any]) -> None:
        now = time.time()
        line = {
            "name": name,
            "hostIdentifier": self.machine.uuid,
            "calendarTime": time.strftime("%a %b %d %H:%M:%S %Y UTC", time.gmtime(now)),
            "unixTime": int(now),
            "epoch": 0,
            "counter": 0,
            "numerics": False,
            "decorations": {"hostname": self.machine.name, "sim_line": str(self.logs.generated + 1)},
            **content,
            "action": action,
        }
        self.logs.add("result", line)

    def _status(self, message: str, severity: int = 0) -> None:
        now = time.time()
        line = {
            "hostIdentifier": self.machine.uuid,
            "calendarTime": time.strftime("%a %b %d %H:%M:%S %Y UTC", time.gmtime(now)),
            "unixTime": int(now),
            "severity": severity,
            "filename": "scheduler.cpp",
            "line": 100,
            "message": message,
            "version": self.machine.osquery_version,
            "decorations": {"hostname": self.machine.name, "sim_line": str(self.logs.generated + 1)},
        }
        self.logs.add("status", line)

    def _option(self, name: str, default: Any) -> Any:
        return (self.config.get("options") or {}).get(name, default)
