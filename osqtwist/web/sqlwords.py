"""Operations about osquery's SQL: what there is to write, for whoever writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec

from osqtwist.operator import Role
from osqtwist.osqueryschema import Table, schema
from osqtwist.sqlwords import Word, completions
from osqtwist.web.operations import Call, Operation

_MOST_WORDS = 100


class BegunSQL(msgspec.Struct, forbid_unknown_fields=True):
    """SQL that is being written; ``at``: how many characters (of Unicode) stand before the cursor, all without it."""

    sql: Annotated[str, msgspec.Meta(max_length=64 * 1024)]
    at: Annotated[int, msgspec.Meta(ge=0)] | None = None


class ColumnRow(TypedDict):
    """A column; one of those that are `required` must be in a condition, and `*` leaves out what is `hidden`."""

    name: str
    type: str
    required: bool
    hidden: bool
    platforms: list[str]


class TableRow(TypedDict):
    """A table, and the other names that it has."""

    name: str
    aliases: list[str]
    platforms: list[str]
    evented: bool
    columns: list[ColumnRow]


class OsquerySchema(TypedDict):
    """What this version of osquery knows."""

    osquery: str
    tables: list[TableRow]
    functions: list[str]


class SQLWords(TypedDict):
    """Words that fit, and how many letters of them are there already."""

    begun: int
    words: list[Word]


@attrs.frozen
class SQLWordOperations:
    """Tables, columns and functions: all of them, and those that fit."""

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        queries = "/api/v1/queries"
        return (
            Operation("GET", f"{queries}/schema", self.schema, Role.VIEWER),
            Operation("POST", f"{queries}/complete", self.complete, Role.VIEWER, body=BegunSQL, only_asks=True),
        )

    async def schema(self, call: Call) -> OsquerySchema:
        """osquery's tables with their columns and platforms, and its functions."""
        known = schema()
        return {
            "osquery": known.version,
            "tables": [_table(each) for each in known.tables.values()],
            "functions": sorted(known.functions),
        }

    async def complete(self, call: Call) -> SQLWords:
        """What can come next in SQL that is being written: `{"sql": "select pid from pro", "at": 19}`."""
        begun: BegunSQL = call.body
        before = begun.sql if begun.at is None else begun.sql[: begun.at]
        words, length = completions(begun.sql, before)
        return {"begun": length, "words": words[:_MOST_WORDS]}


def _table(table: Table) -> TableRow:
    return {
        "name": table.name,
        "aliases": list(table.aliases),
        "platforms": sorted(table.platforms),
        "evented": table.is_evented,
        "columns": [
            {
                "name": column.name,
                "type": column.type,
                "required": column.is_required,
                "hidden": column.is_hidden,
                "platforms": sorted(column.platforms),
            }
            for column in table.columns
        ],
    }
