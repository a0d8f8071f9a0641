"""``osqtwist secret``."""

from __future__ import annotations

from typing import TextIO

import click

from osqtwist.cli.console import Operator, moment

_API = ("api", "v1", "secrets")
_DAY = 86400.0
_DAYS = click.FloatRange(min=0)


@click.group()
def secret() -> None:
    """Enroll secrets: handed out, rotated, ended."""


@secret.command("list")
@click.pass_obj
def secret_list(operator: Operator) -> None:
    """List enroll secrets, what each is good for and who used it last."""
    rows = operator.call(lambda client: client.get(*_API))["secrets"]
    if not operator.as_json:
        for each in rows:
            each["state"] = "ended" if each["ended"] else moment(each["expires_at"])
            each["used_at"] = moment(each["used_at"])
            if each["quota"]:
                each["enrollments"] = f"{each['enrollments']} ({each['nodes']} of {each['quota']} nodes)"
    columns = {
        "name": "NAME",
        "tags": "TAGS",
        "allow": "FOR",
        "state": "ENDS",
        "enrollments": "ENROLLED",
        "used_at": "LAST",
        "used_by": "BY",
        "secret_id": "ID",
    }
    operator.rows(rows, columns)


@secret.command("add")
@click.argument("name")
@click.option("--tag", "tags", multiple=True, help="Nodes that enroll by it get this tag; repeatable.")
@click.option(
    "--allow",
    multiple=True,
    metavar="PATTERN",
    help="Only for nodes called so, by certificate or else by their own word, as in web-*; repeatable.",
)
@click.option("--quota", type=click.IntRange(min=0), default=0, help="For so many nodes; any number if not given.")
@click.option("--days", type=_DAYS, default=0.0, help="It ends after so many days; never if not given.")
@click.option("--text-file", type=click.File("r"), help="A secret that nodes have already, in a file; - to read it.")
@click.pass_obj
def secret_add(
    operator: Operator,
    name: str,
    tags: tuple[str, ...],
    allow: tuple[str, ...],
    quota: int,
    days: float,
    text_file: TextIO | None,
) -> None:
    """
    Hand out an enroll secret, and print it: this once.

    It goes into the file that osqueryd reads by --enroll_secret_path.
    """
    body = {
        "name": name,
        "tags": tags,
        "allow": allow,
        "quota": quota,
        "expires_in": days * _DAY,
        "secret": text_file.read().strip() if text_file else "",
    }
    _show(operator, operator.call(lambda client: client.post(*_API, body=body)))


@secret.command("rotate")
@click.argument("name")
@click.option("--overlap", type=_DAYS, default=7.0, show_default=True, help="Days that the old text is good for still.")
@click.option("--days", type=_DAYS, default=0.0, help="The new one ends after so many days; never if not given.")
@click.pass_obj
def secret_rotate(operator: Operator, name: str, overlap: float, days: float) -> None:
    """Hand out a new text for a secret, and print it: this once."""
    body = {"overlap": overlap * _DAY, "expires_in": days * _DAY}
    _show(operator, operator.call(lambda client: client.post(*_API, name, "rotate", body=body)))


@secret.command("revoke")
@click.argument("name")
@click.pass_obj
def secret_revoke(operator: Operator, name: str) -> None:
    """End a secret now, by name or id; nodes that enrolled by it stay (node list --where secret:NAME finds them)."""
    operator.fields(operator.call(lambda client: client.post(*_API, name, "revoke")))


@secret.command("forget")
@click.argument("name")
@click.pass_obj
def secret_forget(operator: Operator, name: str) -> None:
    """Take what has ended out of the list."""
    operator.fields(operator.call(lambda client: client.post(*_API, name, "forget")))


def _show(operator: Operator, made: dict[str, object]) -> None:
    if operator.as_json:
        operator.json(made)
    else:
        click.echo(made["secret"])
