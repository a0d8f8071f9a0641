"""``osqtwist audit``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from osqtwist.cli.console import REFUSED, Operator, moment

_API = ("api", "v1", "audit")


@click.group()
def audit() -> None:
    """The audit trail: what operators did."""


@audit.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--text", default="", help="With this in who, what or the detail.")
@click.option("--refused", is_flag=True, help="What was refused.")
@click.pass_obj
def audit_list(operator: Operator, limit: int, text: str, refused: bool) -> None:
    """List the newest entries, the newest first."""
    wanted: dict[str, str | int] = {"limit": limit, "text": text, "refused": int(refused)}
    rows = operator.call(lambda client: client.get(*_API, **wanted))["entries"]
    if not operator.as_json:
        for each in rows:
            each["at"] = moment(each["at"])
    columns = {
        "number": "ENTRY",
        "at": "TIME",
        "actor": "WHO",
        "action": "WHAT",
        "outcome": "OUTCOME",
        "detail": "DETAIL",
    }
    operator.rows(rows, columns)


@audit.command("export")
@click.pass_obj
def audit_export(operator: Operator) -> None:
    """Print all entries, the oldest first, as JSON lines."""

    def show(line: dict[str, Any]) -> None:
        click.echo(json.dumps(line))

    operator.call(lambda client: client.stream("GET", *_API, "all", on_line=show))


@audit.command("verify")
@click.pass_obj
def audit_verify(operator: Operator) -> None:
    """Look whether each entry follows from the one before; the exit status is 1 if one does not."""
    found = operator.call(lambda client: client.get(*_API, "verify"))
    operator.fields(found)
    if not found["whole"]:
        sys.exit(REFUSED)
