"""A stub until the next commit."""

import click


@click.command()
def reference() -> None:
    """The reference server's place."""
