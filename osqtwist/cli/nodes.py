"""More of ``osqtwist node``: clones, merges, notes, new keys."""

from __future__ import annotations

import click

from osqtwist.cli.console import Operator, moment
from osqtwist.cli.fleet import node

__all__ = ["node"]

_API = ("api", "v1")


@node.command("clones")
@click.pass_obj
def node_clones(operator: Operator) -> None:
    """List machines that share a host identifier, a node key or a certificate with another, the newest first."""
    rows = operator.call(lambda client: client.get(*_API, "clones"))["clones"]
    if not operator.as_json:
        for each in rows:
            each["found_at"], each["seen_at"] = moment(each["found_at"]), moment(each["seen_at"])
            each["clone"] = each["clone"] if each["parted"] else "not told apart"
    columns = {
        "name": "NAME",
        "node": "NODE",
        "clone": "CLONE",
        "kind": "KNOWN BY",
        "places": "PLACES",
        "found_at": "FOUND",
        "seen_at": "SEEN",
    }
    operator.rows(rows, columns)


@node.command("merge")
@click.argument("name")
@click.option("--into", required=True, metavar="NAME", help="The node that goes on.")
@click.option("--force", is_flag=True, help="Also if the first was heard of in the last minute.")
@click.pass_obj
def node_merge(operator: Operator, name: str, into: str, force: bool) -> None:
    """
    Have a node take over from the one that it was before it was imaged anew or renamed.

    It gets that one's given tags, note and first sighting, and is found by its names; the other's keys are refused.
    """
    body = {"into": into, "force": force}
    operator.fields(operator.call(lambda client: client.post(*_API, "nodes", name, "merge", body=body)))


@node.command("note")
@click.argument("name")
@click.argument("text")
@click.pass_obj
def node_note(operator: Operator, name: str, text: str) -> None:
    """Replace the note of a node; an empty text takes it away."""
    operator.fields(operator.call(lambda client: client.post(*_API, "nodes", name, "note", body={"note": text})))


@node.command("rekey")
@click.argument("name")
@click.pass_obj
def node_rekey(operator: Operator, name: str) -> None:
    """Refuse the keys that a node has: whoever uses one enrolls again, and clones become two nodes."""
    operator.fields(operator.call(lambda client: client.post(*_API, "nodes", name, "rekey")))
