"""The SQL of configuration layers, checked query by query; see :mod:`osqtwist.sqlcheck`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from osqtwist.layers import Layer, Problem
from osqtwist.osqueryschema import PLATFORMS, platforms_of
from osqtwist.sqlcheck import check_sql


def check_queries(layers: Sequence[Layer]) -> list[Problem]:
    """
    Everything wrong with the SQL of layers that are good otherwise; they know each other's tables and views.

    Takes about half a millisecond a query.
    """
    made, views = made_names(layers)
    return [
        Problem(layer.name, where, str(problem), problem.severity)
        for layer in layers
        for where, sql, platforms in _queries(layer)
        for problem in check_sql(sql, platforms, extra_tables=made, views=views, lenient=True).problems
    ]


def made_names(layers: Sequence[Layer]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """What queries may read besides osquery's tables: tables that layers make, to their columns, and views."""
    made = {
        name: [*(each for each in _array(table, "columns") if isinstance(each, str)), "path"]
        for layer in layers
        for name, table in _object(layer.body, "auto_table_construction").items()
        if isinstance(table, Mapping)
    }
    views = {
        name: sql
        for layer in layers
        for name, sql in _object(layer.body, "views").items()
        if isinstance(sql, str) and sql
    }
    return made, views


def _queries(layer: Layer) -> Iterator[tuple[str, str, list[str]]]:
    """The SQL of a layer, each with its place and the platforms on which it runs; no platform means any."""
    body, target = layer.body, list(layer.target.platforms)
    yield from _scheduled("schedule", _object(body, "schedule"), target, "")
    for name, pack in _object(body, "packs").items():
        if isinstance(pack, Mapping):
            yield from _scheduled(f"packs.{name}.queries", _object(pack, "queries"), target, pack.get("platform", ""))
            yield from _listed(f"packs.{name}.discovery", pack.get("discovery"), target)
    decorators = _object(body, "decorators")
    for key in ("load", "always"):
        yield from _listed(f"decorators.{key}", decorators.get(key), target)
    for seconds, found in _object(decorators, "interval").items():
        yield from _listed(f"decorators.interval.{seconds}", found, target)
    for name, sql in _object(body, "views").items():
        if sql:
            yield f"views.{name}", sql, target
    for name, found in _object(body, "file_paths_query").items():
        yield from _listed(f"file_paths_query.{name}", found, target)


def _scheduled(
    place: str, queries: Mapping[str, Any], target: list[str], platform: str
) -> Iterator[tuple[str, str, list[str]]]:
    for name, query in queries.items():
        # What is null takes a query of an earlier layer away.
        if query:
            platforms = _common(target, [platform], [query.get("platform", "")])
            if platforms is not None:
                yield f"{place}.{name}.query", query["query"], platforms


def _listed(place: str, found: Any, target: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    for number, sql in enumerate(found or ()):
        yield f"{place}.{number}", sql, target


def _common(*groups: Sequence[str]) -> list[str] | None:
    """The platforms on which all conditions hold: empty for any, ``None`` for none."""
    found = frozenset(PLATFORMS).intersection(*(platforms_of(group) or PLATFORMS for group in groups))
    if not found:
        return None
    return [] if found == set(PLATFORMS) else sorted(found)


def _object(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    return value if isinstance(value, Mapping) else {}


def _array(body: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = body.get(key)
    return value if isinstance(value, list) else ()
