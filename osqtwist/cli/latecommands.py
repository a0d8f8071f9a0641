"""A group of commands that are imported when they are used: starting `osqtwist` does not cost what it leaves alone."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LateCommands(click.Group):
    """
    A group whose commands stand in modules of their own.

    :ivar late: ``module:attribute`` by the name of the command, in the order in which help lists them.
    """

    def __init__(self, *args: Any, late: Mapping[str, str], **more: Any) -> None:
        super().__init__(*args, **more)
        self.late = dict(late)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command there is, in order."""
        return [*self.late, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now if it was not before; nothing where there is none of that name."""
        if (place := self.late.get(cmd_name)) is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def every_command(self) -> dict[str, click.Command]:
        """All of them by name, imported."""
        context = click.Context(self)
        return {name: command for name in self.list_commands(context) if (command := self.get_command(context, name))}
