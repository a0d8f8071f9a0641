"""
The one statement of a text of SQL, and where in it things stand.

SQLite names what is wrong and not where; the places are found here, from the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import attrs

from osqtwist.layers import Severity
from osqtwist.sqltokens import Token, place_in, tokenize

MAX_LENGTH = 64 * 1024
"""Bytes of SQL that are looked at."""
MAX_NESTING = 99
"""Parentheses in each other: the parser of osquery's SQLite has a stack of 100 (3.42), and each takes a place in it."""
_SHOWN = 60

_QUERIES = ("SELECT", "WITH", "VALUES", "PRAGMA")
_OTHERS = (
    *("ALTER", "ANALYZE", "ATTACH", "BEGIN", "COMMIT", "CREATE", "DELETE", "DETACH", "DROP", "END", "INSERT"),
    *("REINDEX", "RELEASE", "REPLACE", "ROLLBACK", "SAVEPOINT", "UPDATE", "VACUUM"),
)
_COMPARISONS = (
    *("=", "==", "!=", "<>", "<", "<=", ">", ">="),
    *("IN", "LIKE", "GLOB", "IS", "BETWEEN", "MATCH", "NOT", "REGEXP"),
)
_ENDS_OF_FROM = (
    *("SELECT", "VALUES", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT"),
    *("UNION", "EXCEPT", "INTERSECT"),
)
_FAR = 8


@attrs.frozen
class SQLProblem:
    """
    Something wrong with SQL.

    :ivar line: where it is, from 1, as :attr:`column`; 0 if that is not known.
    """

    text: str
    severity: Severity = "error"
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.text
        where = f"column {self.column}" if self.line == 1 else f"line {self.line}, column {self.column}"
        return f"{where}: {self.text}"


class Refused(Exception):
    """A text is not looked at any further."""

    def __init__(self, problem: SQLProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@attrs.frozen
class Statement:
    """The one SELECT of a text, with the place of each token in the whole."""

    sql: str
    tokens: list[Token]

    @classmethod
    def cut(cls, sql: str) -> Statement:
        """
        The statement of a text, without what is before or behind it.

        :raise Refused: it is empty, no query, or more than one.
        """
        try:
            length = len(sql.encode())
        except UnicodeEncodeError:
            raise Refused(SQLProblem("it holds half a character, which is not Unicode")) from None
        if length > MAX_LENGTH:
            raise Refused(SQLProblem(f"it is {length} bytes long; only up to {MAX_LENGTH} are checked", "warning"))
        if "\0" in sql:
            raise Refused(SQLProblem("it holds a NUL", "error", *place_in(sql, sql.index("\0"))))
        tokens = tokenize(sql)
        ends = [number for number, token in enumerate(tokens) if token.says(";")]
        kept = tokens[: ends[0]] if ends else tokens
        if not kept:
            raise Refused(SQLProblem("there is no SQL in it"))
        for token in tokens[len(kept) :]:
            if not token.says(";"):
                # osquery runs them all and puts the rows of all in one answer, whatever their columns.
                raise _refused(sql, token, "one query is one statement, and here begins another")
        if kept[0].says("EXPLAIN"):
            kept = kept[3:] if len(kept) > 1 and kept[1].says("QUERY") else kept[1:]
            if not kept:
                raise Refused(SQLProblem("it explains nothing"))
        if kept[0].text.upper() in _OTHERS:
            raise _refused(sql, kept[0], f"{kept[0].text.upper()} is not for queries, which only read")
        if not kept[0].says(*_QUERIES):
            raise _refused(sql, kept[0], f"syntax error near {short(kept[0].text)}")
        cls._check_tokens(sql, kept)
        # What was before the SELECT becomes blanks, so that places stay as they are.
        return cls(re.sub(r"[^\n]", " ", sql[: kept[0].start]) + sql[kept[0].start : kept[-1].end], kept)

    @staticmethod
    def _check_tokens(sql: str, tokens: list[Token]) -> None:
        depth = 0
        for token in tokens:
            depth += token.says("(") - token.says(")")
            if depth > MAX_NESTING:
                raise _refused(sql, token, f"more than {MAX_NESTING} parentheses in each other")
            if token.kind == "variable":
                raise _refused(sql, token, f"osquery has no value for the variable {short(token.text)}")

    def problem(self, text: str, severity: Severity = "error", token: Token | None = None) -> SQLProblem:
        """A problem with a token, or with what stands nowhere."""
        return SQLProblem(text, severity, *(place_in(self.sql, token.start) if token else ()))

    def find(self, name: str) -> Token | None:
        """The first place of a name, which may have parts: ``p.pid``."""
        parts = name.lower().split(".")
        for number in range(len(self.tokens)):
            found = self.tokens[number : number + 2 * len(parts) - 1]
            if [token.name for token in found[::2]] == parts and all(token.says(".") for token in found[1::2]):
                return found[-1]
        return None


def sources(tokens: Sequence[Token]) -> Iterator[Token]:
    """
    The tokens that stand where a table, a view or a CTE is named: in a FROM, and after IN.

    Where it is not certain what a word is, it is among them.
    """
    outer: list[bool] = []
    in_from, awaits = False, ""  # `awaits`: the word after which the next name is a source.
    before, named, after_what = Token("bad", "", 0), Token("bad", "", 0), ""
    for token in tokens:
        if token.says("("):
            outer.append(in_from)
            in_from = awaits == "FROM"
            awaits = awaits if in_from else ""
        elif token.says(")"):
            in_from, awaits = (outer.pop() if outer else False), ""
        elif token.says("FROM") and not before.says("DISTINCT"):
            in_from, awaits = True, "FROM"
        elif token.says("JOIN", ",") and in_from:
            awaits = "FROM"
        elif token.says("IN"):
            awaits = "IN"
        elif token.says(*_ENDS_OF_FROM) or (token.says("WITH") and before.says("(")):
            in_from, awaits = False, ""
        elif token.says(".") and before is named:
            awaits = after_what  # `schema.table` names its table second.
        elif awaits and token.name:
            yield token
            named, after_what, awaits = token, awaits, ""
        else:
            awaits = ""
        before = token


def ctes(tokens: Sequence[Token]) -> Iterator[str]:
    """The names that a WITH gives, perhaps with some that it does not."""
    opened: list[int] = []
    closed: dict[int, int] = {}
    for number, token in enumerate(tokens):
        if token.says("("):
            opened.append(number)
        elif token.says(")") and opened:
            closed[number] = opened.pop()
        elif token.says("AS") and any(
            after.says("(", "NOT", "MATERIALIZED") for after in tokens[number + 1 : number + 2]
        ):
            yield tokens[closed.get(number - 1, number) - 1].name


def constrained(tokens: Sequence[Token]) -> Iterator[str]:
    """
    The names that stand beside a comparison or in a USING.

    Whose columns they are is not asked: a warning that is wrong is worse than one that is missing.
    """
    in_using = False
    for number, token in enumerate(tokens):
        if token.says("USING"):
            in_using = True
        elif token.says(")"):
            in_using = False
        if token.kind not in ("word", "name"):
            continue
        after, before = number + 1, number - 1
        for _ in range(_FAR):
            if after < len(tokens) and (tokens[after].says(")", "COLLATE") or tokens[after - 1].says("COLLATE")):
                after += 1
            if before > 0 and (tokens[before].says("(", ".") or tokens[before + 1].says(".")):
                before -= 1
        beside = [tokens[place] for place in (before, after) if 0 <= place < len(tokens)]
        if in_using or any(each.says(*_COMPARISONS) for each in beside):
            yield token.name


def _refused(sql: str, token: Token, text: str) -> Refused:
    return Refused(SQLProblem(text, "error", *place_in(sql, token.start)))


def short(text: str, length: int = _SHOWN) -> str:
    """A piece of somebody's SQL, fit for one line of text."""
    text = " ".join(text.split())
    shown = text if len(text) <= length else text[: length - 1] + "…"
    return "".join(letter if letter.isprintable() else "?" for letter in shown)
