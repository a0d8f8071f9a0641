"""
The distributed queries that nodes are offered now, so kept that a node finds its own without a look at the others'.

Queries with the same target are a group.  Groups whose target names nodes are found by these names; whether a node is
of any other group is found out once for each node and group.  What was given to a node, or is known to be settled, is
not looked at again, and no node has more in its view than it has under way: the rest waits in its group, in the order
in which it was added, until the node is through with what came before.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
from collections.abc import Iterable, Iterator

import attrs

from osqtwist.query import DistributedQuery
from osqtwist.targeting import NodeFacts, Target

IDLE = 300.0
"""Seconds after which nothing is kept for a node that does not ask; when it does, the store says what is settled."""
_MOST_GONE = 16


@attrs.define(eq=False)
class _Group:
    """Queries with one target; all numbers grow with the time of the addition."""

    target: Target
    number: int
    numbers: list[int] = attrs.field(factory=list)
    queries: list[DistributedQuery] = attrs.field(factory=list)

    def behind(self, number: int) -> Iterator[tuple[int, DistributedQuery, _Group]]:
        for place in range(bisect.bisect_right(self.numbers, number), len(self.numbers)):
            yield self.numbers[place], self.queries[place], self

    def remove(self, number: int) -> None:
        place = bisect.bisect_left(self.numbers, number)
        del self.numbers[place], self.queries[place]


@attrs.define(eq=False)
class _View:
    """
    What one node has to do with the queries.

    :ivar judged: the number of the newest group that it was compared with.
    :ivar places: for each group of it, the number of the last query that it came to.
    :ivar under_way: the queries up to there that are not settled, with the moment before which the store need not be
        asked for them.
    """

    facts: NodeFacts
    used_at: float
    judged: int = 0
    groups: list[_Group] = attrs.field(factory=list)
    places: dict[_Group, int] = attrs.field(factory=dict)
    under_way: dict[str, float] = attrs.field(factory=dict)


@attrs.define
class _Targets:
    """Groups by the names in their targets, and those that name no nodes."""

    named: dict[str, list[_Group]] = attrs.field(factory=dict)
    others: list[_Group] = attrs.field(factory=list)

    def add(self, group: _Group) -> None:
        for name in group.target.plain_names:
            self.named.setdefault(name, []).append(group)
        if not group.target.plain_names:
            self.others.append(group)

    def remove(self, group: _Group) -> None:
        for name in group.target.plain_names:
            self.named[name].remove(group)
            if not self.named[name]:
                del self.named[name]
        if not group.target.plain_names:
            self.others.remove(group)

    def naming(self, facts: NodeFacts) -> list[_Group]:
        """The groups of a node whose targets name nodes."""
        if not self.named:
            return []
        keys = facts.name_keys()
        lists = self.named.values() if "" in keys else [self.named[key] for key in keys if key in self.named]
        found = dict.fromkeys(itertools.chain.from_iterable(lists))
        return [group for group in found if group.target.matches(facts)]


@attrs.define
class OpenQueries:
    """All of them."""

    _numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1), init=False)
    _queries: dict[str, tuple[int, DistributedQuery]] = attrs.field(factory=dict, init=False)
    _groups: dict[Target, _Group] = attrs.field(factory=dict, init=False)
    _targets: _Targets = attrs.field(factory=_Targets, init=False)
    _views: dict[str, _View] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        return len(self._queries)

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._queries

    def ids(self) -> set[str]:
        """The ids of all."""
        return set(self._queries)

    def add(self, query: DistributedQuery) -> None:
        """Offer a query from now on."""
        if query.query_id in self._queries:
            return
        group = self._groups.get(query.target)
        if group is None:
            group = self._groups[query.target] = _Group(query.target, next(self._numbers))
            self._targets.add(group)
        number = next(self._numbers)
        group.numbers.append(number)
        group.queries.append(query)
        self._queries[query.query_id] = (number, query)

    def discard(self, query_id: str) -> None:
        """Offer it no longer; nothing happens if it is not offered."""
        if query_id not in self._queries:
            return
        number, query = self._queries.pop(query_id)
        group = self._groups[query.target]
        group.remove(number)
        if not group.queries:
            del self._groups[query.target]
            self._targets.remove(group)
        if not self._queries:
            self._views.clear()

    def for_node(self, facts: NodeFacts, now: float, count: int) -> list[DistributedQuery]:
        """Queries that a node may be given, as far as is known here: the oldest, so many at most."""
        if not self._queries:
            return []
        view = self._views.get(facts.node_id)
        if view is None or (view.facts is not facts and view.facts != facts):
            view = self._views[facts.node_id] = _View(facts, now)
        view.used_at = now
        found = self._ready(view, now)[:count] if view.under_way else []
        if len(found) == count:
            return found
        groups = self._groups_of(view)
        behind = (group.behind(view.places.get(group, 0)) for group in groups)
        for number, query, group in heapq.merge(*behind, key=lambda each: each[0]):
            view.places[group] = number
            if query.is_open(now):
                view.under_way[query.query_id] = 0.0
                found.append(query)
            if len(found) == count:
                break
        return found

    def settle(self, node_id: str, query_id: str, until: float) -> None:
        """Do not offer a query to a node before a moment; never, if that is infinite."""
        view = self._views.get(node_id)
        if view and query_id in view.under_way:
            if until == math.inf:
                del view.under_way[query_id]
            else:
                view.under_way[query_id] = until

    def forget_idle(self, now: float) -> None:
        """Keep nothing for nodes that have not asked for a while."""
        for node_id in [node_id for node_id, view in self._views.items() if view.used_at < now - IDLE]:
            del self._views[node_id]

    def _ready(self, view: _View, now: float) -> list[DistributedQuery]:
        found = []
        for query_id, until in list(view.under_way.items()):
            _, query = self._queries.get(query_id, (0, None))
            if query is None or not query.is_open(now):
                del view.under_way[query_id]
            elif until <= now:
                found.append(query)
        return found

    def _groups_of(self, view: _View) -> list[_Group]:
        others = self._targets.others
        if others and others[-1].number > view.judged:
            first = bisect.bisect_right(others, view.judged, key=lambda group: group.number)
            view.groups += [group for group in others[first:] if group.target.matches(view.facts)]
            view.judged = others[-1].number
        if any(not group.queries for group in view.groups):
            view.groups = [group for group in view.groups if group.queries]
        found = [*view.groups, *self._targets.naming(view.facts)]
        if len(view.places) > len(found) + _MOST_GONE:
            view.places = {group: place for group, place in view.places.items() if group.queries}
        return found


@attrs.frozen
class Concerned:
    """Whether a node is of some of several targets; cheap also where many of them name nodes."""

    _targets: _Targets

    @property
    def names(self) -> set[str] | None:
        """The keys of :meth:`NodeFacts.name_keys` under which all concerned are; nothing if that cannot be said."""
        return None if self._targets.others else {*self._targets.named, ""}

    @classmethod
    def by(cls, targets: Iterable[Target]) -> Concerned:
        """Of these."""
        found = _Targets()
        for target in dict.fromkeys(targets):
            found.add(_Group(target, 0))
        return cls(found)

    def __call__(self, facts: NodeFacts) -> bool:
        return any(group.target.matches(facts) for group in self._targets.others) or bool(self._targets.naming(facts))
