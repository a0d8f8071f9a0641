"""Who has not answered a distributed query."""

from __future__ import annotations

from typing import TypedDict

import attrs

from osqtwist.census import Census
from osqtwist.interfaces import IStores
from osqtwist.liveresults import LiveResults


class SilentNode(TypedDict):
    """A node that has not answered."""

    node: str
    name: str
    online: bool
    seen_at: float | None


class SilentPage(TypedDict):
    """Some of them; `nodes` is how many the target means, `count` how many are silent, of which so many `online`."""

    nodes: int
    count: int
    online: int
    silent: list[SilentNode]
    next_offset: int | None


@attrs.frozen
class Silence:
    """Compares the nodes of a query's target with those whose result is in."""

    stores: IStores
    results: LiveResults
    census: Census

    async def of(self, query_id: str, offset: int, limit: int) -> SilentPage:
        """
        The nodes of its target that have not answered, those that are online first.

        With how many nodes the target means and how many of the silent ones are online.

        :raise NoSuchThing: there is no such query.
        """
        query = await self.results.query(query_id)
        answered = {cost.node_id for cost in await self.stores.queries.costs(query_id)}
        meant = await self.census.meant(query.target)
        silent = sorted(
            (each for each in meant if each.facts.node_id not in answered),
            key=lambda each: (not each.is_online, each.facts.name),
        )
        end = offset + limit
        return {
            "nodes": len(meant),
            "count": len(silent),
            "online": sum(each.is_online for each in silent),
            "silent": [
                {
                    "node": each.facts.node_id,
                    "name": each.facts.name,
                    "online": each.is_online,
                    "seen_at": each.seen_at or None,
                }
                for each in silent[offset:end]
            ],
            "next_offset": end if len(silent) > end else None,
        }
