"""Rows of a query in the prompt: as a table, as CSV, as JSON lines, or a line for each value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from osqtwist.cli.console import shown, visible
from osqtwist.cli.results import answered_of, cell
from osqtwist.query import QueryResult
from osqtwist.resultexport import columns_of, csv_head, csv_lines

MOST_ROWS = 10_000
"""Rows that are kept for a table; what is behind them is not shown."""


@attrs.define
class PromptRows:
    """
    The answers to one query, printed in one of the modes.

    Tables and CSV are printed at the end, when all columns are known; the others as answers come.
    """

    console: Console
    mode: str
    query_id: str = ""
    expected: int = 0
    answered: int = 0
    failed: int = 0
    rows: int = 0
    end: dict[str, Any] = attrs.field(factory=dict)
    waiting: dict[str, Any] | None = None
    error: str = ""
    _kept: list[QueryResult] = attrs.field(factory=list, init=False)

    def take(self, line: dict[str, Any]) -> None:
        """What one line of the stream says."""
        match line["type"]:
            case "begin":
                self.expected, self.query_id = line["expected"], line["query_id"]
            case "end":
                self.end = line
            case "waiting":
                self.waiting = line
            case "error":
                self.error = line["error"]
            case "result":
                self._result(line)

    def _result(self, line: dict[str, Any]) -> None:
        self.answered += 1
        if line["status"]:
            self.failed += 1
            click.echo(f"{cell(line['name'])}: status {line['status']}: {cell(line['message'])}", err=True)
        rows = [row for row in line["rows"] if isinstance(row, dict)]
        for row in rows if self.mode in ("json", "line") else ():
            self._print(line["name"], row)
        if self.mode in ("table", "csv") and self.rows < MOST_ROWS:
            seen = [_visible_row(row) for row in rows[: MOST_ROWS - self.rows]]
            result = QueryResult(
                query_id="",
                node_id=line["node"],
                node_name=visible(line["name"]),
                received_at=0.0,
                rows=msgspec.Raw(msgspec.json.encode(seen)),
            )
            self._kept.append(result)
        self.rows += len(rows)

    def _print(self, name: str, row: dict[str, Any]) -> None:
        if self.mode == "json":
            click.echo(visible(msgspec.json.encode({"node": name} | row).decode()))
            return
        width = max(len(column) for column in ("node", *row))
        for column, value in (("node", name), *row.items()):
            click.echo(f"{cell(column):>{width}} = {cell(value)}")
        click.echo()

    def finish(self, seconds: float) -> None:
        """Print what is left to print, and how many answered."""
        if self.waiting:
            dangers = "; ".join(cell(danger) for danger in self.waiting["dangers"])
            click.echo(f"{self.waiting['query_id']} waits for somebody else's approval: {dangers}", err=True)
            return
        columns = columns_of(self._kept)
        if self.mode == "csv" and columns:
            click.echo(csv_head(columns) + "".join(csv_lines(result, columns) for result in self._kept), nl=False)
        elif columns:
            self._table(columns)
        if self.mode in ("table", "csv") and self.rows > MOST_ROWS:
            click.echo(f"{MOST_ROWS} of {self.rows} rows; osqtwist query export {self.query_id} has all", err=True)
        text = answered_of(self.answered, self.expected, self.failed, self.end)
        click.echo(f"{text}; {self.rows} rows in {seconds:.1f} s", err=True)

    def _table(self, columns: Sequence[str]) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("node", *columns):
            table.add_column(shown(heading), overflow="fold")
        for result in self._kept:
            for row in msgspec.json.decode(result.rows):
                table.add_row(shown(result.node_name), *(_blank(row.get(column)) for column in columns))
        self.console.print(table)


def _visible_row(row: dict[str, Any]) -> dict[str, Any]:
    return {visible(column): visible(value) if isinstance(value, str) else value for column, value in row.items()}


def _blank(value: Any) -> Text:
    return Text("") if value in (None, "") else shown(value)
