"""Distributed queries for people: asked, approved, called off, looked up afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypedDict

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from osqtwist.distributed import Distributed
from osqtwist.interfaces import IStores, NoSuchThing, StoreFull, StoreUnavailable
from osqtwist.inventory import Inventory
from osqtwist.liveresults import LiveResults
from osqtwist.liverules import LiveRules
from osqtwist.lookagain import LookAgain
from osqtwist.query import DistributedQuery, NotWaiting, QueryState, new_query_id
from osqtwist.querycheck import made_names
from osqtwist.querycost import Measured, summary
from osqtwist.resultexport import ResultLine, result_line
from osqtwist.sqlcheck import check_sql
from osqtwist.sqlstatement import SQLProblem
from osqtwist.targeting import Target

LOOKED_THROUGH = 200
"""Queries among which those of one node are looked for."""

LONGEST = 366 * 86400.0
"""Seconds: how long a query may be open, and how long its results may be kept."""


class QueryRow(TypedDict):
    """
    A distributed query and how far it has come.

    `offered` to so many nodes, of which so many `answered`, and of these `failed`; `dangers` are what needs approval.
    """

    query_id: str
    sql: str
    discovery: str
    target: Target
    created_at: float
    created_by: str
    opens_at: float
    expires_at: float
    kept_until: float
    state: QueryState
    dangers: list[str]
    approved_by: str
    approved_at: float | None
    offered: int
    answered: int
    failed: int
    results_bytes: int
    results_rows: int


class QueryStory(QueryRow):
    """With what it cost the nodes, by measure, for those that some node gave."""

    cost: dict[str, Measured]


class Draft(TypedDict):
    """What is wrong with a query that is not asked yet, in its texts; what may do harm, and whether it would wait."""

    sql: list[SQLProblem]
    discovery: list[SQLProblem]
    dangers: list[str]
    needs_approval: bool


class RunBegins(TypedDict):
    """From how many nodes an answer is expected."""

    type: Literal["begin"]
    query_id: str
    expected: int


class RunWaits(TypedDict):
    """That the query needs approval first, and why."""

    type: Literal["waiting"]
    query_id: str
    dangers: list[str]


class RunEnds(TypedDict):
    """How many nodes answered, and the names of those expected that did not."""

    type: Literal["end"]
    answered: int
    silent: list[str]


Emit = Callable[[RunBegins | ResultLine | RunWaits | RunEnds], Awaitable[None]]
"""Hands a line on; fires when the reader can take the next."""


class BadQuery(ValueError):
    """No node could run this SQL, or nobody would be asked; says where and why."""


@attrs.frozen
class Question:
    """
    What somebody wants to know.

    :ivar lasts: seconds for which nodes are asked.
    :ivar opens_at: Unix time from which on they are asked; 0 is now.
    :ivar until: Unix time until which they are asked, in the place of :attr:`lasts`.
    :ivar keep: seconds after the end of the query at which its results are deleted; 0 is what the rules say.
    """

    sql: str
    target: Target = Target()
    discovery: str = ""
    lasts: float = 60.0
    opens_at: float = 0.0
    until: float = 0.0
    keep: float = 0.0

    @property
    def texts(self) -> tuple[str, ...]:
        """All SQL in it."""
        return tuple(filter(None, (self.sql, self.discovery)))


@attrs.frozen
class Asker:
    """
    Who asks, as proven.

    :ivar is_admin: whether that is somebody who may do everything.
    """

    name: str
    is_admin: bool = False


def refuse_bad_sql(target: Target, *texts: str) -> None:
    """
    Look at SQL before nodes are asked.

    :raise BadQuery: none of them could run it.
    """
    for text in texts:
        # Extensions add tables, but no columns to osquery's own.
        if errors := check_sql(text, target.platforms, lenient=True).errors:
            raise BadQuery(f"{errors[0]} (in {text[:60]!r})" if len(texts) > 1 else str(errors[0]))


def _problems(text: str, target: Target) -> list[SQLProblem]:
    return list(check_sql(text, target.platforms, lenient=True).problems) if text.strip() else []


class GivenQuery(TypedDict):
    """A query that a node was given, and whether it answered."""

    query_id: str
    sql: str
    created_at: float
    created_by: str
    state: QueryState
    has_answered: bool


@attrs.frozen
class LiveQueries:
    """Asks nodes."""

    clock: IReactorTime
    stores: IStores
    distributed: Distributed
    inventory: Inventory
    rules: LiveRules = LiveRules()

    async def queries(self, count: int) -> list[QueryRow]:
        """The newest queries, each with how far it has come."""
        return [await self._query_row(query) for query in await self.stores.queries.recent(count)]

    async def query(self, query_id: str) -> QueryStory:
        """
        One query, how far it has come, and what it cost.

        :raise NoSuchThing: there is no such query.
        """
        row = await self._query_row(await self._found(query_id))
        return {**row, "cost": summary(await self.stores.queries.costs(query_id))}

    async def given_to(self, name: str, count: int) -> list[GivenQuery]:
        """
        What a node was given of the :data:`LOOKED_THROUGH` newest queries, the newest first.

        :raise NoSuchThing: there is no such node.
        """
        node = await self.inventory.find(name)
        newest, now = await self.stores.queries.recent(LOOKED_THROUGH), self.clock.seconds()
        given = await self.stores.queries.given(node.node_id, [each.query_id for each in newest])
        found: list[GivenQuery] = [
            {
                "query_id": each.query_id,
                "sql": each.sql,
                "created_at": each.created_at,
                "created_by": each.created_by,
                "state": each.state(now),
                "has_answered": given[each.query_id],
            }
            for each in newest
            if each.query_id in given
        ]
        return found[:count]

    async def issue(self, question: Question, asker: Asker) -> QueryRow:
        """
        Ask nodes something; they are asked when it opens, and when somebody has approved of it if it needs that.

        :raise BadQuery: it would be over before it opens.
        """
        query = self.new_query(question, asker)
        await self.distributed.issue(query)
        return await self._query_row(query)

    async def run(self, question: Question, asker: Asker, emit: Emit) -> None:
        """
        Ask nodes something and hand on what they answer, until all that are online did, or time is up.

        Emits ``begin`` with the number of nodes expected, ``result`` for each answer, ``end`` with those that
        were silent.  Cancelling it calls the query off.  If the query needs approval, it emits ``waiting`` alone, and
        the query stays.

        :raise BadQuery: it opens later.
        """
        query = self.new_query(question, asker)
        if query.state(self.clock.seconds()) == "scheduled":
            raise BadQuery("a query that opens later cannot be run and waited for; issue it")
        if query.is_waiting:
            await self.distributed.issue(query)
            await emit({"type": "waiting", "query_id": query.query_id, "dangers": list(query.dangers)})
            return
        look, results = LookAgain(self.clock), LiveResults(self.clock, self.stores)
        forget = self.stores.signals.subscribe(
            "results", lambda payload: look.wake() if payload in ("", query.query_id) else None
        )
        is_over = False
        try:
            expected = await self.inventory.online_names(question.target)
            await self.distributed.issue(query)
            await emit({"type": "begin", "query_id": query.query_id, "expected": len(expected)})
            answered, cursor = 0, ""
            while True:
                async for stored in results.stored(query.query_id, cursor):
                    cursor = stored.result_id
                    answered += 1
                    expected.pop(stored.result.node_id, None)
                    await emit(result_line(stored.result_id, stored.result))
                remaining = query.expires_at - self.clock.seconds()
                if remaining <= 0 or not expected:
                    break
                await look.wait(min(remaining, 2.0))
            await emit({"type": "end", "answered": answered, "silent": sorted(expected.values())})
            is_over = True
        finally:
            forget()
            if not is_over:
                Deferred.fromCoroutine(self._call_off(query.query_id))

    async def approve(self, query_id: str, asker: Asker) -> QueryStory:
        """
        Let a query that waits go to nodes.

        :raise NoSuchThing: there is no such query.
        :raise NotWaiting: it needs no approval, or not any more.
        :raise OwnQuery: who approves of it has issued it.
        """
        approved = (await self._found(query_id)).approved(asker.name, self.clock.seconds())
        if not await self.distributed.approve(approved):
            raise NotWaiting(f"the query {query_id} does not wait for approval any more")
        return await self.query(query_id)

    async def cancel(self, query_id: str) -> QueryStory:
        """
        Ask no more nodes.

        :raise NoSuchThing: there is no such query.
        """
        if not await self.distributed.cancel(query_id):
            raise NoSuchThing(f"there is no query {query_id!r}")
        return await self.query(query_id)

    def check(self, question: Question, asker: Asker) -> Draft:
        """What there is to say of a question that is not asked yet: ``sql`` and ``discovery`` are looked at."""
        dangers = self._dangers_of(question)
        return {
            "sql": _problems(question.sql, question.target),
            "discovery": _problems(question.discovery, question.target),
            "dangers": list(dangers),
            "needs_approval": self._must_wait(dangers, asker),
        }

    def new_query(self, question: Question, asker: Asker) -> DistributedQuery:
        """
        A query that nobody knows of yet.

        :raise BadQuery: it would be over before it opens.
        """
        now = self.clock.seconds()
        dangers = self._dangers_of(question)
        is_waiting = self._must_wait(dangers, asker)
        opens_at = max(now, question.opens_at)
        # Time passes while it waits: what was said to last so long does so from the approval on.
        lasts = self.rules.approval_hours * 3600 if is_waiting else question.lasts
        ends_at = question.until or opens_at + lasts
        if ends_at <= opens_at:
            raise BadQuery("it would be over before it opens")
        if max(opens_at, ends_at) > now + 2 * LONGEST:
            raise BadQuery("it ends more than two years from now")
        return DistributedQuery(
            query_id=new_query_id(now),
            sql=question.sql,
            target=question.target,
            created_at=now,
            opens_at=question.opens_at,
            expires_at=ends_at,
            lasts=0.0 if question.until else question.lasts,
            discovery=question.discovery,
            created_by=asker.name,
            max_results_bytes=int(self.rules.max_results_mib * 2**20),
            max_results_rows=self.rules.max_results_rows,
            keep=question.keep or self.rules.keep_days * 86400,
            dangers=dangers,
            is_waiting=is_waiting,
        )

    def _dangers_of(self, question: Question) -> tuple[str, ...]:
        made, views = made_names(self.inventory.configuration.layers)
        return self.rules.dangers_of(question.texts, extra_tables=made, views=views)

    def _must_wait(self, dangers: Sequence[str], asker: Asker) -> bool:
        return bool(dangers) and (self.rules.admins_need_approval or not asker.is_admin)

    async def _found(self, query_id: str) -> DistributedQuery:
        query: DistributedQuery | None = await self.stores.queries.get(query_id)
        if query is None:
            raise NoSuchThing(f"there is no query {query_id!r}")
        return query

    async def _call_off(self, query_id: str) -> None:
        try:
            await self.distributed.cancel(query_id)
        except (StoreUnavailable, StoreFull):
            return  # It expires by itself.

    async def _query_row(self, query: DistributedQuery) -> QueryRow:
        progress = await self.stores.queries.progress(query.query_id)
        return {
            "query_id": query.query_id,
            "sql": query.sql,
            "discovery": query.discovery,
            "target": query.target,
            "created_at": query.created_at,
            "created_by": query.created_by,
            "opens_at": query.opens_at or query.created_at,
            "expires_at": query.expires_at,
            "kept_until": query.expires_at + query.keep,
            "state": query.state(self.clock.seconds()),
            "dangers": list(query.dangers),
            "approved_by": query.approved_by,
            "approved_at": query.approved_at or None,
            "offered": progress.offered,
            "answered": progress.answered,
            "failed": progress.failed,
            "results_bytes": progress.results_bytes,
            "results_rows": progress.results_rows,
        }
