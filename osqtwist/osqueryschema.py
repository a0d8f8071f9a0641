"""
What osquery's SQL knows: its tables, their columns and platforms, its functions and collations.

The facts are in ``data/osquery-schema.json``, one table a line, taken from osquery's ``specs`` and ``osquery/sql``.  A
column there is ``[name, type, flags, platforms]``; platforms are ``d`` (darwin), ``l`` (linux) and ``w`` (windows), and
left out when they are the table's.  Flags of columns: ``r`` required, ``h`` hidden, ``d`` deprecated; of tables: ``e``
events, ``u`` data of users.  Other names of columns, which osquery takes too, are hidden columns here.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import attrs

PLATFORMS = ("darwin", "linux", "windows")

_LETTERS = {name[0]: name for name in PLATFORMS}
_LINUXES = frozenset(
    (
        *("almalinux", "alpine", "amazon", "amzn", "arch", "centos", "debian", "fedora", "gentoo", "kali", "linuxmint"),
        *("manjaro", "nixos", "ol", "opensuse", "oracle", "photon", "pop", "raspbian", "redhat", "rhel", "rocky"),
        *("sles", "suse", "ubuntu"),
    )
)
_LONGEST_NAME = 64
_PART = 3


class UnknownTable(LookupError):
    """osquery has no table of this name; the text names those that look like it."""


@attrs.frozen
class Column:
    """
    A column of a table.

    :ivar is_required: osquery refuses to read the table unless this column, or another that is required, is in a
        condition (virtual_table.cpp).
    :ivar is_hidden: ``*`` leaves it out.
    :ivar platforms: those on which it has values; on the table's others it is hidden and empty (gentable.py).
    """

    name: str
    type: str
    platforms: frozenset[str]
    is_required: bool = False
    is_hidden: bool = False
    is_deprecated: bool = False


@attrs.frozen
class Table:
    """
    A table.

    :ivar aliases: other names that queries may use.
    :ivar is_evented: its rows are events, which osquery gathers only when told to.
    :ivar is_of_users: it gives the rows of the user that osquery runs as, unless ``uid`` or ``username`` is in a
        condition.
    """

    name: str
    platforms: frozenset[str]
    columns: tuple[Column, ...]
    aliases: tuple[str, ...] = ()
    is_evented: bool = False
    is_of_users: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        """The columns of which one must be in a condition."""
        return tuple(column.name for column in self.columns if column.is_required)


@attrs.frozen
class Schema:
    """
    All tables and functions of one version of osquery.

    :ivar version: osquery's.
    :ivar tables: by name, without aliases.
    :ivar functions: those that osquery adds to SQLite's, to the numbers of arguments they take; -1 is any.
    :ivar sqlite_functions: those of the SQLite in it.
    """

    version: str
    sqlite_version: str
    tables: Mapping[str, Table]
    aliases: Mapping[str, str]
    functions: Mapping[str, tuple[int, ...]]
    sqlite_functions: frozenset[str]
    collations: tuple[str, ...]

    def find(self, name: str) -> Table | None:
        """The table of a name or alias, in any case, if there is one."""
        name = name.lower()
        return self.tables.get(self.aliases.get(name, name))


@functools.cache
def schema() -> Schema:
    """The schema that osqtwist comes with, read once."""
    found = json.loads(resources.files("osqtwist").joinpath("data", "osquery-schema.json").read_text("utf-8"))
    tables = {name: _table(name, each) for name, each in found["tables"].items()}
    return Schema(
        version=found["osquery"],
        sqlite_version=found["sqlite"],
        tables=tables,
        aliases={alias: table.name for table in tables.values() for alias in table.aliases},
        functions={name: tuple(counts) for name, counts in found["functions"].items()},
        sqlite_functions=frozenset(found["sqlite_functions"]),
        collations=tuple(found["collations"]),
    )


def table_names() -> tuple[str, ...]:
    """The names that a query may read from, aliases among them, sorted."""
    known = schema()
    return tuple(sorted([*known.tables, *known.aliases]))


def columns_of(table: str, *, hidden: bool = False) -> tuple[str, ...]:
    """
    The columns of a table, in osquery's order.

    :param hidden: with those that ``*`` leaves out.
    :raise UnknownTable: osquery has no such table.
    """
    found = schema().find(table)
    if found is None:
        raise UnknownTable(f"osquery has no table {table[:_LONGEST_NAME]}{suggestion(table, table_names())}")
    return tuple(column.name for column in found.columns if hidden or not column.is_hidden)


def platforms_of(words: Iterable[str]) -> frozenset[str] | None:
    """
    The platforms that words mean, or ``None`` if they leave it open.

    Takes the words of a target (``linux``, ``rhel``) and those of osquery's ``platform`` keys (``posix``,
    ``linux,darwin``, ``any``).  A word that is unknown leaves it open: a check must not be wrong about it.
    """
    found: set[str] = set()
    for word in (part.strip().lower() for words_together in words for part in words_together.split(",")):
        if word == "posix":
            found |= {"darwin", "linux"}
        elif word in ("macos", "osx"):
            found.add("darwin")
        elif word in PLATFORMS:
            found.add(word)
        elif word in _LINUXES:
            found.add("linux")
        else:
            return None
    return frozenset(found) or None


def suggestion(name: str, names: Iterable[str]) -> str:
    """``; did you mean …?`` with the names nearest to one that does not exist, or nothing."""
    if len(name) > _LONGEST_NAME:
        return ""  # Comparing costs time by length, and nothing is as long.
    name = name.lower()
    others = sorted(set(names) - {name})
    near = difflib.get_close_matches(name, others, 3, 0.7)
    if not near and len(name) >= _PART:
        near = [other for other in others if name in other][:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _table(name: str, found: Mapping[str, Any]) -> Table:
    platforms = _platforms(found["platforms"])
    flags = found.get("flags", "")
    return Table(
        name=name,
        platforms=platforms,
        columns=tuple(_column(platforms, *each) for each in found["columns"]),
        aliases=tuple(found.get("aliases", ())),
        is_evented="e" in flags,
        is_of_users="u" in flags,
    )


def _column(of_table: frozenset[str], name: str, kind: str, flags: str = "", platforms: str = "") -> Column:
    return Column(
        name=name,
        type=kind,
        platforms=_platforms(platforms) if platforms else of_table,
        is_required="r" in flags,
        is_hidden="h" in flags,
        is_deprecated="d" in flags,
    )


@functools.cache
def _platforms(letters: str) -> frozenset[str]:
    return frozenset(_LETTERS[letter] for letter in letters)
