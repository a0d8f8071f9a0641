"""What can come next in a text of SQL, and whether the text is whole: for the prompt."""

from __future__ import annotations

import re

from osqtwist.osqueryschema import schema, table_names
from osqtwist.sqlstatement import sources
from osqtwist.sqltokens import Token, tokenize

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

_KEYWORDS = (
    *("SELECT", "FROM", "WHERE", "AND", "OR", "NOT", "IN", "LIKE", "GLOB", "BETWEEN", "IS", "NULL", "AS", "ON"),
    *("JOIN", "LEFT", "INNER", "CROSS", "USING", "GROUP", "BY", "HAVING", "ORDER", "LIMIT", "OFFSET", "DISTINCT"),
    *("UNION", "ALL", "EXCEPT", "INTERSECT", "WITH", "CASE", "WHEN", "THEN", "ELSE", "END", "CAST", "EXISTS"),
    *("ASC", "DESC", "VALUES", "COLLATE"),
)
_LAST = re.compile(r"(?:([A-Za-z_]\w*)\.)?([A-Za-z_]\w*)?\Z")
_BEFORE_TABLE = ("FROM", "JOIN")


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
    found = _LAST.search(before)
    qualifier, begun = (found[1] or "", found[2] or "") if found else ("", "")
    tokens = tokenize(text)
    tables = _tables(tokens)
    if qualifier:
        named = [tables.get(qualifier.lower(), qualifier.lower())]
        return _begun(begun, _columns(named)), len(begun)
    earlier = tokenize(before[: len(before) - len(begun)])
    if earlier and (earlier[-1].says(*_BEFORE_TABLE)):
        return _begun(begun, list(table_names())), len(begun)
    known = schema()
    words = [*_columns(list(tables.values())), *_keywords(begun), *known.functions, *table_names()]
    return (_begun(begun, words) if begun else _columns(list(tables.values()))), len(begun)


def _command_completions(before: str) -> tuple[list[str], int]:
    command, space, rest = before.partition(" ")
    if not space:
        return _begun(command, list(COMMANDS)), len(command)
    words = {".mode": list(MODES), ".schema": list(table_names())}.get(command, [])
    return _begun(rest.strip(), words), len(rest.strip())


def _tables(tokens: list[Token]) -> dict[str, str]:
    """The tables that are named, by their names and aliases."""
    found = {}
    for source in sources(tokens):
        if schema().find(source.name) is None:
            continue
        found[source.name] = source.name
        behind = tokens[tokens.index(source) + 1 :][:2]
        if behind and behind[0].says("AS"):
            behind = behind[1:]
        if behind and behind[0].name and behind[0].text.upper() not in _KEYWORDS:
            found[behind[0].name] = source.name
    return found


def _columns(tables: list[str]) -> list[str]:
    found: dict[str, None] = {}
    for name in tables:
        if table := schema().find(name):
            found.update(dict.fromkeys(column.name for column in table.columns if not column.is_hidden))
    return list(found)


def _keywords(begun: str) -> list[str]:
    return [word.lower() for word in _KEYWORDS] if begun.islower() else list(_KEYWORDS)


def _begun(begun: str, words: list[str]) -> list[str]:
    return list(dict.fromkeys(word for word in words if word.lower().startswith(begun.lower())))
