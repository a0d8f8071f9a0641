"""
Rules for distributed queries: which may do harm and need a second person, and what is kept of results.

A query may do harm if it reads a table or calls a function that is listed, or if it cannot be said what it reads:
SQL that is not understood, a table that is neither osquery's nor known from elsewhere (it may be a view with anything
behind it).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import msgspec

from osqtwist.osqueryschema import schema
from osqtwist.sqlcheck import check_sql

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_MOST_DANGERS = 8


class LiveRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The table ``[live]`` of the settings file.

    :ivar dangerous_tables: tables that send, fetch or write.
    :ivar dangerous_functions: functions that do.
    :ivar extension_tables: tables of extensions that are harmless; ``*`` and ``?`` match.
    :ivar admins_need_approval: whether queries of admins wait for a second person too.
    :ivar approval_hours: how long a query waits for one.
    :ivar keep_days: days after its end at which a query is deleted with its results.
    :ivar max_results_mib: rows past this are not kept of one query.
    :ivar max_results_rows: the same for their number.
    """

    dangerous_tables: tuple[str, ...] = ("carves", "curl", "curl_certificate")
    dangerous_functions: tuple[str, ...] = ("carve", "sleep")
    extension_tables: tuple[str, ...] = ()
    admins_need_approval: bool = False
    approval_hours: _Positive = 24.0
    keep_days: _Positive = 7.0
    max_results_mib: _Positive = 256.0
    max_results_rows: Annotated[int, msgspec.Meta(gt=0)] = 1_000_000

    def dangers_of(
        self,
        texts: Sequence[str],
        *,
        extra_tables: Mapping[str, Sequence[str]] | None = None,
        views: Mapping[str, str] | None = None,
    ) -> tuple[str, ...]:
        """
        What may do harm in texts of SQL, each in a few words; nothing if they are harmless.

        :param extra_tables: tables of ``auto_table_construction``, which read files of the node.
        :param views: osquery's ``views`` of the configuration.
        """
        found = dict.fromkeys(danger for text in texts for danger in self._dangers(text, extra_tables, views))
        return tuple(found)[:_MOST_DANGERS]

    def _dangers(
        self, text: str, extra_tables: Mapping[str, Sequence[str]] | None, views: Mapping[str, str] | None
    ) -> Iterator[str]:
        known = schema()
        findings = check_sql(text, extra_tables=extra_tables, views=views, lenient=True)
        if not findings.is_complete:
            why = [str(problem) for problem in findings.errors or findings.problems]
            yield f"it is not clear what it reads{': ' if why else ''}{''.join(why[:1])}"
        # An alias is another name of the same table; the findings have its own name.
        listed = {known.aliases.get(name.lower(), name.lower()) for name in self.dangerous_tables}
        made = {name.lower() for name in extra_tables or {}}
        for table in sorted(findings.tables):
            if table in listed:
                yield f"the table {table}"
            elif table not in known.tables and table not in made and not self._is_harmless(table):
                yield f"the table {table}, which is not osquery's"
        functions = {name.lower() for name in self.dangerous_functions}
        for function in sorted(findings.functions):
            if function in functions:
                yield f"the function {function}"
            elif function not in known.functions and function not in known.sqlite_functions:
                yield f"the function {function}, which is not osquery's"

    def _is_harmless(self, table: str) -> bool:
        return any(fnmatch.fnmatchcase(table, pattern.lower()) for pattern in self.extension_tables)
