"""
Results of distributed queries as files: CSV, JSON, and JSON lines.

CSV has a row for each row of a node, with the node's name in the first column, then every column that some node has
sent, in the order of their first appearance.  Spreadsheets take a cell that begins with ``=``, ``+``, ``-`` or ``@``
for a formula, and cells come from nodes: such a cell, if it is no number, gets an apostrophe put before it, which
spreadsheets take for "this is text".
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from osqtwist.query import QueryResult


class ResultLine(TypedDict):
    """
    What a node answered to a query.

    `status` is osquery's, 0 where all went well; `elapsed` is in seconds, `stats` in osquery's units; `rows_dropped`:
    no more rows of this query are kept.
    """

    type: Literal["result"]
    id: str
    node: str
    name: str
    received_at: float
    elapsed: float
    status: int
    message: str
    row_count: int
    rows: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "array"})]
    stats: dict[str, float]
    rows_dropped: bool


ExportFormat = Literal["csv", "json", "ndjson"]

MEDIA: Mapping[str, str] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "json": "application/json",
    "ndjson": "application/x-ndjson",
}
"""The media type of each."""

# Tab and line ends are there since a reader may strip them; the last four are wide forms, which some locales take too.
_FORMULA = re.compile(r"[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def result_line(result_id: str, result: QueryResult) -> ResultLine:
    """A result, as the operators' API gives it."""
    return {
        "type": "result",
        "id": result_id,
        "node": result.node_id,
        "name": result.node_name,
        "received_at": result.received_at,
        "elapsed": result.elapsed,
        "status": result.status,
        "message": result.message,
        "row_count": result.row_count,
        "rows": result.rows,
        "stats": result.stats,
        "rows_dropped": result.rows_dropped,
    }


def rows_of(result: QueryResult) -> list[dict[str, Any]]:
    """The rows of a result; what is no object is left out."""
    return [row for row in msgspec.json.decode(result.rows) if isinstance(row, dict)]


def columns_of(results: Iterable[QueryResult], known: Sequence[str] = ()) -> list[str]:
    """The columns known already, then those that are new in these results."""
    found = dict.fromkeys(known)
    for result in results:
        for row in rows_of(result):
            found.update(dict.fromkeys(row))
    return list(found)


def csv_head(columns: Sequence[str]) -> str:
    """The line of headings; the node's column is called ``_node`` if the query has one called ``node``."""
    return _csv([["_node" if "node" in columns else "node", *columns]])


def csv_lines(result: QueryResult, columns: Sequence[str]) -> str:
    """A line for each row of a node's result."""
    return _csv([result.node_name, *(_text(row.get(column)) for column in columns)] for row in rows_of(result))


def safe_cell(text: str) -> str:
    """The text of a cell, such that no spreadsheet computes it."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _csv(lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    # Everything in quotes: what stands between separators of another locale stays inside a cell.
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([safe_cell(cell) for cell in line] for line in lines)
    return text.getvalue()


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
