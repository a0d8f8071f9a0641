"""What can come next at the prompt, and whether the text is whole."""

from __future__ import annotations

from osqtwist.osqueryschema import table_names
from osqtwist.sqltokens import tokenize
from osqtwist.sqlwords import completions as sql_completions

COMMANDS = {
    ".exit": "leave, as Ctrl-D does",
    ".help": "this list",
    ".mode": "table, csv, json or line: how rows are printed",
    ".schema": "the columns of a table: .schema users",
    ".tables": "the tables, or those with a word in their name: .tables docker",
    ".target": "whom to ask, as an expression: .target tag:prod and platform:linux; .target all",
    ".timeout": "how many seconds to wait for answers: .timeout 30",
}
MODES = ("table", "csv", "json", "line")


def is_whole(text: str) -> bool:
    """Whether a text can be sent: SQL up to its ``;``, a command in a line of its own, or nothing."""
    stripped = text.strip()
    if not stripped or stripped.startswith("."):
        return True
    tokens = tokenize(text)
    return bool(tokens) and tokens[-1].says(";")


def completions(text: str, before: str) -> tuple[list[str], int]:
    """
    What the word that is being typed can become, and how many letters of it are there already.

    :param text: all of it, also what is behind the cursor.
    :param before: what is before the cursor.
    """
    if before.lstrip().startswith("."):
        return _command_completions(before.lstrip())
    words, begun = sql_completions(text, before)
    return [word.text for word in words], begun


def _command_completions(before: str) -> tuple[list[str], int]:
    command, space, rest = before.partition(" ")
    if not space:
        return _begun(command, list(COMMANDS)), len(command)
    words = {".mode": list(MODES), ".schema": list(table_names())}.get(command, [])
    return _begun(rest.strip(), words), len(rest.strip())


def _begun(begun: str, words: list[str]) -> list[str]:
    return [word for word in words if word.lower().startswith(begun.lower())]
