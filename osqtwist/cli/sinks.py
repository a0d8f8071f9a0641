"""``osqtwist sink``."""

from __future__ import annotations

import json

import click

from osqtwist.cli.console import Operator
from osqtwist.cli.times import Moment

_API = ("api", "v1", "sinks")


@click.group()
def sink() -> None:
    """Log sinks: where log lines go."""


@sink.command("list")
@click.pass_obj
def sink_list(operator: Operator) -> None:
    """List the sinks: what is still to be delivered, and what is wrong."""
    rows = operator.call(lambda client: client.get(*_API))["sinks"]
    columns = {
        "sink": "SINK",
        "kind": "KIND",
        "state": "STATE",
        "lag_lines": "LAG",
        "lag_bytes": "BYTES",
        "lag_seconds": "SECONDS",
        "rate": "LINES/S",
        "lines": "LINES",
        "refused": "REFUSED",
        "dead_letters": "DEAD",
        "failures": "FAILURES",
        "trouble": "TROUBLE",
    }
    operator.rows(rows, columns)


@sink.command("pause")
@click.argument("name")
@click.pass_obj
def sink_pause(operator: Operator, name: str) -> None:
    """Stop delivering to a sink; its lines wait in the log buffer."""
    operator.fields(operator.call(lambda client: client.post(*_API, name, "pause")))


@sink.command("resume")
@click.argument("name")
@click.pass_obj
def sink_resume(operator: Operator, name: str) -> None:
    """Go on delivering."""
    operator.fields(operator.call(lambda client: client.post(*_API, name, "resume")))


@sink.command("replay")
@click.argument("name")
@click.option("--since", type=Moment(is_past=True), help="Lines received since: 2h (ago), Unix seconds, or ISO 8601.")
@click.option("--after", default="", help="Lines after this batch, by its id.")
@click.option("--dead", is_flag=True, help="The lines that the sink refused.")
@click.pass_obj
def sink_replay(operator: Operator, name: str, since: float | None, after: str, dead: bool) -> None:
    """Deliver again what the log buffer still holds; event ids stay the same."""
    if sum((since is not None, bool(after), dead)) != 1:
        raise click.UsageError("say one of --since, --after and --dead")
    body = {"dead": True} if dead else {"after": after} if after else {"since": since}
    operator.fields(operator.call(lambda client: client.post(*_API, name, "replay", body=body)))


@sink.command("dead")
@click.argument("name")
@click.pass_obj
def sink_dead(operator: Operator, name: str) -> None:
    """Print the lines that a sink refused, and why."""
    operator.call(
        lambda client: client.stream("GET", *_API, name, "dead", on_line=lambda line: click.echo(json.dumps(line)))
    )


@sink.command("forget")
@click.argument("name")
@click.pass_obj
def sink_forget(operator: Operator, name: str) -> None:
    """Delete a sink's cursor and dead letters; the log buffer keeps nothing for it any more."""
    operator.fields(operator.call(lambda client: client.post(*_API, name, "forget")))
