"""What all sub-commands share: where the server is, how a call runs, and how things are printed."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

import attrs
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from osqtwist.adminclient import AdminClient, AdminRefused, AdminUnreachable, Door

REFUSED, UNREACHABLE, WAITING = 1, 3, 4
"""Exit statuses, as in ``docs/command.md``."""


def _console() -> Console:
    # In a pipe there is no width to keep to: cut lines would only be harder to grep.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 400)


@attrs.define
class Operator:
    """
    One run of the command.

    :ivar door: where the server is.
    :ivar as_json: whether a program reads the output.
    """

    door: Door
    as_json: bool
    console: Console = attrs.field(factory=_console)

    def call(self, work: Callable[[AdminClient], Awaitable[Any]]) -> Any:
        """
        Run some calls to the server, with a reactor of their own, and answer with what they give.

        Ctrl-C ends them cleanly.  A refusal, or that no server answers, ends the process with one sentence.
        """
        from twisted.internet import reactor  # noqa: PLC0415 - the edge where the reactor comes from

        outcome: list[Any] = []

        async def calls() -> Any:
            return await work(AdminClient(reactor, self.door))

        loop: Any = reactor
        running = Deferred.fromCoroutine(calls())
        running.addBoth(outcome.append)
        ending: list[bool] = []

        def stop(_: Any) -> None:
            if loop.running and not ending:
                loop.stop()

        def end() -> None:
            # By a signal: the reactor stops already.
            ending.append(True)
            running.cancel()

        running.addBoth(stop)
        if not outcome:
            loop.addSystemEventTrigger("before", "shutdown", end)
            loop.run()
        result = outcome[0]
        if isinstance(result, Failure):
            self._give_up(result)
        return result

    def rows(self, items: Sequence[dict[str, Any]], columns: dict[str, str]) -> None:
        """Print items: the columns named (field to heading), or all of them as JSON."""
        if self.as_json:
            self.json(list(items))
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in columns.values():
            table.add_column(heading, overflow="fold")
        for item in items:
            table.add_row(*(shown(item.get(field)) for field in columns))
        self.console.print(table)

    def fields(self, item: dict[str, Any]) -> None:
        """Print one thing, a field a line, or as JSON."""
        if self.as_json:
            self.json(item)
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        for field, value in item.items():
            table.add_row(Text(field), _time(value) if field.endswith("_at") and value else shown(value))
        self.console.print(table)

    def json(self, item: Any) -> None:
        """Print JSON, one value."""
        click.echo(json.dumps(item, indent=None if not sys.stdout.isatty() else 2))

    def _give_up(self, failure: Failure) -> NoReturn:
        problem = failure.value
        if isinstance(problem, AdminUnreachable):
            click.echo(visible(f"osqtwist: {problem}"), err=True)
            sys.exit(UNREACHABLE)
        if isinstance(problem, AdminRefused):
            click.echo(visible(f"osqtwist: {problem}"), err=True)
            sys.exit(REFUSED)
        if failure.check(CancelledError):
            sys.exit(130)
        failure.raiseException()
        raise AssertionError


def plain(value: Any) -> str:
    """A value as a person reads it, with control characters made visible."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(plain(each) for each in value) or "-"
    return visible(json.dumps(value) if isinstance(value, dict) else str(value))


def visible(text: str) -> str:
    """
    A text in which nothing can be a command to the terminal, or turn its direction.

    Names and rows come from nodes, and what the server says may repeat them.
    """
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"


def shown(value: Any) -> Text:
    """The same for a cell of a table: nothing in it is markup."""
    return Text(plain(value))


def _time(value: Any) -> Text:
    if not isinstance(value, int | float):
        return shown(value)
    return Text(f"{datetime.datetime.fromtimestamp(value, datetime.UTC):%Y-%m-%d %H:%M:%SZ} ({moment(value)})")


def moment(value: float | None) -> str:
    """A Unix time as a person reads it: how long ago, or in how long."""
    if not value:
        return "never"
    ago = time.time() - value
    words = "{} ago" if ago >= -1 else "in {}"
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(ago) >= 2 * seconds:
            return words.format(f"{abs(ago) / seconds:.0f} {unit}")
    return words.format(f"{abs(ago):.0f} s")
