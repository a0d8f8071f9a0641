"""``osqtwist status`` and ``node``."""

from __future__ import annotations

from typing import Any

import click

from osqtwist.cli.console import Operator, moment

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
@click.option("--within", type=click.IntRange(0), help="Days.  [default: 30; with --renewed 7]")
@click.option("--renewed", is_flag=True, help="Those that came with another certificate within so many days instead.")
@click.option("--issuers", is_flag=True, help="How many nodes' certificates are of which CA instead.")
@click.option("--limit", type=click.IntRange(1, 1000), default=200, show_default=True)
@click.pass_obj
def node_certificates(operator: Operator, within: int | None, renewed: bool, issuers: bool, limit: int) -> None:
    """List nodes whose certificate ends soon or has ended, the first to end first."""
    if renewed and issuers:
        raise click.UsageError("--renewed and --issuers do not go together")
    if issuers:
        found = operator.call(lambda client: client.get(*_API, "certificates", "issuers"))["issuers"]
        operator.rows(found, {"nodes": "NODES", "issuer": "ISSUER"})
        return
    path = (*_API, "certificates", "renewed") if renewed else (*_API, "certificates")
    query = {"limit": limit} if within is None else {"within": within, "limit": limit}
    rows = operator.call(lambda client: client.get(*path, **query))["certificates"]
    if not operator.as_json:
        for each in rows:
            for key in ("not_after", "seen_at", "shown_at"):
                each[key] = moment(each.get(key))
            before = each["before"]
            each["before"] = f"{before['issuer']}, to {moment(before['not_after'])}" if before else ""
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
    if renewed:
        columns |= {"shown_at": "SINCE", "before": "BEFORE"}
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
