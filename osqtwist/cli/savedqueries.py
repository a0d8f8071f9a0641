"""``osqtwist query saved``, ``save`` and ``forget``."""

from __future__ import annotations

from typing import Any

import click

from osqtwist.cli.console import Operator, moment

_API = ("api", "v1", "queries", "saved")
_PAGE = 1000


@click.command("saved")
@click.argument("name", required=False)
@click.pass_obj
def query_saved(operator: Operator, name: str | None) -> None:
    """List the saved queries, or show one."""
    if name is not None:
        _show(operator, operator.call(lambda client: client.get(*_API, name)))
        return
    rows = operator.call(lambda client: client.get(*_API, limit=_PAGE))["saved"]
    if not operator.as_json:
        for each in rows:
            each["saved_at"] = moment(each["saved_at"])
            each["target"] = each["target"].get("where") or each["target"] or ""
    columns = {
        "name": "NAME",
        "description": "DESCRIPTION",
        "target": "TARGET",
        "saved_by": "BY",
        "saved_at": "SAVED",
        "sql": "SQL",
    }
    operator.rows(rows, columns)


@click.command("save")
@click.argument("name")
@click.argument("sql")
@click.option("--description", default="", help="What it is good for.")
@click.option("--where", default="", help="Whom it is meant for, unless somebody says otherwise: platform:linux.")
@click.option("--discovery", default="", help="A query that must give a row on a node first.")
@click.option("--replace", is_flag=True, help="In the place of the one of this name.")
@click.option("--no-check", is_flag=True, help="Keep also what osquery's own tables cannot answer.")
@click.pass_obj
def query_save(
    operator: Operator,
    name: str,
    sql: str,
    description: str,
    where: str,
    discovery: str,
    replace: bool,
    no_check: bool,
) -> None:
    """
    Keep a query under a name, for every operator.

    `osqtwist query run @NAME` asks it.
    """
    body: dict[str, Any] = {"name": name, "sql": sql, "description": description, "discovery": discovery}
    body |= {"target": {"where": where} if where else {}, "replace": replace, "check": not no_check}
    _show(operator, operator.call(lambda client: client.post(*_API, body=body)))


@click.command("forget")
@click.argument("name")
@click.pass_obj
def query_forget(operator: Operator, name: str) -> None:
    """Keep a saved query no more; what was asked stays."""
    operator.fields(operator.call(lambda client: client.post(*_API, name, "forget")))


def _show(operator: Operator, found: dict[str, Any]) -> None:
    if not operator.as_json:
        found["saved_at"] = moment(found["saved_at"])
    operator.fields(found)
