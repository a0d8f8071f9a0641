"""More of ``osqtwist node``: nodes that wait for approval."""

from __future__ import annotations

import click

from osqtwist.cli.console import Operator, moment
from osqtwist.cli.nodes import node

__all__ = ["node"]

_API = ("api", "v1", "pending")


@node.command("pending")
@click.option("--where", default="", help="Only those of an expression.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.pass_obj
def node_pending(operator: Operator, where: str, limit: int) -> None:
    """List nodes that wait for approval, who asked last first."""
    found = operator.call(lambda client: client.get(*_API, where=where, limit=limit))
    rows = found["pending"]
    if not operator.as_json:
        for each in rows:
            each["first_at"], each["asked_at"] = moment(each["first_at"]), moment(each["asked_at"])
    columns = {
        "name": "NAME",
        "node": "NODE",
        "proof": "PROOF",
        "secret": "SECRET",
        "platform": "PLATFORM",
        "tags": "TAGS",
        "address": "ADDRESS",
        "first_at": "SINCE",
        "asked_at": "ASKED",
    }
    operator.rows(rows, columns)


@node.command("approve")
@click.argument("names", nargs=-1)
@click.option("--where", default="", help="Everybody who waits and whom this expression means; '*' for all.")
@click.pass_obj
def node_approve(operator: Operator, names: tuple[str, ...], where: str) -> None:
    """Let nodes in that wait."""
    if not names and not where:
        raise click.UsageError("give names, or --where")
    body = {"nodes": names, "where": where}
    approved = operator.call(lambda client: client.post(*_API, body=body))["approved"]
    operator.rows(approved, {"name": "APPROVED", "node": "NODE"})


@node.command("refuse")
@click.argument("name")
@click.option("--reason", default="", help="What to remember of it.")
@click.pass_obj
def node_refuse(operator: Operator, name: str, reason: str) -> None:
    """Keep a node out that waits: revoked, until that is taken back."""
    refused = operator.call(lambda client: client.post(*_API, name, "refuse", body={"reason": reason}))["refused"]
    operator.rows(refused, {"name": "REFUSED", "node": "NODE"})
