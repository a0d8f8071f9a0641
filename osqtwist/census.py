"""
How many nodes a target means, and what expressions can say of them, answered while somebody types.

Facts of nodes are read from the store some hundred at a time and kept in memory for a short while: the longer the
longer it took to read them.  No more than :data:`MOST_COUNTED` nodes are kept, the ones heard of last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import attrs
from twisted.internet.defer import DeferredLock

from osqtwist.expression import term_for
from osqtwist.inventory import Inventory
from osqtwist.node import Node
from osqtwist.noderow import ONLINE_WITHIN
from osqtwist.targeting import NodeFacts, Target

MOST_COUNTED = 20_000
"""Nodes that are counted; of a larger fleet those heard of last."""
_PAGE = 500
_SHORTEST, _LONGEST = 1.0, 30.0
_TIMES = 20


class Headcount(TypedDict):
    """How many nodes, of `looked_at`; where that is less than all that are `known`, there may be more."""

    nodes: int
    online: int
    looked_at: int
    known: int


class FleetWord(TypedDict):
    """A value that so many nodes have; `term` is what to write in an expression."""

    value: str
    nodes: int
    term: str


@attrs.frozen
class Counted:
    """
    A node, as it was when nodes were counted.

    :ivar seen_at: Unix time at which it was last heard of.
    """

    facts: NodeFacts
    seen_at: float
    is_online: bool


@attrs.frozen
class _Nodes:
    by_kind: Sequence[Sequence[Counted]]
    known: int
    looked_at: int
    good_until: float


@attrs.define(eq=False)
class Census:
    """Knows the fleet as it was some seconds ago; nodes that are refused are left out."""

    inventory: Inventory
    _nodes: _Nodes | None = attrs.field(default=None, init=False)
    _reading: DeferredLock = attrs.field(factory=DeferredLock, init=False)

    async def count(self, target: Target) -> Headcount:
        """How many nodes a target means, and how many of these are online."""
        nodes = await self._now()
        found = list(_meant(nodes, target))
        return {
            "nodes": len(found),
            "online": sum(each.is_online for each in found),
            "looked_at": nodes.looked_at,
            "known": nodes.known,
        }

    async def meant(self, target: Target) -> list[Counted]:
        """The nodes of a target, the one heard of last first."""
        return sorted(_meant(await self._now(), target), key=lambda each: -each.seen_at)

    async def groups(self) -> Sequence[Sequence[Counted]]:
        """All nodes, those of one :attr:`NodeFacts.kind` together."""
        return (await self._now()).by_kind

    async def words(self, key: str, begun: str, most: int) -> list[FleetWord]:
        """The values that nodes have for a key of an expression and that begin so, those of most nodes first."""
        nodes, begun = await self._now(), begun.lower()
        found: Counter[str] = Counter()
        for group in nodes.by_kind:
            for each in group:
                found.update({value for value in each.facts.values(key) if value.lower().startswith(begun)})
        common = sorted(found.items(), key=lambda each: (-each[1], each[0]))[:most]
        return [{"value": value, "nodes": count, "term": term_for(key, value)} for value, count in common]

    async def _now(self) -> _Nodes:
        # Whoever comes while nodes are read waits for that, and reads none.
        await self._reading.acquire()
        try:
            if self._nodes is None or self.inventory.clock.seconds() >= self._nodes.good_until:
                self._nodes = await self._read()
            return self._nodes
        finally:
            self._reading.release()

    async def _read(self) -> _Nodes:
        inventory = self.inventory
        began = inventory.clock.seconds()
        await inventory.directory.flush()
        known = await inventory.stores.nodes.count_since(0)
        kinds: dict[Any, list[Counted]] = {}
        offset = 0
        while offset < MOST_COUNTED:
            page = await inventory.stores.nodes.seen_since(0.0, offset, min(_PAGE, MOST_COUNTED - offset))
            if not page:
                break
            offset += len(page)
            nodes = await inventory.stores.nodes.get_many(page)
            sightings = await inventory.stores.nodes.sightings(page)
            for node_id, node in nodes.items():
                if not inventory.directory.is_revoked(node_id):
                    seen_at = sightings[node_id].seen_at if node_id in sightings else 0.0
                    counted = self._counted(node, seen_at, began)
                    kinds.setdefault(counted.facts.kind, []).append(counted)
        now = inventory.clock.seconds()
        lasts = min(_LONGEST, max(_SHORTEST, _TIMES * (now - began)))
        return _Nodes(list(kinds.values()), known, offset, now + lasts)

    def _counted(self, node: Node, seen_at: float, now: float) -> Counted:
        return Counted(self.inventory.facts_of(node), seen_at, seen_at >= now - ONLINE_WITHIN)


def _meant(nodes: _Nodes, target: Target) -> Iterator[Counted]:
    for group in nodes.by_kind:
        verdict = target.verdict(group[0].facts)
        if verdict is None:
            yield from (each for each in group if target.matches(each.facts))
        elif verdict:
            yield from group
