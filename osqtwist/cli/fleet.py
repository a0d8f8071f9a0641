"""``osqtwist status``, ``node`` and ``query``."""

from __future__ import annotations

import sys
from typing import Any

import attrs
import click

from osqtwist.cli.console import REFUSED, Operator, moment, plain

_API = ("api", "v1")
_PAGE = 500


@click.command()
@click.pass_obj
def status(operator: Operator) -> None:
    """One page of figures of the server."""
    operator.fields(operator.call(lambda client: client.get(*_API, "status")))


@click.group()
def node() -> None:
    """Nodes: who they are and when they were seen."""


@node.command("list")
@click.option("--online", is_flag=True, help="Only nodes heard of in the last minute.")
@click.option("--where", default="", help="Only nodes of this expression: tag:prod and not name:build-*.")
@click.option("--limit", type=click.IntRange(1), default=200, show_default=True)
@click.pass_obj
def node_list(operator: Operator, online: bool, where: str, limit: int) -> None:
    """List nodes, the one heard of last first."""

    async def pages(client: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        offset: int | None = 0
        while offset is not None and len(found) < limit:
            words = {"offset": offset, "limit": min(_PAGE, limit), "online": int(online), "where": where}
            page = await client.get(*_API, "nodes", **words)
            found += page["nodes"]
            offset = page["next_offset"]
        return found[:limit]

    nodes = operator.call(pages)
    if not operator.as_json:
        for each in nodes:
            each["seen_at"] = moment(each["seen_at"])
    operator.rows(
        nodes,
        {
            "node": "NODE",
            "name": "NAME",
            "proof": "PROOF",
            "platform": "PLATFORM",
            "osquery_version": "OSQUERY",
            "tags": "TAGS",
            "address": "ADDRESS",
            "seen_at": "SEEN",
            "revoked": "REVOKED",
        },
    )


@node.command("show")
@click.argument("name")
@click.pass_obj
def node_show(operator: Operator, name: str) -> None:
    """Show one node, by id, name or host identifier."""
    operator.fields(operator.call(lambda client: client.get(*_API, "nodes", name)))


@node.command("revoke")
@click.argument("name")
@click.option("--reason", default="", help="Kept with the revocation.")
@click.pass_obj
def node_revoke(operator: Operator, name: str, reason: str) -> None:
    """Refuse a node from now on."""
    operator.fields(operator.call(lambda client: client.post(*_API, "nodes", name, "revoke", body={"reason": reason})))


@node.command("restore")
@click.argument("name")
@click.pass_obj
def node_restore(operator: Operator, name: str) -> None:
    """Take a revocation back."""
    operator.fields(operator.call(lambda client: client.post(*_API, "nodes", name, "restore")))


@node.command("certificates")
@click.option("--within", type=click.IntRange(0), default=30, show_default=True, help="Days.")
@click.option("--limit", type=click.IntRange(1, 1000), default=200, show_default=True)
@click.pass_obj
def node_certificates(operator: Operator, within: int, limit: int) -> None:
    """List nodes whose certificate ends soon or has ended, the first to end first."""
    rows = operator.call(lambda client: client.get(*_API, "certificates", within=within, limit=limit))["certificates"]
    if not operator.as_json:
        for each in rows:
            each["not_after"], each["seen_at"] = moment(each["not_after"]), moment(each["seen_at"])
    columns = {
        "node": "NODE",
        "name": "NAME",
        "days": "DAYS",
        "not_after": "ENDS",
        "seen_at": "SEEN",
        "key_type": "KEY",
        "issuer": "ISSUER",
        "serial": "SERIAL",
    }
    operator.rows(rows, columns)


@node.command("tag")
@click.argument("name")
@click.argument("changes", nargs=-1, required=True, metavar="[+]TAG|-TAG...")
@click.pass_obj
def node_tag(operator: Operator, name: str, changes: tuple[str, ...]) -> None:
    """
    Give a node tags, or take them away (after --): osqtwist node tag web-1 prod -- -test.

    Tags that come from its enroll secret or its certificate stay.
    """
    body = {
        "add": [each.removeprefix("+") for each in changes if not each.startswith("-")],
        "remove": [each.removeprefix("-") for each in changes if each.startswith("-")],
    }
    operator.fields(operator.call(lambda client: client.post(*_API, "nodes", name, "tags", body=body)))


@node.command("forget")
@click.argument("name")
@click.pass_obj
def node_forget(operator: Operator, name: str) -> None:
    """Keep nothing of a node any more; it comes back, as new, if it asks again with a good key or certificate."""
    operator.fields(operator.call(lambda client: client.post(*_API, "nodes", name, "forget")))


@click.group()
def query() -> None:
    """Distributed queries."""


@attrs.define
class _ResultPrinter:
    """Prints rows as they come: a column for the node, then those of the query."""

    operator: Operator
    headings: list[str] | None = None
    answered: int = 0
    failed: int = 0
    end: dict[str, Any] | None = None
    expected: int = 0

    def take(self, line: dict[str, Any]) -> None:
        if self.operator.as_json:
            self.operator.json(line)
        match line["type"]:
            case "begin":
                self.expected = line["expected"]
            case "end":
                self.end = line
            case "error":
                raise click.ClickException(line["error"])
            case "result":
                self.answered += 1
                self.failed += line["status"] != 0
                if not self.operator.as_json:
                    self._print(line)

    def _print(self, line: dict[str, Any]) -> None:
        name = plain(line["name"]).replace("\\[", "[")
        if line["status"]:
            click.echo(f"{name}: status {line['status']}: {plain(line['message'])}", err=True)
        for row in line["rows"]:
            headings = list(row)
            if headings != self.headings:
                self.headings = headings
                click.echo("\t".join(["node", *map(_cell, headings)]))
            click.echo("\t".join([name, *(_cell(value) for value in row.values())]))

    def summary(self) -> None:
        if self.operator.as_json:
            return
        silent = self.end["silent"] if self.end else []
        text = f"{self.answered} of {self.expected} nodes answered"
        if self.failed:
            text += f", {self.failed} with an error"
        if silent:
            names = ", ".join(plain(name) for name in silent[:10])
            text += f"; silent: {names}" + (" ..." if len(silent) > 10 else "")
        click.echo(text, err=True)


def _cell(value: Any) -> str:
    return plain(value).replace("\\[", "[") if value != "" else ""


@query.command("run")
@click.argument("sql")
@click.option("--node", "nodes", multiple=True, help="Id, name or host identifier; * and ? match. Repeatable.")
@click.option("--tag", "tags", multiple=True, help="Nodes with one of these tags. Repeatable.")
@click.option("--platform", "platforms", multiple=True, help="linux, darwin, windows, ubuntu... Repeatable.")
@click.option("--where", default="", help="Nodes of this expression: platform:linux and not tag:prod.")
@click.option("--discovery", default="", help="A query that must give a row on a node first.")
@click.option("--no-check", is_flag=True, help="Ask also what osquery's own tables cannot answer.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=15.0, show_default=True, help="Seconds to wait.")
@click.pass_obj
def query_run(
    operator: Operator,
    sql: str,
    nodes: tuple[str, ...],
    tags: tuple[str, ...],
    platforms: tuple[str, ...],
    where: str,
    discovery: str,
    no_check: bool,
    timeout: float,
) -> None:
    """
    Ask nodes something now, and print rows as they come.

    Ends when all nodes that are online have answered, or the time is up.  The exit status is 1 if nobody answered
    or some answer was an error.
    """
    printer = _ResultPrinter(operator)
    body = {
        "sql": sql,
        "target": {"nodes": nodes, "tags": tags, "platforms": platforms, "where": where},
        "discovery": discovery,
        "check": not no_check,
        "expires_in": timeout,
    }
    operator.call(lambda client: client.stream("POST", *_API, "queries", "run", on_line=printer.take, body=body))
    printer.summary()
    if not printer.answered or printer.failed:
        sys.exit(REFUSED)


@query.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.pass_obj
def query_list(operator: Operator, limit: int) -> None:
    """List the newest queries."""
    queries = operator.call(lambda client: client.get(*_API, "queries", limit=limit))["queries"]
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
@click.pass_obj
def query_show(operator: Operator, query_id: str) -> None:
    """Show a query and the results that are in."""
    printer = _ResultPrinter(operator)

    async def both(client: Any) -> dict[str, Any]:
        found: dict[str, Any] = await client.get(*_API, "queries", query_id)
        operator.fields(found)
        await client.stream("GET", *_API, "queries", query_id, "results", on_line=printer.take)
        return found

    operator.call(both)


@query.command("cancel")
@click.argument("query_id")
@click.pass_obj
def query_cancel(operator: Operator, query_id: str) -> None:
    """Ask no more nodes."""
    operator.fields(operator.call(lambda client: client.post(*_API, "queries", query_id, "cancel")))
