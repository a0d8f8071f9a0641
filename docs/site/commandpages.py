"""Every command with its options, as the command line itself has them."""

from __future__ import annotations

from collections.abc import Iterator

import click

from osqtwist.cli.main import main


def commands() -> str:
    """Markdown: a section for each command."""
    context = click.Context(main, info_name="osqtwist")
    return "\n".join(["## Every command", "", *_section(main, context, 2)]) + "\n"


def _section(command: click.Command, context: click.Context, depth: int) -> Iterator[str]:
    if depth > 2:
        yield f"{'#' * min(depth, 4)} {context.command_path}"
        yield ""
    yield from ["", (command.help or "").strip(), ""]
    if not isinstance(command, click.Group):
        yield from ["```text", context.command_path + " " + " ".join(command.collect_usage_pieces(context)), "```", ""]
    rows = [found for each in command.get_params(context) if (found := each.get_help_record(context))]
    rows = [row for row in rows if row[1] and "--help" not in row[0]]
    if rows:
        yield from ["| option | meaning |", "|---|---|"]
        yield from (f"| `{_cell(name)}` | {_cell(text)} |" for name, text in rows)
        yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _section(child, click.Context(child, info_name=name, parent=context), depth + 1)


def _cell(text: str) -> str:
    # In a cell's code a bar is escaped, and nothing else may be.
    return " ".join(text.split()).replace("|", "\\|").replace(" * ", " `*` ")
