"""Makes faults one after another, and asks everything that a node and an operator ask while each lasts."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.faults.catalog import GOOD, ROUTES, Fault
from tests.faults.ledger import Ledger
from tests.faults.nodes import BROKEN, Node, Seen
from tests.faults.stage import Stage

BACK_WITHIN = 60.0
"""Seconds within which everything has to be well again, without a hand."""
_WARMING = 8


@attrs.frozen
class Row:
    """
    What came of one fault.

    :ivar cells: by route what was seen.
    :ivar back_after: seconds from the mending until every route gave again what it is for, holds left out.
    :ivar given_after: seconds from the mending until a node had the query that it was not given, or was given and
        never saw: then its lease has to end first.
    :ivar broken: promises that were not kept, in words.
    """

    fault: Fault
    cells: dict[str, Seen]
    back_after: float
    given_after: float
    acknowledged: int
    lost: int
    broken: list[str]


@attrs.define
class _Cast:
    """The nodes of one fault, each with something to do that it has prepared."""

    newcomer: Node
    walker: Node
    holder: Node
    worker: Node
    writer: Node
    starter: Node
    carver: Node
    blocks_sent: int = 1


async def make_row(stage: Stage, ledger: Ledger, fault: Fault) -> Row:
    """Make a fault, look, mend it, and see that all is well."""
    cast = await _prepare(stage, ledger)
    if fault.forgives:
        await _revoke_one(stage, ledger)
    before, log_before = await stage.metrics(), len(stage.log())
    held = Deferred.fromCoroutine(cast.holder.read())
    await deferLater(stage.reactor, 0.3)
    await fault.make(stage)
    await deferLater(stage.reactor, fault.settles)
    cells = dict(zip(ROUTES, await _look(stage, cast, held), strict=True))
    told = await _told(stage, fault, before, log_before)
    await fault.mend(stage)
    stuck, took = await _finish(stage, cast, fault)
    given_after = took.pop("read, with work", 0.0)
    took.pop("read, held")
    # A supervisor that was killed has nothing to show for it before it is back.
    told = told and await _told(stage, fault, before, log_before)
    balance = await ledger.settle(stage, fault.forgives)
    broken = [
        f"{route}: {seen} {seen.text}"
        for route, seen in cells.items()
        if seen.word in BROKEN or seen.word not in fault.may_see(route)
    ]
    broken += told + [f"not well again: {each}" for each in stuck] + [f"lost: {each}" for each in balance.lost]
    return Row(
        fault, cells, max(took.values()), given_after, sum(balance.acknowledged.values()), len(balance.lost), broken
    )


async def _prepare(stage: Stage, ledger: Ledger) -> _Cast:
    # Certificates that were minted just now are not valid yet on a clock that is set back.
    shows = stage.kind != "clock"
    nodes = [Node.on(stage, ledger, shows_certificate=shows and number % 2 == 0) for number in range(7)]
    cast = _Cast(*nodes)
    for node in nodes[1:]:
        await _well(stage, node.enroll)
    for node in nodes[1:]:
        # Connections go to one worker or the other; both are to know the node.
        for _ in range(_WARMING):
            await _well(stage, node.config)
    await _issue(stage, cast.writer)
    await _well(stage, cast.writer.read, "work")
    await _issue(stage, cast.worker)
    await _well(stage, cast.carver.carve_start)
    await _well(stage, lambda: cast.carver.carve_block(0))
    return cast


async def _revoke_one(stage: Stage, ledger: Ledger) -> None:
    """Have a node that must stay out, whatever the store forgets."""
    node = Node.on(stage, ledger)
    await _well(stage, node.enroll)
    await stage.json("POST", f"/api/v1/nodes/{node.machine.uuid}/revoke", {"reason": "stolen"})
    ledger.revoked.append(node)


async def _issue(stage: Stage, node: Node) -> None:
    order = {"sql": "select 1", "target": {"nodes": [node.machine.uuid]}, "expires_in": 600}
    await stage.json("POST", "/api/v1/queries", order)


async def _look(stage: Stage, cast: _Cast, held: Deferred[Seen]) -> list[Seen]:
    looks = [
        cast.newcomer.enroll(),
        cast.walker.config(),
        cast.walker.log(),
        _wait(held),
        cast.worker.read(),
        cast.writer.write(),
        cast.starter.carve_start(),
        cast.carver.carve_block(1),
        _operators(stage, "/healthz"),
        _operators(stage, "/api/v1/status"),
    ]
    return await gatherResults([Deferred.fromCoroutine(look) for look in looks])


async def _wait(held: Deferred[Seen]) -> Seen:
    return await held


async def _operators(stage: Stage, path: str) -> Seen:
    began = time.monotonic()
    code, content = await stage.ask("GET", path)
    return Seen(str(code), time.monotonic() - began, content[:200].decode("utf-8", "replace"))


async def _told(stage: Stage, fault: Fault, before: dict[str, float], log_before: int) -> list[str]:
    """What should have told an operator of the fault and did not."""

    def total(samples: dict[str, float]) -> float:
        return sum(value for name, value in samples.items() if name.startswith(fault.metric))

    async def is_counted() -> bool:
        now = await stage.metrics()
        return bool(now) and fault.metric_says(total(before), total(now))

    missing = []
    if not await stage.until(is_counted, 5.0, 0.5):
        missing.append(f"metric {fault.metric}: {total(before):g} before, {total(await stage.metrics()):g} now")
    if fault.said and not await stage.until(lambda: re.search(fault.said, stage.log()[log_before:]), 3.0, 0.5):
        missing.append(f"no {fault.said!r} in the log")
    return missing


async def _finish(stage: Stage, cast: _Cast, fault: Fault) -> tuple[list[str], dict[str, float]]:
    """Have every node end what it began, as it would; answers with what nobody could, and how long each route took."""

    async def carve(node: Node) -> None:
        for number in range(cast.blocks_sent if node is cast.carver else 0, 3):
            await _well(stage, lambda number=number: node.carve_block(number))
        node.carve_is_sent()

    async def work(node: Node) -> None:
        if not node.work:
            await _well(stage, node.read, "work")
        await _well(stage, node.write)

    async def write(node: Node) -> None:
        if node.work:
            await _well(stage, node.write)

    async def newcomer() -> None:
        if not cast.newcomer.node_key:
            await _well(stage, cast.newcomer.enroll)
        await _well(stage, cast.newcomer.config)

    async def start() -> None:
        if not cast.starter.session or fault.forgives:
            await _well(stage, cast.starter.carve_start)
        await carve(cast.starter)

    tasks: dict[str, Callable[[], Awaitable[Any]]] = {
        "enroll": newcomer,
        "config": lambda: _well(stage, cast.walker.config),
        "log": lambda: _well(stage, cast.walker.log),
        "read, held": lambda: _well(stage, cast.holder.read, "held"),
        "write": lambda: write(cast.writer),
        "carver/start": start,
        "healthz": lambda: _healthy(stage),
    }
    if not fault.forgives:
        tasks |= {"read, with work": lambda: work(cast.worker), "carver/continue": lambda: carve(cast.carver)}
    stuck = []
    took: dict[str, float] = {}
    mended = time.monotonic()

    async def one(route: str, task: Callable[[], Awaitable[Any]]) -> None:
        try:
            await task()
        except NotWell as problem:
            stuck.append(f"{route}: {problem}")
        took[route] = time.monotonic() - mended

    await gatherResults([Deferred.fromCoroutine(one(route, task)) for route, task in tasks.items()])
    return stuck, took


class NotWell(Exception):
    """A node did not get what it asked for within :data:`BACK_WITHIN`."""


async def _well(stage: Stage, ask: Callable[[], Awaitable[Seen]], word: str = "") -> None:
    end = time.monotonic() + BACK_WITHIN
    while True:
        seen = await ask()
        if seen.word == word or (not word and seen.is_good):
            return
        if seen.word in BROKEN or time.monotonic() > end:
            raise NotWell(f"{seen} {seen.text}")
        await deferLater(stage.reactor, 0.25)


async def _healthy(stage: Stage) -> None:
    async def is_healthy() -> bool:
        code, _ = await stage.ask("GET", "/healthz")
        return str(code) in GOOD["healthz"]

    if not await stage.until(is_healthy, BACK_WITHIN, 0.25):
        raise NotWell("503")
