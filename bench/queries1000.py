"""A thousand open queries: what they cost a read, a node that comes for the first time, and those that are held."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from bench.load import connections
from bench.scene import Scene, scene
from osqtwist.distributed import Distributed
from osqtwist.metrics import Metrics
from osqtwist.openqueries import OpenQueries
from osqtwist.parking import ParkedReads
from osqtwist.query import DistributedQuery
from osqtwist.storage.memory import MemoryStores
from osqtwist.targeting import NodeFacts, Target

OPEN = 1000
_NOW = 1_000.0

CASES: dict[str, Callable[[int], dict[str, Any]]] = {
    "each for another node": lambda number: {"nodes": [f"other-{number}"]},
    "for ten tags": lambda number: {"tags": [f"tag-{number % 10}"]},
    "a thousand expressions": lambda number: {"where": f"tag:tag-{number} and not name:web-*"},
    "for all, all answered": lambda number: {},
}


def over_connections(count: int, rounds: int) -> list[dict[str, Any]]:
    """CPU of a read with nothing to do, each over a connection of its own, beside how many queries are open."""
    taken: dict[str, list[float]] = {case: [] for case in ("none", *CASES)}
    with contextlib.ExitStack() as stack:
        stages = {case: stack.enter_context(scene("--hold", "0")) for case in taken}
        for case, target in CASES.items():
            for number in range(OPEN):
                _issue(stages[case], target(number))
        _answer(stages["for all, all answered"], OPEN)
        # In turn, so that all have the same neighbors; the first round warms up.
        for number in range(rounds + 1):
            for case, stage in stages.items():
                each = _reads(stage, count)
                if number:
                    taken[case].append(each * 1e6)
    return [
        {"open": case, "cpu_us": round(statistics.median(us)), "spread_us": [round(min(us)), round(max(us))]}
        for case, us in taken.items()
    ]


def _issue(stage: Scene, target: dict[str, Any]) -> str:
    body = {"sql": "select 1", "target": target, "expires_in": 3600}
    return str(stage.admin("POST", "/api/v1/queries", body)["query_id"])


def _order(stage: Scene, path: str, body: str, count: int, expected: str) -> dict[str, Any]:
    certs = stage.folder / "certs"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return {
        "ca": str(certs / "ca.pem"),
        "cert": str(certs / "node.pem"),
        "key": str(certs / "node.key"),
        "version": "TLSv1_3",
        "port": stage.port,
        "request": f"{head}\r\n\r\n{body}",
        "expected": expected,
        "count": count,
        "threads": 4 if count > 4 else 1,
    }


def _reads(stage: Scene, count: int) -> float:
    before = stage.cpu()
    done = connections(_order(stage, "/distributed/read", '{"node_key": ""}', count, "\r\n\r\n{}"))
    if done["failed"]:
        raise RuntimeError(f"{done['failed']} reads failed: {done['failures']}")
    return (stage.cpu() - before) / done["count"]


def _answer(stage: Scene, count: int) -> None:
    """Have the node take all queries and answer them, twenty at a time."""
    import http.client
    import json
    import ssl

    certs = stage.folder / "certs"
    context = ssl.create_default_context(cafile=str(certs / "ca.pem"))
    context.load_cert_chain(certs / "node.pem", certs / "node.key")

    def ask(path: str, body: Any) -> Any:
        connection = http.client.HTTPSConnection("localhost", stage.port, context=context, timeout=10)
        connection.request("POST", path, json.dumps(body))
        return json.loads(connection.getresponse().read())

    while count:
        queries = ask("/distributed/read", {"node_key": ""})["queries"]
        rows: dict[str, Any] = {query_id: [] for query_id in queries}
        ask("/distributed/write", {"node_key": "", "queries": rows, "statuses": dict.fromkeys(rows, 0)})
        count -= len(queries)


def in_memory() -> list[dict[str, Any]]:
    """What a look for a node's queries takes, the first time and after that, without anything around it."""
    found = []
    for case, target in CASES.items():
        queries = OpenQueries()
        for number in range(OPEN):
            made = {key: tuple(value) if isinstance(value, list) else value for key, value in target(number).items()}
            queries.add(_query(f"q{number}", Target(**made)))
        facts = [_facts(number) for number in range(200)]
        first = _time(lambda queries=queries, facts=facts: [queries.for_node(each, _NOW, 100) for each in facts])
        while left := [(each, query) for each in facts for query in queries.for_node(each, _NOW, 100)]:
            for each, query in left:
                queries.settle(each.node_id, query.query_id, math.inf)
        again = _time(lambda queries=queries, facts=facts: [queries.for_node(each, _NOW, 100) for each in facts])
        found.append(
            {
                "open": case,
                "first_us": round(first * 1e6 / len(facts), 1),
                "again_us": round(again * 1e6 / len(facts), 2),
            }
        )
    return found


async def issued_to_held(clock: Any, held: int) -> dict[str, Any]:
    """CPU to issue a thousand queries, one each 2 ms, each for one of so many nodes whose reads are held."""
    # With a reactor: the clock of tests sorts all calls at each, and that would be what is measured.
    stores = MemoryStores(clock)
    distributed = Distributed(clock, stores.queries, stores.signals, ParkedReads(clock), Metrics())
    distributed.startService()
    until = clock.seconds() + 3600
    waiting = [Deferred.fromCoroutine(distributed.read(_facts(number), until)) for number in range(held)]
    await deferLater(clock, 0.5)
    began = time.process_time()
    for number in range(OPEN):
        now, target = clock.seconds(), Target(nodes=(f"node-{number * (held // OPEN)}",))
        await distributed.issue(_query(f"q{number}", target, created_at=now, expires_at=now + 3600))
        await deferLater(clock, 0.002)
    await deferLater(clock, 0.5)
    seconds = time.process_time() - began
    reached = sum(each.called for each in waiting)
    distributed.stopService()
    return {"held": held, "reached": reached, "ms_a_query": round(seconds * 1000 / OPEN, 2)}


def _with_reactor(work: Callable[[Any], Any]) -> Any:
    from twisted.internet import reactor

    clock: Any = reactor
    outcome: list[Any] = []
    clock.callWhenRunning(
        lambda: Deferred.fromCoroutine(work(clock)).addBoth(outcome.append).addBoth(lambda _: clock.stop())
    )
    clock.run(installSignalHandlers=False)
    return outcome[0]


def measure(count: int, rounds: int, held: int) -> dict[str, Any]:
    """Everything."""
    return {
        "reads": over_connections(count, rounds),
        "looks": in_memory(),
        "issued": _with_reactor(lambda clock: issued_to_held(clock, held)),
    }


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    looks = {row["open"]: row for row in found["looks"]}
    lines = [
        f"| {OPEN:,} open queries | CPU µs a read | min-max | µs of a first look | of a later one |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in found["reads"]:
        look = looks.get(row["open"], {"first_us": "", "again_us": ""})
        spread = "-".join(map(str, row["spread_us"]))
        lines.append(f"| {row['open']} | {row['cpu_us']} | {spread} | {look['first_us']} | {look['again_us']} |")
    issued = found["issued"]
    lines.append("")
    lines.append(
        f"{OPEN:,} queries, each for one of {issued['held']:,} nodes whose reads are held: "
        f"{issued['ms_a_query']} ms of CPU a query; {issued['reached']:,} reached."
    )
    return "\n".join(lines)


def _query(name: str, target: Target, **more: Any) -> DistributedQuery:
    fields: dict[str, Any] = {"created_at": _NOW, "expires_at": _NOW + 3600, **more}
    return DistributedQuery(query_id=name, sql="select 1", target=target, **fields)


def _facts(number: int) -> NodeFacts:
    return NodeFacts(f"{number:020}", f"node-{number}", f"host-{number}", frozenset({"linux"}), frozenset({"prod"}))


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
