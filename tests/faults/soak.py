"""
Faults at random, while nodes and an operator go on with what they do, and in the end the books are looked at.

Nothing that was acknowledged may be missing, however the faults fell.  The same seed makes the same faults in the same
order; what the processes make of them is up to the machine.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.faults.catalog import CATALOG, Fault
from tests.faults.ledger import Balance, Ledger
from tests.faults.nodes import BROKEN, Node, Seen
from tests.faults.programs import SmallDisk
from tests.faults.stage import Stage

CALM_WITHIN = 90.0
"""Seconds after the last fault in which every node has to get rid of what it has."""
_DISKS = ("disk full", "disk of")


@attrs.define
class Tally:
    """
    What was done.

    :ivar broken: answers that no fault excuses, and nodes that did not get rid of what they had.
    """

    faults: Counter[str] = attrs.field(factory=Counter)
    seen: Counter[str] = attrs.field(factory=Counter)
    broken: list[str] = attrs.field(factory=list)


def faults_for(disk: SmallDisk) -> list[Fault]:
    """Those that can be made over and over, on this machine."""
    return [
        fault
        for fault in CATALOG
        if fault.kind == "outside"
        and not fault.forgives
        and (disk.is_mounted or not any(word in fault.name for word in _DISKS))
    ]


@attrs.define(eq=False)
class Soak:
    """One run on a stage that has begun."""

    stage: Stage
    chance: random.Random
    say: Callable[[str], None]
    ledger: Ledger = attrs.field(factory=Ledger)
    tally: Tally = attrs.field(factory=Tally)
    nodes: list[Node] = attrs.field(factory=list)
    _is_over: bool = False
    _lives: list[Deferred[None]] = attrs.field(factory=list)

    async def run(self, seconds: float, count: int = 8) -> Balance:
        """Make faults for so long; answers with what became of everything that was acknowledged."""
        end = time.monotonic() + seconds
        for _ in range(count):
            self._begin_life(self._new_node())
        self._lives.append(Deferred.fromCoroutine(self._operate()))
        waiting: list[Fault] = []
        while time.monotonic() < end:
            if not waiting:
                waiting = faults_for(self.stage.disks["carves"])
                self.chance.shuffle(waiting)
            await self._pause(0.5, 2.0)
            await self._disturb(waiting.pop())
        self._is_over = True
        await gatherResults(self._lives)
        return await self.ledger.settle(self.stage)

    async def _disturb(self, fault: Fault) -> None:
        lasts = self.chance.uniform(0.5, 6.0)
        self.tally.faults[fault.name] += 1
        self.say(f"{fault.name}, {lasts:.1f} s")
        await fault.make(self.stage)
        await deferLater(self.stage.reactor, lasts)
        await fault.mend(self.stage)
        await self.stage.keep_up()

    # -- nodes

    def _new_node(self) -> Node:
        node = Node.on(self.stage, self.ledger, shows_certificate=self.chance.random() < 0.5)
        self.nodes.append(node)
        return node

    def _begin_life(self, node: Node) -> None:
        self._lives.append(Deferred.fromCoroutine(self._live(node)))

    async def _live(self, node: Node) -> None:
        await self._get(node, node.enroll)
        loops = (self._log, self._config, self._work, self._carve)
        await gatherResults([Deferred.fromCoroutine(loop(node)) for loop in loops])

    async def _log(self, node: Node) -> None:
        while not self._has_ended(node):
            await self._get(node, node.log)
            await self._pause(0.1, 0.6)

    async def _config(self, node: Node) -> None:
        while not self._has_ended(node):
            await self._get(node, node.config)
            await self._pause(1.0, 4.0)

    async def _work(self, node: Node) -> None:
        while not self._has_ended(node):
            await self._note(node, await node.read())
            if node.work:
                await self._get(node, node.write)
            await self._pause(0.2, 1.0)

    async def _carve(self, node: Node) -> None:
        while not self._has_ended(node):
            await self._pause(4.0, 12.0)
            blocks = self.chance.randint(1, 4)
            # A carve that nobody began any more leaves its session behind, as with osqueryd; eight are allowed.
            if await self._get(node, lambda blocks=blocks: node.carve_start(blocks)):
                sent = [
                    await self._get(node, lambda number=number: node.carve_block(number)) for number in range(blocks)
                ]
                if all(sent):
                    node.carve_is_sent()

    def _has_ended(self, node: Node) -> bool:
        return self._is_over or node in self.ledger.revoked

    async def _get(self, node: Node, ask: Callable[[], Awaitable[Seen]]) -> bool:
        """Ask until it is good, as osqueryd does; false if it never was."""
        end = time.monotonic() + CALM_WITHIN
        while True:
            seen = await ask()
            await self._note(node, seen)
            if seen.is_good:
                return True
            if node in self.ledger.revoked:
                return False
            if self._is_over and time.monotonic() > end:
                self.tally.broken.append(f"{node.machine.name} never got it: {seen} {seen.text}")
                return False
            if not self._is_over:
                end = time.monotonic() + CALM_WITHIN
            await self._pause(0.2, 1.0)

    async def _note(self, node: Node, seen: Seen) -> None:
        self.tally.seen[seen.word] += 1
        # A node that an operator is about to revoke hears of it before the operator does.
        if seen.word in BROKEN and node.machine.uuid not in self._doomed:
            self.tally.broken.append(f"{node.machine.name}: {seen} {seen.text}")

    # -- the operator

    _doomed: set[str] = attrs.field(factory=set)

    async def _operate(self) -> None:
        number = 0
        while not self._is_over:
            await self._pause(1.0, 3.0)
            number += 1
            alive = [node for node in self.nodes if node.node_key and node not in self.ledger.revoked]
            if not alive:
                continue
            node = self.chance.choice(alive)
            if number % 9 == 0 and len(self.ledger.revoked) < 3:
                self._doomed.add(node.machine.uuid)
                if await self._do("POST", f"/api/v1/nodes/{self._name(node)}/revoke", {"reason": "soak"}):
                    self.ledger.revoked.append(node)
                    self._begin_life(self._new_node())
            elif number % 2:
                target = {"nodes": [each.machine.uuid for each in alive]}
                await self._do("POST", "/api/v1/queries", {"sql": "select 1", "target": target, "expires_in": 900})
            else:
                tag = f"soak-{number}"
                if await self._do("POST", f"/api/v1/nodes/{self._name(node)}/tags", {"add": [tag], "remove": []}):
                    self.ledger.tags.setdefault(self._name(node), set()).add(tag)

    async def _do(self, method: str, path: str, body: Any) -> bool:
        """Do something until it is done; false if it could not be."""
        end = time.monotonic() + CALM_WITHIN
        while time.monotonic() < end:
            code, content = await self.stage.ask(method, path, body)
            if 200 <= code < 300:
                return True
            if 400 <= code < 500:
                self.tally.broken.append(f"{method} {path}: {code} {content[:200]!r}")
                return False
            await self._pause(0.5, 1.0)
        self.tally.broken.append(f"{method} {path}: not done in {CALM_WITHIN:g} s")
        return False

    @staticmethod
    def _name(node: Node) -> str:
        return node.machine.uuid

    async def _pause(self, shortest: float, longest: float) -> None:
        await deferLater(self.stage.reactor, self.chance.uniform(shortest, longest))
