"""Operations about saved queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec

from osqtwist.operator import Role
from osqtwist.savedqueries import SavedForgotten, SavedQueries, SavedRow
from osqtwist.savedquery import NAME_PATTERN, SavedQuery
from osqtwist.targeting import Target
from osqtwist.web.operations import Call, Operation, Page, page_of

_Sql = Annotated[str, msgspec.Meta(max_length=64 * 1024)]
# Python's `$` is also before a line end.
_Name = Annotated[str, msgspec.Meta(pattern=rf"^{NAME_PATTERN.pattern}$(?!\n)")]


class SaveOrder(msgspec.Struct, forbid_unknown_fields=True):
    """
    A query to keep.

    ``target``: whom it is meant for; ``replace``: in the place of one of that name; ``check``: whether to look at the
    SQL first.
    """

    name: _Name
    sql: Annotated[str, msgspec.Meta(min_length=1, max_length=64 * 1024, pattern=r"\S")]
    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    discovery: _Sql = ""
    target: Target = Target()
    replace: bool = False
    check: bool = True


class SavedPage(TypedDict):
    """Some of them, by name."""

    saved: list[SavedRow]
    next_offset: int | None


@attrs.frozen
class SavedQueryOperations:
    """Queries that operators share."""

    saved: SavedQueries

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        all_of_them = "/api/v1/queries/saved"
        one = f"{all_of_them}/{{saved}}"
        return (
            Operation("GET", all_of_them, self.saved_queries, Role.VIEWER, query=Page),
            Operation("POST", all_of_them, self.save, Role.OPERATOR, body=SaveOrder, code=201),
            Operation("GET", one, self.saved_query, Role.VIEWER),
            Operation("POST", f"{one}/forget", self.forget_saved, Role.OPERATOR),
        )

    async def saved_queries(self, call: Call) -> SavedPage:
        """Saved queries, by name."""
        rows, next_offset = page_of(await self.saved.rows(), call.query)
        return {"saved": rows, "next_offset": next_offset}

    async def saved_query(self, call: Call) -> SavedRow:
        """One saved query."""
        return await self.saved.row(call.path["saved"])

    async def save(self, call: Call) -> SavedRow:
        """Keep a query under a name: `{"name": ..., "sql": ..., "target": {...}, "replace": false}`."""
        order: SaveOrder = call.body
        saved = SavedQuery(
            name=order.name,
            sql=order.sql,
            description=order.description,
            discovery=order.discovery,
            target=order.target,
        )
        return await self.saved.save(saved, call.actor.name, replace=order.replace, check=order.check)

    async def forget_saved(self, call: Call) -> SavedForgotten:
        """Keep it no more."""
        return await self.saved.forget(call.path["saved"])
