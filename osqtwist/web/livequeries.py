"""Operations about distributed queries."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec

from osqtwist.livequery import (
    LONGEST,
    Asker,
    Draft,
    GivenQuery,
    LiveQueries,
    QueryRow,
    QueryStory,
    Question,
    RunBegins,
    RunEnds,
    RunWaits,
    refuse_bad_sql,
)
from osqtwist.operator import Role
from osqtwist.resultexport import ResultLine
from osqtwist.silence import Silence, SilentPage
from osqtwist.targeting import Target
from osqtwist.web.operations import NDJSON, Call, Limit, Operation, Page, page_of
from osqtwist.web.pacing import PacedAnswer
from osqtwist.wire import MalformedRequest

_Sql = Annotated[str, msgspec.Meta(min_length=1, max_length=64 * 1024)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=LONGEST)]
# A Unix time, or a date and time with its offset.
_Moment = Annotated[float, msgspec.Meta(ge=0, le=1e11)] | Annotated[datetime.datetime, msgspec.Meta(tz=True)]


class QueryOrder(msgspec.Struct, forbid_unknown_fields=True):
    """
    A new query.

    ``expires_in``: for how many seconds nodes are asked; ``from`` and ``until``: from when and until when, as Unix time
    or as in RFC 3339; ``keep_for``: seconds after its end for which results are kept; ``check``: whether to look at the
    SQL first.
    """

    sql: _Sql
    target: Target = Target()
    discovery: Annotated[str, msgspec.Meta(max_length=64 * 1024)] = ""
    expires_in: _Seconds = 60.0
    opens_at: _Moment | None = msgspec.field(name="from", default=None)
    until: _Moment | None = None
    keep_for: _Seconds | None = None
    check: bool = True

    def question(self) -> Question:
        """
        What is to be asked.

        :raise MalformedRequest: there is no SQL in it.
        :raise BadQuery: no node could run it.
        """
        if not self.sql.strip():
            raise MalformedRequest("sql is empty")
        question = Question(
            sql=self.sql,
            target=self.target,
            discovery=self.discovery,
            lasts=self.expires_in,
            opens_at=_unix(self.opens_at),
            until=_unix(self.until),
            keep=self.keep_for or 0.0,
        )
        if self.check:
            refuse_bad_sql(self.target, *question.texts)
        return question


class NodeQueriesWanted(msgspec.Struct, forbid_unknown_fields=True):
    """How many at most."""

    limit: Limit = 100


class GivenQueries(TypedDict):
    """Queries that a node was given, the newest first."""

    queries: list[GivenQuery]


class QueryPage(TypedDict):
    """Some queries, the newest first."""

    queries: list[QueryRow]
    next_offset: int | None


_RUN = (RunBegins, ResultLine, RunWaits, RunEnds)


class QueryDraft(msgspec.Struct, forbid_unknown_fields=True):
    """A query that is being written."""

    sql: Annotated[str, msgspec.Meta(max_length=64 * 1024)]
    target: Target = Target()
    discovery: Annotated[str, msgspec.Meta(max_length=64 * 1024)] = ""


@attrs.frozen
class QueryOperations:
    """Distributed queries: asked, approved, looked up afterwards, called off."""

    live: LiveQueries
    silence: Silence

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        queries, query = "/api/v1/queries", "/api/v1/queries/{query}"
        return (
            Operation("POST", queries, self.issue, Role.OPERATOR, body=QueryOrder, code=201),
            Operation("POST", f"{queries}/run", self.run, Role.OPERATOR, body=QueryOrder, media=NDJSON, lines=_RUN),
            Operation("POST", f"{queries}/check", self.check, Role.OPERATOR, body=QueryDraft, only_asks=True),
            Operation("GET", queries, self.queries, Role.VIEWER, query=Page),
            Operation("GET", query, self.query, Role.VIEWER),
            Operation("GET", "/api/v1/nodes/{node}/queries", self.node_queries, Role.VIEWER, query=NodeQueriesWanted),
            Operation("GET", f"{query}/silent", self.silent, Role.VIEWER, query=Page),
            Operation("POST", f"{query}/approve", self.approve, Role.OPERATOR),
            Operation("POST", f"{query}/cancel", self.cancel, Role.OPERATOR),
        )

    async def queries(self, call: Call) -> QueryPage:
        """The newest queries."""
        page: Page = call.query
        rows, next_offset = page_of(await self.live.queries(page.offset + page.limit + 1), page)
        return {"queries": rows, "next_offset": next_offset}

    async def query(self, call: Call) -> QueryStory:
        """One query, how far it has come, and what it cost."""
        return await self.live.query(call.path["query"])

    async def node_queries(self, call: Call) -> GivenQueries:
        """Which of the newest queries the node was given, and whether it answered."""
        return {"queries": await self.live.given_to(call.path["node"], call.query.limit)}

    async def silent(self, call: Call) -> SilentPage:
        """The nodes of its target that have not answered, those that are online first; as things were lately."""
        page: Page = call.query
        return await self.silence.of(call.path["query"], page.offset, page.limit)

    async def check(self, call: Call) -> Draft:
        """What is wrong with SQL, and where, and whether somebody would have to approve of it; asks nobody."""
        draft: QueryDraft = call.body
        return self.live.check(Question(draft.sql, draft.target, draft.discovery), _asker(call))

    async def issue(self, call: Call) -> QueryRow:
        """Ask nodes something: `{"sql": ..., "target": {...}, "expires_in": 60}`, `from`, `until`, `keep_for`."""
        return await self.live.issue(call.body.question(), _asker(call))

    async def run(self, call: Call) -> None:
        """The same, and stream the results until all that are online answered or time is up; going away ends it."""
        question = call.body.question()
        call.set_header("Content-Type", NDJSON)
        with PacedAnswer(self.live.clock, call.request) as answer:

            async def emit(line: RunBegins | ResultLine | RunWaits | RunEnds) -> None:
                await answer.write(msgspec.json.encode(line) + b"\n")

            await self.live.run(question, _asker(call), emit)

    async def approve(self, call: Call) -> QueryStory:
        """Let a query that waits for approval go to nodes; somebody else than who issued it must."""
        return await self.live.approve(call.path["query"], _asker(call))

    async def cancel(self, call: Call) -> QueryStory:
        """Ask no more nodes."""
        return await self.live.cancel(call.path["query"])


def _asker(call: Call) -> Asker:
    return Asker(call.actor.name, call.actor.role is Role.ADMIN)


def _unix(moment: float | datetime.datetime | None) -> float:
    return moment.timestamp() if isinstance(moment, datetime.datetime) else moment or 0.0
