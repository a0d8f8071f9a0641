"""Results of distributed queries, printed for people or for programs."""

from __future__ import annotations

from typing import Any

import attrs
import click

from osqtwist.cli.console import Operator, plain

_UNITS = {"wall_time_ms": "ms", "user_time": "ms", "system_time": "ms", "memory": "bytes", "elapsed": "s"}
_NAMES = {"wall_time_ms": "time", "user_time": "CPU, user", "system_time": "CPU, system", "elapsed": "until the answer"}


@attrs.define
class ResultPrinter:
    """
    Prints rows as they come: a column for the node, then those of the query.

    :ivar waiting: what is dangerous in a query that waits for approval, with its id.
    """

    operator: Operator
    headings: list[str] | None = None
    answered: int = 0
    failed: int = 0
    end: dict[str, Any] | None = None
    expected: int | None = None
    waiting: dict[str, Any] | None = None

    def take(self, line: dict[str, Any]) -> None:
        """Print what one line of the stream says."""
        if self.operator.as_json:
            self.operator.json(line)
        match line["type"]:
            case "begin":
                self.expected = line["expected"]
            case "end":
                self.end = line
            case "waiting":
                self.waiting = line
            case "error":
                raise click.ClickException(line["error"])
            case "result":
                self.answered += 1
                self.failed += line["status"] != 0
                if not self.operator.as_json:
                    self._print(line)

    def _print(self, line: dict[str, Any]) -> None:
        name = cell(line["name"])
        if line["status"]:
            click.echo(f"{name}: status {line['status']}: {plain(line['message'])}", err=True)
        if line["rows_dropped"]:
            click.echo(f"{name}: {line['row_count']} rows were not kept: the query has reached its limit", err=True)
        for row in line["rows"]:
            if not isinstance(row, dict):
                continue
            headings = list(row)
            if headings != self.headings:
                self.headings = headings
                click.echo("\t".join(["node", *map(cell, headings)]))
            click.echo("\t".join([name, *(cell(value) for value in row.values())]))

    def summary(self) -> None:
        """Say how many answered, and who did not."""
        if self.operator.as_json:
            return
        if self.waiting:
            dangers = "; ".join(plain(danger) for danger in self.waiting["dangers"])
            query_id = self.waiting["query_id"]
            click.echo(
                f"{query_id} waits for somebody else to approve of it, since it may do harm: {dangers}", err=True
            )
            click.echo(f"osqtwist query approve {query_id}", err=True)
            return
        click.echo(answered_of(self.answered, self.expected, self.failed, self.end or {}), err=True)


def answered_of(answered: int, expected: int | None, failed: int, end: dict[str, Any]) -> str:
    """How many answered, how many of them with an error, and who was silent."""
    text = f"{answered} nodes answered" if expected is None else f"{answered} of {expected} nodes answered"
    if failed:
        text += f", {failed} with an error"
    if silent := end.get("silent"):
        names = ", ".join(plain(name) for name in silent[:10])
        text += f"; silent: {names}" + (" ..." if len(silent) > 10 else "")
    return text


def cell(value: Any) -> str:
    """A value of a row, fit for a terminal."""
    return plain(value) if value != "" else ""


def cost_lines(cost: dict[str, Any]) -> dict[str, str]:
    """What a query cost, a line for each measure."""
    found = {}
    for measure, each in cost.items():
        unit = _UNITS[measure]
        total = f", {each['total']:g} {unit} in all" if "total" in each else ""
        of = f"{each['nodes']} node{'s' * (each['nodes'] != 1)}"
        found[f"cost: {_NAMES.get(measure, measure)}"] = (
            f"median {each['median']:g} {unit}, most {each['max']:g} {unit} ({each['max_node']}){total}, of {of}"
        )
    return found
