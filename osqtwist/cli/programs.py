"""``osqtwist flags``."""

from __future__ import annotations

import click

from osqtwist.cli.console import Operator


@click.command()
@click.pass_obj
def flags(operator: Operator) -> None:
    """Print an osqueryd flagfile that works with the running server."""
    click.echo(operator.call(lambda client: client.get_bytes("api", "v1", "flags")), nl=False)
