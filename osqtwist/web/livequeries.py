"""Operations about distributed queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import attrs
import msgspec

from osqtwist.livequery import LiveQueries, refuse_bad_sql
from osqtwist.operator import Role
from osqtwist.targeting import Target
from osqtwist.web.operations import NDJSON, Call, Operation, Page, page_of
from osqtwist.wire import MalformedRequest

_YEAR = 366 * 86400
_Sql = Annotated[str, msgspec.Meta(min_length=1, max_length=64 * 1024)]


class QueryOrder(msgspec.Struct, forbid_unknown_fields=True):
    """A new query; ``expires_in`` in seconds, ``check`` whether to look at the SQL first."""

    sql: _Sql
    target: Target = Target()
    discovery: Annotated[str, msgspec.Meta(max_length=64 * 1024)] = ""
    expires_in: Annotated[float, msgspec.Meta(gt=0, le=_YEAR)] = 60.0
    check: bool = True


@attrs.frozen
class QueryOperations:
    """Distributed queries: asked, followed, looked up afterwards, called off."""

    live: LiveQueries

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        queries, query = "/api/v1/queries", "/api/v1/queries/{query}"
        return (
            Operation("POST", queries, self.issue, Role.OPERATOR, body=QueryOrder, code=201),
            Operation("POST", f"{queries}/run", self.run, Role.OPERATOR, body=QueryOrder, media=NDJSON),
            Operation("GET", queries, self.queries, Role.VIEWER, query=Page),
            Operation("GET", query, self.query, Role.VIEWER),
            Operation("GET", f"{query}/results", self.results, Role.VIEWER, media=NDJSON),
            Operation("POST", f"{query}/cancel", self.cancel, Role.OPERATOR),
        )

    async def queries(self, call: Call) -> Any:
        """The newest queries."""
        page: Page = call.query
        return page_of(await self.live.queries(page.offset + page.limit + 1), page, "queries")

    async def query(self, call: Call) -> Any:
        """One query and how far it has come."""
        return await self.live.query(call.path["query"])

    async def issue(self, call: Call) -> Any:
        """Ask nodes something: `{"sql": ..., "target": {...}, "expires_in": 60}`."""
        order = _checked(call.body)
        return await self.live.issue(
            order.sql, order.target, order.expires_in, discovery=order.discovery, created_by=call.actor.name
        )

    async def run(self, call: Call) -> None:
        """The same, and stream the results until all that are online answered or time is up; going away ends it."""
        order = _checked(call.body)
        await self.live.run(
            order.sql, order.target, order.expires_in, call.emit, discovery=order.discovery, created_by=call.actor.name
        )

    async def results(self, call: Call) -> None:
        """Its results so far."""
        await self.live.query(call.path["query"])
        await self.live.results(call.path["query"], call.emit)

    async def cancel(self, call: Call) -> Any:
        """Ask no more nodes."""
        return await self.live.cancel(call.path["query"])


def _checked(order: QueryOrder) -> QueryOrder:
    if not order.sql.strip():
        raise MalformedRequest("sql is empty")
    if order.check:
        refuse_bad_sql(order.target, *filter(None, (order.sql, order.discovery)))
    return order
