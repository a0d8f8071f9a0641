"""``osqtwist log`` and ``carve``."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from osqtwist.cli.console import REFUSED, Operator, moment, plain, visible

_API = ("api", "v1")


@click.group()
def log() -> None:
    """The log buffer."""


@log.command("tail")
@click.option("--from-start", is_flag=True, help="Begin with what the buffer holds already.")
@click.option("--no-follow", is_flag=True, help="End at the newest line; implies --from-start.")
@click.option(
    "--when", default="", metavar="EXPRESSION", help="These lines only, as in: log_type:status and node:web-*"
)
@click.pass_obj
def log_tail(operator: Operator, from_start: bool, no_follow: bool, when: str) -> None:
    """Print log lines as they come, with the proven identity of their node."""

    def show(line: dict[str, Any]) -> None:
        if operator.as_json:
            click.echo(json.dumps(line))
            return
        who = f"{plain(line['name'])} ({'certificate' if line['identity'] else 'key'})"
        click.echo(visible(f"{who} {line['log_type']} {json.dumps(line['line'], ensure_ascii=False)}"))
        sys.stdout.flush()

    operator.call(
        lambda client: client.stream(
            "GET",
            *_API,
            "logs",
            on_line=show,
            follow=int(not no_follow),
            when=when,
            **{"from": "start" if from_start or no_follow else "now"},
        )
    )


@log.command("dead")
@click.pass_obj
def log_dead(operator: Operator) -> None:
    """Print the dead letters: lines that cannot be delivered, and why."""
    operator.call(
        lambda client: client.stream("GET", *_API, "logs", "dead", on_line=lambda line: click.echo(json.dumps(line)))
    )


@log.command("servers")
@click.pass_obj
def log_servers(operator: Operator) -> None:
    """List the Redis servers that hold log lines: how full each is, and whether one that is drained is empty."""
    columns = {
        "server": "SERVER",
        "state": "STATE",
        "batches": "BATCHES",
        "bytes": "BYTES",
        "budget_bytes": "BUDGET",
        "lag_lines": "LAG",
        "dead_letters": "DEAD",
        "sink_dead_letters": "SINKS' DEAD",
    }
    operator.rows(operator.call(lambda client: client.get(*_API, "logs", "servers"))["servers"], columns)


@log.command("trim")
@click.option("--older-than", type=click.FloatRange(min=0), required=True, help="Seconds.")
@click.pass_obj
def log_trim(operator: Operator, older_than: float) -> None:
    """Delete old batches from the log buffer, to make room."""
    operator.fields(operator.call(lambda client: client.post(*_API, "logs", "trim", body={"older_than": older_than})))


@click.group()
def carve() -> None:
    """Carved files."""


@carve.command("list")
@click.pass_obj
def carve_list(operator: Operator) -> None:
    """List carves, newest first."""
    carves = operator.call(lambda client: client.get(*_API, "carves"))["carves"]
    if not operator.as_json:
        for each in carves:
            each["started_at"] = moment(each["started_at"])
            each["progress"] = f"{each['received_blocks']}/{each['blocks']}"
    operator.rows(
        carves,
        {
            "carve": "CARVE",
            "name": "NODE",
            "size": "BYTES",
            "progress": "BLOCKS",
            "started_at": "STARTED",
            "sha256": "SHA-256",
            "file": "FILE",
        },
    )


@carve.command("get")
@click.argument("carve_id")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it; by default its own name.")
@click.pass_obj
def carve_get(operator: Operator, carve_id: str, output: Path | None) -> None:
    """Write the file of a complete carve, and check its SHA-256."""
    digest = hashlib.sha256()
    chosen: list[Path] = []

    async def fetch(client: Any) -> str:
        carves = (await client.get(*_API, "carves"))["carves"]
        named = [each for each in carves if carve_id in (each["carve"], each["carve_id"], each["file"])]
        path = output or Path(named[0]["file"] if named and named[0]["file"] else f"{carve_id}.carve")
        chosen.append(path)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:

            def keep(data: bytes) -> None:
                digest.update(data)
                file.write(data)

            try:
                headers = await client.save(keep, *_API, "carves", carve_id, "file")
            except BaseException:
                partial.unlink()
                raise
        expected: str = headers.getRawHeaders("X-Carve-SHA256", [""])[0]
        if expected == digest.hexdigest():
            partial.replace(path)
        return expected

    expected = operator.call(fetch)
    if expected != digest.hexdigest():
        click.echo(f"osqtwist: the SHA-256 of {chosen[0]}.partial is not {expected}", err=True)
        sys.exit(REFUSED)
    operator.fields({"file": str(chosen[0]), "sha256": expected})
