"""``osqtwist alert``."""

from __future__ import annotations

from typing import Any

import click

from osqtwist.cli.console import Operator, moment, plain

_API = ("api", "v1", "alerts")


@click.group()
def alert() -> None:
    """Alerts: rules of the settings, and when not to be told."""


@alert.command("list")
@click.pass_obj
def alert_list(operator: Operator) -> None:
    """List alert rules, with how many alerts each raised, did not repeat within its window, and kept quiet about."""
    columns = {"rule": "RULE", "severity": "SEVERITY", "raised": "RAISED", "repeated": "REPEATED"}
    columns |= {"silenced": "SILENCED", "when": "WHEN"}
    operator.rows(operator.call(lambda client: client.get(*_API))["rules"], columns)


@alert.command("silences")
@click.pass_obj
def alert_silences(operator: Operator) -> None:
    """List the silences in force."""
    rows = operator.call(lambda client: client.get(*_API))["silences"]
    if not operator.as_json:
        for each in rows:
            each["until"] = moment(each["until"])
    columns = {
        "silence_id": "SILENCE",
        "rule": "RULE",
        "when": "WHEN",
        "until": "ENDS",
        "created_by": "BY",
        "why": "WHY",
    }
    operator.rows(rows, columns)


@alert.command("silence")
@click.argument("rule", default="")
@click.option("--when", default="", help="Only lines of this expression: node:web-* and name:usb_devices.")
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True)
@click.option("--why", default="", help="Kept with it.")
@click.pass_obj
def alert_silence(operator: Operator, rule: str, when: str, hours: float, why: str) -> None:
    """Be told of no alerts of a rule, or of lines, for a time."""
    body = {"rule": rule, "when": when, "seconds": hours * 3600, "why": why}
    operator.fields(operator.call(lambda client: client.post(*_API, "silences", body=body)))


@alert.command("unsilence")
@click.argument("silence")
@click.pass_obj
def alert_unsilence(operator: Operator, silence: str) -> None:
    """Be told of them again."""
    operator.fields(operator.call(lambda client: client.post(*_API, "silences", silence, "end")))


@alert.command("test")
@click.argument("rule", default="")
@click.option("--when", default="", help="An expression that is no rule yet.")
@click.option("--hours", type=click.FloatRange(min=0.001), default=1.0, show_default=True, help="Of the log buffer.")
@click.pass_obj
def alert_test(operator: Operator, rule: str, when: str, hours: float) -> None:
    """Say what rules would have said of the lines that are in the log buffer; nobody is told."""

    def show(line: dict[str, Any]) -> None:
        if operator.as_json:
            operator.json(line)
        elif line["type"] == "alert":
            again = "" if line["first_of_group"] else " (again)"
            click.echo(f"{line['severity']}\t{line['rule']}\t{plain(line['text'])}{again}")
        elif line["type"] == "error":
            raise click.ClickException(line["error"])
        else:
            click.echo(f"{line['raised']} alerts of {line['groups']} groups in {line['lines']} lines", err=True)

    words: dict[str, str | int] = {"rule": rule, "when": when, "seconds": max(1, int(hours * 3600))}
    operator.call(lambda client: client.stream("GET", *_API, "trial", on_line=show, body=None, **words))
