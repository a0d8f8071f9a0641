"""``osqtwist token`` and ``osqtwist whoami``."""

from __future__ import annotations

import click

from osqtwist.cli.console import Operator, moment
from osqtwist.operator import ROLE_WORDS

_API = ("api", "v1", "tokens")
_DAY = 86400.0


@click.command()
@click.pass_obj
def whoami(operator: Operator) -> None:
    """Who you are to the server, and what you may do."""
    operator.fields(operator.call(lambda client: client.get("api", "v1", "me")))


@click.group()
def token() -> None:
    """Access tokens: how programs come in."""


@token.command("list")
@click.pass_obj
def token_list(operator: Operator) -> None:
    """List tokens."""
    rows = operator.call(lambda client: client.get(*_API))["tokens"]
    if not operator.as_json:
        for each in rows:
            each["expires_at"], each["used_at"] = moment(each["expires_at"]), moment(each["used_at"])
    columns = {
        "name": "NAME",
        "role": "ROLE",
        "groups": "GROUPS",
        "expires_at": "ENDS",
        "used_at": "USED",
        "created_by": "BY",
        "token_id": "ID",
    }
    operator.rows(rows, columns)


@token.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLE_WORDS), default="viewer", show_default=True)
@click.option("--group", "groups", multiple=True, help="Good for this group of operations only: nodes, queries...")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), default=90.0, show_default=True)
@click.pass_obj
def token_add(operator: Operator, name: str, role: str, groups: tuple[str, ...], days: float) -> None:
    """
    Hand out a token, and print it: this once.

    It lets its holder in by the header Authorization: Bearer TOKEN, or by --token-file of this command.
    """
    body = {"name": name, "role": role, "groups": groups, "expires_in": days * _DAY}
    made = operator.call(lambda client: client.post(*_API, body=body))
    if operator.as_json:
        operator.json(made)
    else:
        click.echo(made["token"])


@token.command("revoke")
@click.argument("name")
@click.pass_obj
def token_revoke(operator: Operator, name: str) -> None:
    """Take a token back, by name or id."""
    operator.fields(operator.call(lambda client: client.post(*_API, name, "revoke")))
