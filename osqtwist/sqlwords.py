"""What can come next in a text of SQL: tables, columns, functions and keywords, for prompt and page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal

import attrs

from osqtwist.osqueryschema import Table, schema, table_names
from osqtwist.sqlstatement import sources
from osqtwist.sqltokens import Token, tokenize

Kind = Literal["table", "column", "function", "keyword"]

_KEYWORDS = (
    *("SELECT", "FROM", "WHERE", "AND", "OR", "NOT", "IN", "LIKE", "GLOB", "BETWEEN", "IS", "NULL", "AS", "ON"),
    *("JOIN", "LEFT", "INNER", "CROSS", "USING", "GROUP", "BY", "HAVING", "ORDER", "LIMIT", "OFFSET", "DISTINCT"),
    *("UNION", "ALL", "EXCEPT", "INTERSECT", "WITH", "CASE", "WHEN", "THEN", "ELSE", "END", "CAST", "EXISTS"),
    *("ASC", "DESC", "VALUES", "COLLATE"),
)
_LAST = re.compile(r"(?:([A-Za-z_]\w*)\.)?([A-Za-z_]\w*)?\Z")
_BEFORE_TABLE = ("FROM", "JOIN")
_COMMENT = re.compile(r"--[^\n]*\Z|/\*(?:(?!\*/).)*\Z", re.DOTALL)


@attrs.frozen
class Word:
    """
    A word that can stand there.

    :ivar says: what else there is to say of it, in a few words: a column's type and table, a table's platforms.
    """

    text: str
    kind: Kind
    says: str = ""


def completions(text: str, before: str) -> tuple[list[Word], int]:
    """
    What the word that is being typed can become, and how many letters of it are there already.

    Nothing inside a comment or a text in quotes.

    :param text: all of it, also what is behind the cursor.
    :param before: what is before the cursor.
    """
    if _is_inside(before):
        return [], 0
    found = _LAST.search(before)
    qualifier, begun = (found[1] or "", found[2] or "") if found else ("", "")
    tables = _tables(tokenize(text))
    if qualifier:
        named = [tables.get(qualifier.lower(), qualifier.lower())]
        return _begun(begun, _columns(named)), len(begun)
    earlier = tokenize(before[: len(before) - len(begun)])
    if earlier and earlier[-1].says(*_BEFORE_TABLE):
        return _begun(begun, _every_table()), len(begun)
    words = list(_columns(tables.values()))
    if begun:
        words += [*_keywords(begun), *_functions(), *_every_table()]
    return _begun(begun, words), len(begun)


def _is_inside(before: str) -> bool:
    tokens = tokenize(before)
    if tokens and tokens[-1].kind == "bad" and tokens[-1].text[0] in "'\"`[":
        return True
    return bool(_COMMENT.search(before[tokens[-1].end if tokens else 0 :]))


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


def _columns(tables: Iterable[str]) -> Iterator[Word]:
    for name in tables:
        if table := schema().find(name):
            for column in table.columns:
                if not column.is_hidden:
                    yield Word(column.name, "column", f"{column.type} of {table.name}")


def _every_table() -> Iterator[Word]:
    known = schema()
    return (Word(name, "table", _platforms(known.find(name))) for name in table_names())


def _platforms(table: Table | None) -> str:
    return ", ".join(sorted(table.platforms)) if table else ""


def _functions() -> Iterator[Word]:
    return (Word(name, "function") for name in schema().functions)


def _keywords(begun: str) -> Iterator[Word]:
    return (Word(word.lower() if begun.islower() else word, "keyword") for word in _KEYWORDS)


def _begun(begun: str, words: Iterable[Word]) -> list[Word]:
    found: dict[str, Word] = {}
    for word in words:
        if word.text.lower().startswith(begun.lower()):
            found.setdefault(word.text, word)
    return list(found.values())
