"""
osquery's database without rows: the SQLite that queries are tried on.

osquery's SQL is SQLite's, so SQLite says best what is wrong with it.  Statements are only prepared, never run, on a
database that holds just the tables named in the text and is thrown away afterwards: to make that is quicker than to
prepare a query on all tables, nothing is shared between threads, and nothing of one text is left for the next.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import Any, Final

import attrs

from osqtwist.osqueryschema import Column, Schema, Table

MAX_HEAP = 64 * 2**20
"""
Bytes that SQLite may hold in this process.

A short text can have SQLite build a tree that doubles with each word (a WITH that names the one before it twice).  It
does not look at its progress handler while it does so (before 3.41), but it stops when it has no memory: after 0.2 s
at this size.  The limit is SQLite's for the whole process, and it cannot be raised again.
"""
MAX_SECONDS = 1.0
INTERNAL: Final = frozenset(
    {
        "json_each",
        "json_tree",
        "pragma_collation_list",
        "pragma_function_list",
        "pragma_table_info",
        "pragma_table_xinfo",
        "sqlite_master",
        "sqlite_schema",
        "sqlite_temp_master",
        "sqlite_temp_schema",
    }
)
"""Tables of SQLite itself that osquery lets queries read; they hold nothing of the host."""
_PRAGMAS = frozenset({"collation_list", "function_list", "table_info", "table_xinfo"})
_ACTIONS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE})
_AGGREGATES = frozenset({"carve"})
_PLACEHOLDER = "?"
_MAX_COLUMNS = 1900  # SQLite takes 2000.


class TooComplex(Exception):
    """SQLite needs too much memory or time to prepare a text."""


@attrs.define
class EmptyDatabase:
    """
    Tables without rows, and what a statement prepared on them would read.

    :ivar tables: those of osquery, by the name they were asked for.
    :ivar assumed: tables that nobody knows, and columns that are taken to be theirs.
    """

    tables: dict[str, Table]
    assumed: dict[str, list[str]]
    _connection: sqlite3.Connection
    _reads: set[tuple[str, str]] = attrs.field(factory=set)
    _functions: set[str] = attrs.field(factory=set)

    @classmethod
    def holding(
        cls,
        schema: Schema,
        words: AbstractSet[str],
        tables: Mapping[str, Table],
        views: Mapping[str, str],
        is_seen: Callable[[Column], bool],
    ) -> EmptyDatabase:
        """
        A database of some tables and views.

        :param words: all names in the text; of SQLite's own tables, those among them are there.
        :param views: a single SELECT each, by name.
        :param is_seen: whether a column is part of its table here.
        """
        connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0, check_same_thread=True)
        made = cls(dict(tables), {}, connection)
        try:
            made._set_limits()
            made._define_functions(schema)
            for name, table in tables.items():
                made._create(name, (column.name for column in table.columns if is_seen(column)))
            for name, select in views.items():
                # A view that is no SQL is unknown to those who read it; who wrote it is told when it is checked itself.
                with contextlib.suppress(sqlite3.Error):
                    connection.execute(f"CREATE TEMP VIEW {_quoted(name)} AS {select}")
            for name in INTERNAL & words:
                # SQLite makes these on first use, which the authorizer would refuse.
                with contextlib.suppress(sqlite3.Error):
                    connection.execute(f"SELECT 1 FROM {name} LIMIT 0")  # noqa: S608 - a constant
            connection.set_authorizer(made._authorize)
        except MemoryError:
            connection.close()
            raise TooComplex("it is too complex to be checked") from None
        except BaseException:
            connection.close()
            raise
        return made

    def __enter__(self) -> EmptyDatabase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def tables_read(self) -> frozenset[str]:
        """
        The tables that the statement prepared last reads, as far as SQLite came; aliases and views seen through.

        Without those in what this SQLite sees to be of no account (``0 AND x IN (SELECT …)``): another may run it.
        """
        own = {self.tables[name].name for name, _ in self._reads if name in self.tables}
        return frozenset(own | {name for name, _ in self._reads if name in self.assumed})

    @property
    def columns_read(self) -> frozenset[tuple[str, str]]:
        """Pairs of a table and a column, for tables of osquery."""
        return frozenset((self.tables[name].name, column) for name, column in self._reads if name in self.tables)

    @property
    def functions_called(self) -> frozenset[str]:
        """The functions that the statement prepared last calls, as far as SQLite came."""
        return frozenset(self._functions)

    def prepare(self, sql: str) -> str:
        """
        Prepare one statement and say what SQLite does not like about it; nothing is empty.

        :raise TooComplex: it would cost too much to say.
        """
        self._reads.clear()
        self._functions.clear()
        ends_at = time.monotonic() + MAX_SECONDS
        self._connection.set_progress_handler(lambda: time.monotonic() > ends_at, 10_000)
        try:
            self._connection.execute(f"EXPLAIN {sql}").close()
        except (MemoryError, RecursionError):
            raise TooComplex("it is too complex to be checked") from None
        except (sqlite3.Error, sqlite3.Warning) as problem:
            if str(problem) == "interrupted":
                raise TooComplex("it is too complex to be checked") from None
            return str(problem) or "SQLite refuses it"
        return ""

    def assume(self, table: str, column: str = "") -> None:
        """Take it that there is such a table, with such a column."""
        columns = self.assumed.setdefault(table, [])
        if column:
            columns.append(column)
        self._connection.set_authorizer(None)
        try:
            self._connection.execute(f"DROP TABLE IF EXISTS temp.{_quoted(table)}")
            self._create(table, columns)
        finally:
            self._connection.set_authorizer(self._authorize)

    def assume_function(self, name: str) -> None:
        """Take it that there is such a function."""
        self._connection.create_function(name, -1, _never)

    def _create(self, name: str, columns: Iterable[str]) -> None:
        different = list({column.lower(): column for column in columns if column.isprintable()}.values())
        # osquery's tables are in `temp` too, hence `main.processes` fails there as here.
        names = ", ".join(map(_quoted, different[:_MAX_COLUMNS] or [_PLACEHOLDER]))
        self._connection.execute(f"CREATE TEMP TABLE {_quoted(name)} ({names})")

    def _set_limits(self) -> None:
        connection = self._connection
        connection.execute(f"PRAGMA hard_heap_limit = {MAX_HEAP}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0)
        # osquery takes "text" in double quotes for text where no column has that name; Python may be built otherwise.
        if setconfig := getattr(connection, "setconfig", None):
            setconfig(sqlite3.SQLITE_DBCONFIG_DQS_DML, True)  # type: ignore[attr-defined,unused-ignore]

    def _define_functions(self, schema: Schema) -> None:
        for name, counts in schema.functions.items():
            for count in counts:
                if name in _AGGREGATES:
                    self._connection.create_aggregate(name, count, _Never)
                else:
                    self._connection.create_function(name, count, _never, deterministic=True)
        for name in schema.collations:
            self._connection.create_collation(name, _never)
        for name in schema.sqlite_functions - _functions_here():
            self._connection.create_function(name, -1, _never)

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, source: str | None
    ) -> int:
        if action == sqlite3.SQLITE_READ:
            table = (first or "").lower()
            if table.startswith("pragma_") and table not in INTERNAL:
                return sqlite3.SQLITE_DENY
            self._reads.add((table, (second or "").lower()))
        elif action == sqlite3.SQLITE_FUNCTION:
            self._functions.add((second or "").lower())
        elif action not in _ACTIONS and not (action == sqlite3.SQLITE_PRAGMA and (first or "").lower() in _PRAGMAS):
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK


@functools.cache
def _functions_here() -> frozenset[str]:
    """What the SQLite of this Python has: it may be older than osquery's."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        return frozenset(row[0] for row in connection.execute("SELECT name FROM pragma_function_list"))


class _Never:
    """An aggregate that is never run."""

    def step(self, *values: Any) -> object:
        """Nothing is run."""

    def finalize(self) -> int:
        """Nothing is run."""
        return 0


def _never(*values: Any) -> int:
    return 0


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
