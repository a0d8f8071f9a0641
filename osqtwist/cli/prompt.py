"""
``osqtwist query prompt``: SQL, asked of nodes.

The line editor is prompt_toolkit, not Python's readline: a statement over several lines is one thing to edit and one
entry of the history, completions are shown while one types, and it is the same everywhere, where Python's readline is
now GNU's, now libedit, now missing.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import click
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from osqtwist.adminclient import AdminClient, AdminRefused, AdminUnreachable, Door
from osqtwist.cli.console import Operator, visible
from osqtwist.cli.promptrows import PromptRows
from osqtwist.cli.promptwords import COMMANDS, MODES, is_whole
from osqtwist.osqueryschema import schema, suggestion, table_names
from osqtwist.targeting import BadTarget, Target

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

_RUN = ("api", "v1", "queries", "run")
_LONGEST_TIMEOUT = 86400.0


class Lines(Protocol):
    """Where statements and commands come from."""

    def __iter__(self) -> Iterator[str]:
        """Each, whole, until there are no more."""


@attrs.define
class Connection:
    """Calls to the server, of a reactor in a thread of its own: the main thread is the one that gets Ctrl-C."""

    door: Door
    _reactor: ReactorBase = attrs.field(init=False)
    _thread: threading.Thread = attrs.field(init=False)

    def __enter__(self) -> Connection:
        from twisted.internet import reactor  # noqa: PLC0415 - the edge where the reactor comes from

        self._reactor = reactor  # type: ignore[assignment]
        self._thread = threading.Thread(target=lambda: self._reactor.run(installSignalHandlers=False), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._reactor.callFromThread(self._reactor.stop)
        self._thread.join(5)

    def call(self, work: Callable[[AdminClient], Awaitable[Any]]) -> Any:
        """
        What some calls give.

        :raise AdminRefused: the server does not want it.
        :raise AdminUnreachable: it does not answer.
        :raise KeyboardInterrupt: it was broken off by Ctrl-C; the server has been told.
        """
        outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()
        running: list[Deferred[Any]] = []

        async def calls() -> Any:
            return await work(AdminClient(self._reactor, self.door))

        def begin() -> None:
            running.append(Deferred.fromCoroutine(calls()))
            running[0].addBoth(outcome.put)

        def break_off() -> None:
            running[0].cancel()

        self._reactor.callFromThread(begin)
        try:
            result = outcome.get()
        except KeyboardInterrupt:
            self._reactor.callFromThread(break_off)
            outcome.get()
            raise
        if isinstance(result, Failure):
            result.raiseException()
        return result


@attrs.define
class Prompt:
    """What is asked of whom, and how rows are printed; each can be changed by a command."""

    operator: Operator
    connection: Connection
    target: Target
    timeout: float
    mode: str

    def run(self, lines: Lines) -> bool:
        """Answer statements and commands until there are no more, or ``.exit``; whether all went well."""
        is_good = True
        for text in lines:
            try:
                stripped = text.strip()
                if stripped.startswith("."):
                    command, _, words = stripped.partition(" ")
                    if command in (".exit", ".quit"):
                        break
                    is_good &= self._command(command, words.strip())
                elif stripped.rstrip("; \n"):
                    is_good &= self._ask(stripped.rstrip("; \n"))
            except KeyboardInterrupt:
                click.echo("cancelled", err=True)
            except (AdminRefused, AdminUnreachable) as problem:
                click.echo(visible(f"osqtwist: {problem}"), err=True)
                is_good = False
        return is_good

    def _ask(self, sql: str) -> bool:
        rows = PromptRows(self.operator.console, self.mode)
        target = {"nodes": self.target.nodes, "where": self.target.where}
        body = {"sql": sql, "target": target, "expires_in": self.timeout}
        began = time.monotonic()
        self.connection.call(lambda client: client.stream("POST", *_RUN, on_line=rows.take, body=body))
        if rows.error:
            raise AdminRefused(rows.error)
        rows.finish(time.monotonic() - began)
        return bool(rows.answered) and not rows.failed

    def _command(self, command: str, words: str) -> bool:
        work = {
            ".help": self._help,
            ".mode": self._set_mode,
            ".schema": self._schema,
            ".tables": self._tables,
            ".target": self._set_target,
            ".timeout": self._set_timeout,
        }.get(command)
        if work is None:
            click.echo(f"there is no command {command}{suggestion(command, COMMANDS)} (.help lists them)", err=True)
            return False
        problem = work(words)
        if problem:
            click.echo(visible(str(problem)), err=True)
        return not problem

    def _help(self, words: str) -> str:
        click.echo("SQL up to a ; is asked of the target; Ctrl-C calls it off.")
        for command, text in COMMANDS.items():
            click.echo(f"{command:<9} {text}")
        return ""

    def _set_mode(self, words: str) -> str:
        if words and words not in MODES:
            return f"there is no mode {words}: {', '.join(MODES)}"
        self.mode = words or self.mode
        click.echo(f"mode {self.mode}")
        return ""

    def _schema(self, words: str) -> str:
        table = schema().find(words)
        if table is None:
            return f"osquery has no table {words}{suggestion(words, table_names())}"
        click.echo(f"{table.name} ({', '.join(sorted(table.platforms))})")
        for column in table.columns:
            more = [text for text, says in (("required", column.is_required), ("hidden", column.is_hidden)) if says]
            click.echo(f"  {column.name} {column.type}{''.join(f', {text}' for text in more)}")
        return ""

    def _tables(self, words: str) -> str:
        found = [name for name in table_names() if words.lower() in name]
        click.echo("\n".join(found))
        return "" if found else f"no table has {words} in its name"

    def _set_target(self, words: str) -> str:
        try:
            if words:
                self.target = Target(where="" if words == "all" else words)
        except BadTarget as problem:
            return str(problem)
        click.echo(f"target {said(self.target)}")
        return ""

    def _set_timeout(self, words: str) -> str:
        try:
            seconds = float(words) if words else self.timeout
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= _LONGEST_TIMEOUT:
            return f"{words} is no number of seconds"
        self.timeout = seconds
        click.echo(f"timeout {self.timeout:g} s")
        return ""


def said(target: Target) -> str:
    """A target as a person writes it."""
    return target.where or " ".join(target.nodes) or "all"


@attrs.frozen
class PipedLines:
    """Statements of a file or a pipe; what is not whole at its end is sent as it is."""

    texts: Iterator[str]

    def __iter__(self) -> Iterator[str]:
        text = ""
        for line in self.texts:
            text += line
            if is_whole(text):
                yield text
                text = ""
        yield text


def _history_file() -> Path:
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "osqtwist"
    return folder / "query-history"


@click.command("prompt")
@click.option("--node", "nodes", multiple=True, help="Id, name or host identifier; * and ? match. Repeatable.")
@click.option("--where", default="", help="Nodes of this expression: platform:linux and not tag:prod.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=15.0, show_default=True, help="Seconds to wait.")
@click.option("--mode", type=click.Choice(MODES), default="table", show_default=True, help="How rows are printed.")
@click.option("--history", type=click.Path(path_type=Path), default=_history_file, help="Where the history is kept.")
@click.pass_obj
def query_prompt(
    operator: Operator, nodes: tuple[str, ...], where: str, timeout: float, mode: str, history: Path
) -> None:
    """
    Ask nodes one thing after another: SQL up to a semicolon, with tables and columns completed by Tab.

    .help lists the commands; Ctrl-C calls a running query off, Ctrl-D leaves.  From a pipe it reads statements, and the
    exit status is 1 if something did not go well.
    """
    try:
        target = Target(nodes=nodes, where=where)
    except BadTarget as problem:
        raise click.UsageError(str(problem)) from None
    with Connection(operator.door) as connection:
        prompt = Prompt(operator, connection, target, timeout, "json" if operator.as_json else mode)
        if not sys.stdin.isatty():
            sys.exit(0 if prompt.run(PipedLines(iter(sys.stdin))) else 1)
        # It takes a while to import.
        from osqtwist.cli.prompteditor import EditedLines  # noqa: PLC0415

        prompt.run(EditedLines.with_history(history, lambda: said(prompt.target)))
