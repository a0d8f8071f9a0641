"""``osqtwist query``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click

from osqtwist.cli.console import REFUSED, WAITING, Operator, moment
from osqtwist.cli.latecommands import LateCommands
from osqtwist.cli.results import ResultPrinter, cost_lines
from osqtwist.cli.times import Duration, Moment

_API = ("api", "v1", "queries")
_STATES = ("waiting", "scheduled", "open", "expired", "cancelled")
_PAGE = 500
_ALL = 100.0
_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group(
    cls=LateCommands,
    late={
        "prompt": "osqtwist.cli.prompt:query_prompt",
        "saved": "osqtwist.cli.savedqueries:query_saved",
        "save": "osqtwist.cli.savedqueries:query_save",
        "forget": "osqtwist.cli.savedqueries:query_forget",
    },
)
def query() -> None:
    """Distributed queries."""


@attrs.frozen
class _Asked:
    """What is asked of whom, as the options say it."""

    sql: str
    nodes: tuple[str, ...]
    tags: tuple[str, ...]
    platforms: tuple[str, ...]
    where: str
    percent: float
    salt: str
    discovery: str
    no_check: bool

    async def body(self, client: Any, **more: Any) -> dict[str, Any]:
        """The order for the server; what is not given is left out, or what the saved query says."""
        target: dict[str, Any] = {"nodes": self.nodes, "tags": self.tags, "platforms": self.platforms}
        target |= {"where": self.where, "percent": self.percent, "salt": self.salt}
        body = {"sql": self.sql, "target": target, "discovery": self.discovery, "check": not self.no_check, **more}
        if self.sql.startswith("@"):
            saved = await client.get(*_API, "saved", self.sql[1:].strip())
            is_said = self.nodes or self.tags or self.platforms or self.where or self.percent < _ALL
            body |= {
                "sql": saved["sql"],
                "discovery": self.discovery or saved["discovery"],
                "target": target if is_said else saved["target"],
            }
        return {name: value for name, value in body.items() if value is not None}


def _asking(command: _Command) -> _Command:
    """The argument and options that say what is asked of whom."""
    options = (
        click.argument("sql"),
        click.option("--node", "nodes", multiple=True, help="Id, name or host identifier; * and ? match. Repeatable."),
        click.option("--tag", "tags", multiple=True, help="Nodes with one of these tags. Repeatable."),
        click.option("--platform", "platforms", multiple=True, help="linux, darwin, windows, ubuntu... Repeatable."),
        click.option("--where", default="", help="Nodes of this expression: platform:linux and not tag:prod."),
        click.option(
            "--percent",
            type=click.FloatRange(0, 100),
            default=100.0,
            help="A share of them: always the same nodes, and more with more.",
        ),
        click.option("--salt", default="", help="Another text, another share."),
        click.option("--discovery", default="", help="A query that must give a row on a node first."),
        click.option("--no-check", is_flag=True, help="Ask also what osquery's own tables cannot answer."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@query.command("run")
@_asking
@click.option("--timeout", type=click.FloatRange(min=0.1), default=15.0, show_default=True, help="Seconds to wait.")
@click.pass_obj
def query_run(operator: Operator, /, timeout: float, **words: Any) -> None:
    """
    Ask nodes something now, and print rows as they come.

    SQL may be the name of a saved query with an @ before it.  Ends when all nodes that are online have answered, or the
    time is up.  The exit status is 1 if nobody answered or some answer was an error, 4 if somebody else has to approve
    first.
    """
    printer = ResultPrinter(operator)

    async def ask(client: Any) -> None:
        body = await _Asked(**words).body(client, expires_in=timeout)
        await client.stream("POST", *_API, "run", on_line=printer.take, body=body)

    operator.call(ask)
    _finish(printer)


@query.command("issue")
@_asking
@click.option("--from", "opens_at", type=Moment(is_past=False), help="When to begin: 2h (from now), or ISO 8601.")
@click.option("--until", type=Moment(is_past=False), help="When to end.")
@click.option("--for", "lasts", type=Duration(), help="How long to ask: 90s, 15m, 2h, 7d.  [default: 1h]")
@click.option("--keep", type=Duration(), help="How long to keep the results after that.  [default: the server's]")
@click.pass_obj
def query_issue(
    operator: Operator,
    /,
    opens_at: float | None,
    until: float | None,
    lasts: float | None,
    keep: float | None,
    **words: Any,
) -> None:
    """
    Have nodes asked, also those that come online later, and do not wait.

    SQL may be the name of a saved query with an @ before it.  Prints the query with its id, for show, follow and
    export.  The exit status is 4 if somebody else has to approve.
    """
    if until and lasts:
        raise click.UsageError("--until and --for say the same: give one of them")
    more = {"from": opens_at, "until": until, "expires_in": lasts or 3600.0, "keep_for": keep}

    async def ask(client: Any) -> Any:
        return await client.post(*_API, body=await _Asked(**words).body(client, **more))

    found = operator.call(ask)
    _print_query(operator, found)
    if found["state"] == "waiting":
        sys.exit(WAITING)


@query.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--state", type=click.Choice(_STATES), help="Only those that stand so.")
@click.pass_obj
def query_list(operator: Operator, limit: int, state: str | None) -> None:
    """List the newest queries."""

    async def pages(client: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        offset: int | None = 0
        while offset is not None and len(found) < limit:
            page = await client.get(*_API, limit=_PAGE if state else limit, offset=offset)
            found += [each for each in page["queries"] if state in (None, each["state"])]
            offset = page["next_offset"]
        return found[:limit]

    queries = operator.call(pages)
    if not operator.as_json:
        for each in queries:
            each["created_at"] = moment(each["created_at"])
    operator.rows(
        queries,
        {
            "query_id": "QUERY",
            "state": "STATE",
            "created_at": "CREATED",
            "created_by": "BY",
            "offered": "OFFERED",
            "answered": "ANSWERED",
            "failed": "FAILED",
            "sql": "SQL",
        },
    )


@query.command("show")
@click.argument("query_id")
@click.option("--no-results", is_flag=True, help="Only the query, how far it has come and what it cost.")
@click.pass_obj
def query_show(operator: Operator, query_id: str, no_results: bool) -> None:
    """Show a query, what it cost, and the results that are in."""
    printer = ResultPrinter(operator)

    async def both(client: Any) -> None:
        _print_query(operator, await client.get(*_API, query_id))
        if not no_results:
            await client.stream("GET", *_API, query_id, "results", on_line=printer.take)

    operator.call(both)


@query.command("follow")
@click.argument("query_id")
@click.option("--after", default="", help="The id of the last result that you have.")
@click.pass_obj
def query_follow(operator: Operator, query_id: str, after: str) -> None:
    """
    Print the results that are in and those that come, until no more can come.

    The exit status is 1 if nobody answered or some answer was an error.
    """
    printer = ResultPrinter(operator)
    words: dict[str, str | int] = {"follow": 1, "after": after}
    operator.call(lambda client: client.stream("GET", *_API, query_id, "results", on_line=printer.take, **words))
    _finish(printer)


@query.command("export")
@click.argument("query_id")
@click.option("--format", "form", type=click.Choice(("csv", "json", "ndjson")), default="csv", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it; by default standard output.")
@click.pass_obj
def query_export(operator: Operator, query_id: str, form: str, output: Path | None) -> None:
    """Write the results that are in as a file."""

    async def fetch(client: Any) -> None:
        if output is None:
            await client.save(sys.stdout.buffer.write, *_API, query_id, "results", format=form)
            sys.stdout.buffer.flush()
            return
        partial = output.with_name(output.name + ".partial")
        try:
            with partial.open("wb") as file:
                await client.save(file.write, *_API, query_id, "results", format=form)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(output)

    operator.call(fetch)


@query.command("approve")
@click.argument("query_id")
@click.pass_obj
def query_approve(operator: Operator, query_id: str) -> None:
    """Let a query that somebody else issued, and that may do harm, go to nodes."""
    _print_query(operator, operator.call(lambda client: client.post(*_API, query_id, "approve")))


@query.command("cancel")
@click.argument("query_id")
@click.pass_obj
def query_cancel(operator: Operator, query_id: str) -> None:
    """Ask no more nodes; what waits for approval needs none any more."""
    _print_query(operator, operator.call(lambda client: client.post(*_API, query_id, "cancel")))


def _print_query(operator: Operator, found: dict[str, Any]) -> None:
    if operator.as_json:
        operator.json(found)
        return
    shown = {name: value for name, value in found.items() if name != "cost"}
    for name in ("created_at", "opens_at", "expires_at", "kept_until"):
        shown[name] = moment(shown[name])
    if found["approved_by"]:
        shown["approved_at"] = moment(found["approved_at"])
    else:
        del shown["approved_by"], shown["approved_at"]
    operator.fields(shown | cost_lines(found.get("cost", {})))


def _finish(printer: ResultPrinter) -> None:
    printer.summary()
    if printer.waiting:
        sys.exit(WAITING)
    if not printer.answered or printer.failed:
        sys.exit(REFUSED)
