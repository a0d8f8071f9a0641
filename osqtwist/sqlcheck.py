"""
What is wrong with the SQL of a query, before a node is asked to run it.

Errors are what osquery certainly refuses: SQL that is none, columns and functions that do not exist, what is no query.
Warnings are what some nodes may take: a table that is unknown here may be an extension's, and one that is not on all
platforms meant is still right on the others.  A column unknown of a known table is an error, since no extension adds
one; ``extra_tables`` is for those of a newer osquery.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import attrs

from osqtwist.emptydatabase import INTERNAL, EmptyDatabase, TooComplex
from osqtwist.layers import Severity
from osqtwist.osqueryschema import PLATFORMS, Column, Schema, Table, platforms_of, schema, suggestion, table_names
from osqtwist.sqlstatement import Refused, SQLProblem, Statement, constrained, ctes, short, sources
from osqtwist.sqltokens import Token, place_in

_MAX_CURES = 64
_NOWHERE = 2**31  # What stands nowhere comes last.

_Value = TypeVar("_Value")


class UncheckedSQL(ValueError):
    """It cannot be said what a text of SQL reads; one sentence why."""


@attrs.frozen
class Findings:
    """
    What there is to say about SQL.

    :ivar tables: what it may read, without SQLite's own: names of osquery's tables, aliases and views seen through, and
        names that are unknown here, in lower case.  A table whose name a WITH takes for itself is among them, and what
        stands in a part of the text that is never run.
    :ivar functions: what it may call, in lower case; ``carve`` makes a node carve just as the table ``carves`` does.
    :ivar is_complete: whether :attr:`tables` and :attr:`functions` are certainly all.
    """

    problems: tuple[SQLProblem, ...] = ()
    tables: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    is_complete: bool = False

    @property
    def errors(self) -> tuple[SQLProblem, ...]:
        """What osquery certainly refuses."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[SQLProblem, ...]:
        """What may be right."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")


def check_sql(
    sql: str,
    platforms: Sequence[str] | None = None,
    *,
    extra_tables: Mapping[str, Sequence[str]] | None = None,
    views: Mapping[str, str] | None = None,
    lenient: bool = False,
) -> Findings:
    """
    Everything wrong with the SQL of one query; takes about a millisecond, and some tenths of a second at most.

    :param platforms: those of the nodes that are asked, as in a target or in osquery's ``platform``; none is any.
    :param extra_tables: tables that an extension or ``auto_table_construction`` adds, to their columns; for a table of
        osquery, columns that it has besides.
    :param views: osquery's ``views``: names to SELECTs.
    :param lenient: a table that nobody knows is only a warning.
    """
    try:
        statement = Statement.cut(sql)
    except Refused as refused:
        return Findings((refused.problem,))
    study = _Study(statement, platforms_of(platforms or ()), "warning" if lenient else "error")
    try:
        return study.findings(_lower(extra_tables), _lower(views))
    except (TooComplex, MemoryError):
        return Findings((SQLProblem("it is too complex to be checked", "warning"),))


def tables_of(
    sql: str, *, extra_tables: Mapping[str, Sequence[str]] | None = None, views: Mapping[str, str] | None = None
) -> frozenset[str]:
    """
    The tables that SQL may read, through subqueries, CTEs, aliases and views; see :attr:`Findings.tables`.

    Whoever permits tables should permit those that are named, not forbid some: an unknown name may be a view that a
    node has from elsewhere.

    :raise UncheckedSQL: it cannot be said for certain; such SQL must not be let through.
    """
    findings = check_sql(sql, extra_tables=extra_tables, views=views, lenient=True)
    if not findings.is_complete:
        raise UncheckedSQL(str((findings.errors or findings.problems)[0]))
    return findings.tables


@attrs.define
class _Study:
    """One text, looked at."""

    statement: Statement
    platforms: frozenset[str] | None
    unknown_table: Severity
    schema: Schema = attrs.field(factory=schema)
    texts: list[list[Token]] = attrs.field(factory=list)
    problems: list[SQLProblem] = attrs.field(factory=list)

    def findings(self, extra_tables: Mapping[str, Sequence[str]], views: Mapping[str, str]) -> Findings:
        self.texts = [self.statement.tokens]
        seen = self._views(views)
        words = {token.name for text in self.texts for token in text if token.name}
        tables = {name: table for name in words - seen.keys() if (table := self._table(name, extra_tables))}

        def is_seen(column: Column) -> bool:
            # What the text names is there, to be warned of; else a `*` has what it has on the platforms meant.
            is_there = self.platforms is None or bool(column.platforms & self.platforms)
            return column.name.lower() in words or (is_there and not column.is_hidden)

        with EmptyDatabase.holding(self.schema, words, tables, seen, is_seen) as database:
            is_complete = self._cure(database)
            for name in sorted(database.functions_called - self.schema.sqlite_functions - self.schema.functions.keys()):
                self._unknown_function(name)
            if is_complete:
                self.problems += self._platform_warnings(database)
                self.problems += self._column_warnings(database, words)
                self.problems += self._condition_warnings(database)
            found = sorted(self.problems, key=lambda problem: (problem.line or _NOWHERE, problem.column))
            return Findings(tuple(found), self._tables(database, seen), self._functions(database), is_complete)

    def _tables(self, database: EmptyDatabase, views: Mapping[str, str]) -> frozenset[str]:
        """What SQLite says is read, and what stands where tables are named: see ``tables_read``."""
        own = {name for text in self.texts for name in ctes(text)}
        found = set(database.tables_read)
        for name in {token.name for text in self.texts for token in sources(text)} - INTERNAL - views.keys():
            if table := database.tables.get(name):
                found.add(table.name)
            elif name not in own and name not in ("main", "temp"):
                found.add(name)
        return frozenset(found)

    def _functions(self, database: EmptyDatabase) -> frozenset[str]:
        known = self.schema.functions.keys() | self.schema.sqlite_functions
        called = {
            token.name
            for text in self.texts
            for token, after in itertools.pairwise(text)
            if token.name in known and after.says("(")
        }
        return database.functions_called | called

    def _views(self, views: Mapping[str, str]) -> dict[str, str]:
        """The views that the text names, and those that they name; their tokens are looked at too."""
        seen: dict[str, str] = {}
        waiting = list(self.texts)
        while waiting:
            for name in {token.name for token in waiting.pop() if token.name in views} - seen.keys():
                seen[name] = ""
                with contextlib.suppress(Refused):
                    view = Statement.cut(views[name])
                    if self.schema.find(name) is None:
                        seen[name] = view.sql
                        waiting.append(view.tokens)
                        self.texts.append(view.tokens)
        return {name: select for name, select in seen.items() if select}

    def _table(self, name: str, extra_tables: Mapping[str, Sequence[str]]) -> Table | None:
        found = self.schema.find(name)
        more = extra_tables.get(name)
        if more is None:
            return found
        if found is None:
            found = Table(name, frozenset(PLATFORMS), ())
        return attrs.evolve(found, columns=(*found.columns, *(Column(each, "text", found.platforms) for each in more)))

    def _cure(self, database: EmptyDatabase) -> bool:
        """Name errors one by one, assuming each time what is missing; whether SQLite is content at last."""
        before = ""
        for _ in range(_MAX_CURES):
            error = database.prepare(self.statement.sql)
            if not error:
                return True
            try:
                if not self._is_cured(database, error, is_stubborn=error == before):
                    return False
            except sqlite3.Error:
                return False  # There cannot be what is missing.
            before = error
        return False

    def _is_cured(self, database: EmptyDatabase, error: str, *, is_stubborn: bool) -> bool:
        kind, _, name = error.partition(": ")
        lower = name.lower()
        if joined := re.match(r"cannot join using column (.*) - ", error):
            kind, name = "no such column", joined[1]
        if kind == "no such table":
            return self._assume_table(database, name)
        if kind == "no such function" and not is_stubborn:
            self._unknown_function(lower)
            database.assume_function(name)
            return True
        if kind == "no such column":
            column = name.rpartition(".")[2]
            for table, columns in database.assumed.items():
                # It may be a column of a table that nobody knows; SQLite says whether it can be.
                if column.lower() not in columns:
                    database.assume(table, column.lower())
                    return True
            known = {each.name for table in database.tables.values() for each in table.columns}
            self._add(f"there is no column {short(name)}{suggestion(column, known)}", self._find(name))
            return False
        syntax = self._syntax_problem(database, error)
        if syntax or not database.assumed:
            self.problems.append(syntax or self.statement.problem(_plain(error), "error", self._named_in(error)))
        # Else it may be only for what was assumed of tables that nobody knows.
        return False

    def _assume_table(self, database: EmptyDatabase, name: str) -> bool:
        lower = name.lower().removeprefix("temp.")
        if lower in database.assumed or lower in database.tables:
            self._add(f"{short(name)} is not in the FROM", self._find(name))
            return False
        near = suggestion(lower, table_names())
        self._add(
            f"osquery {self.schema.version} has no table {short(name)}{near}", self._find(name), self.unknown_table
        )
        if "." in lower or lower.startswith("sqlite_"):
            return False
        database.assume(lower)
        return True

    def _unknown_function(self, name: str) -> None:
        near = suggestion(name, [*self.schema.functions, *self.schema.sqlite_functions])
        self._add(f"osquery has no function {short(name)}{near}", self._find(name))

    def _syntax_problem(self, database: EmptyDatabase, error: str) -> SQLProblem | None:
        if error == "incomplete input":
            line, column = place_in(self.statement.sql, len(self.statement.sql))
            return SQLProblem("it ends too early", "error", line, column)
        if error.startswith("unrecognized token: "):
            bad = next((token for token in self.statement.tokens if token.kind == "bad"), None)
            return self.statement.problem(f"this is no SQL: {short(bad.text if bad else error)}", "error", bad)
        near = re.fullmatch(r'near "(.*)": syntax error', error, re.DOTALL)
        if not near:
            return None
        # SQLite does not say where.  A text cut before the place has another error, one cut behind it has the same.
        places = [token for token in self.statement.tokens if token.text == near[1]]
        low, high = 0, len(places) - 1
        while low < high:
            middle = (low + high) // 2
            if database.prepare(self.statement.sql[: places[middle].end]) == error:
                high = middle
            else:
                low = middle + 1
        return self.statement.problem(f"syntax error near {short(near[1])}", "error", places[low] if places else None)

    def _platform_warnings(self, database: EmptyDatabase) -> Iterator[SQLProblem]:
        tables = {table.name: table for table in database.tables.values() if table.name in database.tables_read}
        for name, table in sorted(tables.items()):
            if missing := (self.platforms or frozenset()) - table.platforms:
                text = f"there is no table {name} on {_listed(missing)}, only on {_listed(table.platforms)}"
                yield self.statement.problem(text, "warning", self._find(name))
        common = frozenset(PLATFORMS).intersection(*(table.platforms for table in tables.values()))
        if not common and self.platforms is None:
            where = "; ".join(f"{name} is on {_listed(table.platforms)}" for name, table in sorted(tables.items()))
            yield self.statement.problem(f"no platform has all tables of it: {where}", "warning")

    def _column_warnings(self, database: EmptyDatabase, words: set[str]) -> Iterator[SQLProblem]:
        columns = {
            (table.name, column.name.lower()): (table, column)
            for table in database.tables.values()
            for column in table.columns
        }
        for place in sorted(database.columns_read & columns.keys()):
            table, column = columns[place]
            if column.name.lower() not in words:
                continue  # It is of a `*`.
            if self.platforms and self.platforms.isdisjoint(column.platforms):
                # There is such a column everywhere, but hidden and without values (gentable.py).
                text = f"{table.name} has a {column.name} on {_listed(column.platforms)} only"
                yield self.statement.problem(text, "warning", self._find(column.name))
            if column.is_deprecated:
                text = f"the column {column.name} of {table.name} is deprecated"
                yield self.statement.problem(text, "warning", self._find(column.name))

    def _condition_warnings(self, database: EmptyDatabase) -> Iterator[SQLProblem]:
        if any(token.says("NATURAL") for text in self.texts for token in text):
            return
        in_conditions = {name for text in self.texts for name in constrained(text)}
        for name, table in sorted(database.tables.items()):
            if table.name not in database.tables_read or (table.name != name and table.name in database.tables):
                continue
            required = table.required
            if required and in_conditions.isdisjoint(each.lower() for each in required):
                text = f"osquery refuses to read {name} without a condition on {' or '.join(required)}"
                yield self.statement.problem(text, "warning", self._find(name))
            if table.is_of_users and in_conditions.isdisjoint(("uid", "username")):
                text = f"{name} has only the rows of osquery's own user unless it is joined with users on uid"
                yield self.statement.problem(text, "warning", self._find(name))

    def _add(self, text: str, token: Token | None, severity: Severity = "error") -> None:
        problem = self.statement.problem(text, severity, token)
        if problem not in self.problems:
            self.problems.append(problem)

    def _find(self, name: str) -> Token | None:
        return self.statement.find(name)

    def _named_in(self, error: str) -> Token | None:
        """The place of what an error names: its last word."""
        words = re.findall(r"[A-Za-z_][A-Za-z0-9_.]*", error)
        return self._find(words[-1]) if words else None


def _plain(error: str) -> str:
    if error.startswith("not authorized") or "prohibited" in error:
        return "osquery does not allow this, or it is not for queries, which only read"
    return short(error, 200)


def _listed(platforms: frozenset[str]) -> str:
    return " and ".join(sorted(platforms))


def _lower(mapping: Mapping[str, _Value] | None) -> dict[str, _Value]:
    return {name.lower(): value for name, value in (mapping or {}).items()}
