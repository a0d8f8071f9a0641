"""``osqtwist flags``."""

from __future__ import annotations

import click

from osqtwist.cli.console import Operator
from osqtwist.nodeplatforms import PLATFORMS


@click.command()
@click.option(
    "--for",
    "platform",
    type=click.Choice(sorted(PLATFORMS)),
    help="For osquery's packages there, with notes on where files go; for this machine if not given.",
)
@click.option("--hostname", default="", metavar="HOST[:PORT]", help="Of the server as nodes see it; port 443 without.")
@click.pass_obj
def flags(operator: Operator, platform: str | None, hostname: str) -> None:
    """Print an osqueryd flagfile that works with the running server."""
    wanted: dict[str, str | None] = {"platform": platform, "hostname": hostname}
    given: dict[str, str | int] = {name: text for name, text in wanted.items() if text}
    click.echo(operator.call(lambda client: client.get_bytes("api", "v1", "flags", **given)), nl=False)
