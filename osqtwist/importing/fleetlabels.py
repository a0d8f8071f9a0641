"""
Fleet's labels, and whom a query or pack that is for some of them is for here.

A label with SQL becomes a discovery query, or, beside others, a tag ``label:NAME`` that a tag query gives; one of the
system that Fleet brings along, a platform; one with a list of hosts, their names; any other, a tag that operators give.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import attrs

from osqtwist.importing.draft import Draft
from osqtwist.importing.parts import Part
from osqtwist.osqueryschema import PLATFORMS, platforms_of, schema
from osqtwist.sqlcheck import check_sql

_MOST_HOSTS = 40
_TAGGED_EVERY = 3600
_BUILT_IN = {
    "all hosts": "*",
    "macos": "platform:darwin",
    "ms windows": "platform:windows",
    "all linux": "platform:linux",
    "ubuntu linux": "platform:ubuntu",
    "centos linux": "platform:centos",
    "red hat linux": "platform:rhel",
    "fedora linux": "platform:fedora",
}
_BUILT_IN_SQL = {"macos 14+ (sonoma+)": ("SELECT 1 FROM os_version WHERE major >= 14", "darwin")}


@attrs.frozen
class _Label:
    """
    One label: SQL, or an expression.

    :ivar platforms: those on which the SQL can give a row.
    """

    name: str
    sql: str = ""
    platforms: frozenset[str] = frozenset(PLATFORMS)
    where: str = ""


@attrs.frozen
class Scope:
    """Of which labels something is: any of some, all of some, none of some."""

    include_any: tuple[str, ...] = ()
    include_all: tuple[str, ...] = ()
    exclude_any: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [" or ".join(self.include_any), " and ".join(self.include_all)]
        parts.append("not " + ", not ".join(self.exclude_any) if self.exclude_any else "")
        return ", ".join(part for part in parts if part)


@attrs.frozen
class Reach:
    """A target and the discovery queries that say together whom something is for."""

    platforms: tuple[str, ...]
    where: str
    discovery: tuple[str, ...]


class Labels:
    """All labels of a Fleet, by name."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._found: dict[str, _Label] = {}
        for name, where in _BUILT_IN.items():
            self._found[name] = _Label(name, where=where)
        for name, (sql, platform) in _BUILT_IN_SQL.items():
            self._found[name] = _Label(name, sql, frozenset((platform,)))

    def add(self, part: Part) -> None:
        """Learn of a label, from a document of it; what cannot be said here is noted."""
        name = part.text("name")
        part.name = f"label {name}"
        sql, platform = part.text("query").strip(), part.text("platform")
        hosts = part.texts("hosts")
        kind = part.text("label_membership_type") or ("dynamic" if sql else "manual")
        part.lose("criteria", f"a label of host vitals has no counterpart; give {self._tag(name)} to its nodes")
        part.ignore(
            "id", "description", "label_type", "display_text", "count", "host_ids", "host_count", "fleet", "team"
        )
        part.ignore("team_id", "fleet_id", "author_id", "created_at", "updated_at")
        part.finish()
        if part.value.get("label_type") == "builtin" and name.lower() in self._found:
            return
        if kind == "dynamic" and sql:
            self._found[name.lower()] = self._of_sql(part, name, sql, platform)
        elif kind == "manual" and 0 < len(hosts) <= _MOST_HOSTS:
            terms = (f"{key}:{_quoted(host)}" for host in hosts for key in ("name", "host"))
            self._found[name.lower()] = _Label(name, where=f"({' or '.join(terms)})")
            part.note("its hosts are matched by their names and host identifiers here; see that these are the same")
        else:
            self._found[name.lower()] = self._by_tag(name)
            if kind != "host_vitals" or "criteria" not in part.value:
                part.note(f"what hosts it has cannot be said in a target; give {self._tag(name)} to its nodes")

    def _of_sql(self, part: Part, name: str, sql: str, platform: str) -> _Label:
        findings = check_sql(sql, lenient=True)
        if findings.errors:
            part.note(f"{findings.errors[0]}; give {self._tag(name)} to its nodes instead", "query")
            return self._by_tag(name)
        platforms = platforms_of([platform]) if platform else None
        reach = frozenset(platforms or PLATFORMS)
        for table in filter(None, map(schema().find, findings.tables)):
            reach &= table.platforms
        return _Label(name, sql.rstrip().rstrip(";").rstrip(), reach)

    def reaches(self, scope: Scope, part: Part) -> list[Reach]:
        """
        Whom something of this scope is for: several answers have different platforms, none is for nobody.

        A query of a table that a platform does not have fails there, with all that stands beside it; so on each
        platform only those are asked that can be.
        """
        where = self._where(scope, part)
        found: dict[tuple[str, ...], list[str]] = {}
        for platform in PLATFORMS:
            discovery = self._discovery(scope, platform)
            if discovery is not None:
                found.setdefault(discovery, []).append(platform)
        if len(found) == 1 and len(next(iter(found.values()))) == len(PLATFORMS):
            return [Reach((), where, next(iter(found)))]
        return [Reach(tuple(platforms), where, discovery) for discovery, platforms in found.items()]

    def _where(self, scope: Scope, part: Part) -> str:
        terms = [self._known(name, part).where for name in scope.include_all]
        some = [self._known(name, part) for name in scope.include_any]
        if self._is_mixed(some):
            # Discovery queries and targets must both hold, so one cannot stand in for the other.
            some = [self._by_query(label, part) if label.sql else label for label in some]
        if some and not some[0].sql and all(label.where != "*" for label in some):
            terms.append(_either([label.where for label in some]))
        terms += [f"not {label.where}" for name in scope.exclude_any if (label := self._known(name, part)).where]
        return " and ".join(term for term in terms if term and term != "*")

    def _discovery(self, scope: Scope, platform: str) -> tuple[str, ...] | None:
        """The queries that all must give a row on a platform; ``None`` if that can never be."""
        found: list[str] = []
        for name in scope.include_all:
            label = self._found[name.lower()]
            if label.sql and platform not in label.platforms:
                return None
            if label.sql:
                found.append(label.sql)
        some = [self._found[name.lower()] for name in scope.include_any]
        if some and not self._is_mixed(some) and some[0].sql:
            asked = [label.sql for label in some if platform in label.platforms]
            if not asked:
                return None
            found.append(asked[0] if len(asked) == 1 else "SELECT 1 WHERE " + _either(map(_exists, asked), ""))
        for name in scope.exclude_any:
            label = self._found[name.lower()]
            if label.sql and platform in label.platforms:
                found.append(f"SELECT 1 WHERE NOT {_exists(label.sql)}")
        return tuple(found)

    def _tag(self, name: str) -> str:
        return self._draft.tag("label", name)

    def _by_query(self, label: _Label, part: Part) -> _Label:
        """A label of SQL as a tag that a query gives, where a discovery query cannot stand."""
        where = " or ".join(f"platform:{platform}" for platform in sorted(label.platforms))
        where = "" if label.platforms == frozenset(PLATFORMS) else where or 'tag:"none"'
        self._draft.tag_query(self._tag(label.name), label.sql, where, _TAGGED_EVERY, part)
        return self._by_tag(label.name)

    def _by_tag(self, name: str) -> _Label:
        return _Label(name, where=f'tag:"{self._tag(name)}"')

    @staticmethod
    def _is_mixed(labels: Sequence[_Label]) -> bool:
        return len({bool(label.sql) for label in labels}) > 1

    def _known(self, name: str, part: Part) -> _Label:
        if name.lower() not in self._found:
            part.note(f"the label {name} is not among the files given; give {self._tag(name)} to its nodes")
            self._found[name.lower()] = self._by_tag(name)
        return self._found[name.lower()]


def scope_of(part: Part) -> Scope:
    """The labels that a query names."""
    found = {key: tuple(part.texts(f"labels_{key}")) for key in ("include_any", "include_all", "exclude_any")}
    part.lose("labels_exclude_all", "there is no counterpart; the query is for these hosts too")
    return Scope(**found)


def _either(terms: Iterable[str], around: Literal["", "()"] = "()") -> str:
    terms = list(terms)
    said = (" or " if around else " OR ").join(terms)
    return f"({said})" if around and len(terms) > 1 else said


def _exists(sql: str) -> str:
    # On lines of their own: the SQL may end in a comment.
    return f"EXISTS (\n{sql}\n)"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
