"""
What osquery accepts in a configuration from a TLS server, checked before it is served.

The stakes: the client drops its schedule first and looks at the new one afterwards (config.cpp), so a
configuration that is too large or too deep leaves a host without any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from osqtwist.layers import Problem, render

MAX_BYTES = 1024 * 1024
"""Clients up to 5.23.x refuse more (later ones 4 MiB), and are left without a schedule."""
MAX_DEPTH = 31
MAX_INTERVAL = 604800

_OBJECTS = {
    "options",
    "schedule",
    "packs",
    "decorators",
    "file_paths",
    "file_paths_query",
    "exclude_paths",
    "yara",
    "events",
    "auto_table_construction",
    "views",
    "prometheus_targets",
    "feature_vectors",
    "kafka_topics",
    "logger",
}
_ARRAYS = {"file_accesses"}
_PACK_KEYS = {"queries", "platform", "version", "shard", "discovery", "oncall"}
_BAD_PREFIXES = ("query.", "cache.", "config_views.")
_BAD_SUFFIXES = ("epoch", "counter")
# Flags that the client refuses in `options` with a WARNING line at each change of the configuration.
COMMAND_LINE_ONLY = {
    "config_accelerated_refresh",
    "config_enable_backup",
    "config_plugin",
    "config_refresh",
    "config_tls_endpoint",
    "config_tls_max_attempts",
    "carver_block_size",
    "carver_compression",
    "carver_continue_endpoint",
    "carver_disable_function",
    "carver_expiry",
    "carver_start_endpoint",
    "disable_carver",
    "disable_enrollment",
    "disable_reenrollment",
    "enroll_always",
    "enroll_secret_env",
    "enroll_secret_path",
    "enroll_tls_endpoint",
    "logger_plugin",
    "proxy_hostname",
    "tls_accept_gzip",
    "tls_client_cert",
    "tls_client_key",
    "tls_enroll_max_attempts",
    "tls_enroll_max_interval",
    "tls_hostname",
    "tls_server_certs",
    "tls_session_reuse",
    "tls_session_timeout",
}


def check(body: Mapping[str, Any], file: str) -> list[Problem]:
    """Everything wrong with one layer, or with what layers make together."""
    return [Problem(file, where, text, "warning" if mild else "error") for where, text, mild in _all(body)]


def check_size(body: Mapping[str, Any], file: str, max_bytes: int = MAX_BYTES) -> list[Problem]:
    """Whether what is served keeps to the client's limits of size and depth."""
    problems = []
    size = len(render(body))
    if size > max_bytes:
        problems.append(Problem(file, "", f"it is {size} bytes long; osquery up to 5.23 takes {max_bytes}"))
    if (depth := _depth(body)) > MAX_DEPTH:
        problems.append(Problem(file, "", f"it is nested {depth} deep; osquery takes {MAX_DEPTH}"))
    return problems


_Found = Iterator[tuple[str, str, bool]]


def _all(body: Mapping[str, Any]) -> _Found:
    for key, value in body.items():
        if value is None:
            continue
        if key in _OBJECTS and not isinstance(value, Mapping):
            yield key, "it must be an object", False
        elif key in _ARRAYS and not isinstance(value, list):
            yield key, "it must be an array", False
        elif key not in _OBJECTS | _ARRAYS:
            yield key, "osquery knows no such key", True
    yield from _schedule(_object(body, "schedule"), "schedule")
    for name, pack in _object(body, "packs").items():
        if pack is not None:
            yield from _pack(name, pack)
    yield from _options(_object(body, "options"))
    yield from _decorators(_object(body, "decorators"))
    yield from _globs(body)
    for name, view in _object(body, "views").items():
        if not isinstance(view, str | None):
            yield f"views.{name}", "it must be the text of a SELECT", False


def _object(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    return value if isinstance(value, Mapping) else {}


def _schedule(schedule: Mapping[str, Any], where: str) -> _Found:
    for name, query in schedule.items():
        place = f"{where}.{name}"
        if problem := _name_problem(name):
            yield place, problem, False
        if query is None:
            continue
        if not isinstance(query, Mapping):
            yield place, "it must be an object", False
            continue
        yield from _query(query, place)


def _query(query: Mapping[str, Any], place: str) -> _Found:
    sql = query.get("query")
    if not isinstance(sql, str) or not sql.strip():
        yield f"{place}.query", "it must be SQL", False
    interval = _whole(query.get("interval", 3600))
    if interval is None or not 1 <= interval <= MAX_INTERVAL:
        text = f"it is {query.get('interval')!r}; osquery skips a query unless it is from 1 to {MAX_INTERVAL}"
        yield f"{place}.interval", text, False
    for key in ("snapshot", "removed", "denylist"):
        value = query.get(key, True)
        if not (isinstance(value, bool | int) or (isinstance(value, str) and value in ("true", "false", "t", "f"))):
            yield f"{place}.{key}", f"it is {value!r}; it must be true or false", False
    yield from _conditions(query, place)
    priority = query.get("startup_priority", 0)
    if _whole(priority) is None:
        yield f"{place}.startup_priority", f"it is {priority!r}; it must be a whole number", False


def _conditions(thing: Mapping[str, Any], place: str) -> _Found:
    for key in ("platform", "version"):
        if not isinstance(thing.get(key, ""), str):
            yield f"{place}.{key}", f"it is {thing[key]!r}; it must be text", False
    shard = _whole(thing.get("shard", 100))
    if shard is None or not 1 <= shard <= 100:
        yield f"{place}.shard", f"it is {thing.get('shard')!r}; it must be from 1 to 100", False


def _pack(name: str, pack: Any) -> _Found:
    place = f"packs.{name}"
    if name == "main":
        yield place, "a pack named main would replace the schedule", False
    if problem := _name_problem(name):
        yield place, problem, False
    if not isinstance(pack, Mapping):
        yield place, "it must be an object, or the path of a file that holds one", False
        return
    yield from _schedule(_object(pack, "queries"), f"{place}.queries")
    if "queries" in pack and not isinstance(pack["queries"], Mapping):
        yield f"{place}.queries", "it must be an object", False
    yield from _conditions(pack, place)
    discovery = pack.get("discovery", [])
    if not isinstance(discovery, list) or not all(isinstance(each, str) and each.strip() for each in discovery):
        yield f"{place}.discovery", "it must be an array of SQL", False
    for key in pack:
        if key not in _PACK_KEYS | _OBJECTS | _ARRAYS:
            yield f"{place}.{key}", "osquery knows no such key of a pack", True


def _options(options: Mapping[str, Any]) -> _Found:
    for name, value in options.items():
        place = f"options.{name}"
        if isinstance(value, float) or (isinstance(value, int) and value < 0):
            yield place, f"it is {value!r}; osquery reads whole numbers from 0 only", False
        elif isinstance(value, list):
            yield place, "it must not be an array", False
        if name in COMMAND_LINE_ONLY:
            yield place, "osquery takes this from its command line only and logs a WARNING at each change", True
    splay = options.get("schedule_splay_percent")
    if isinstance(splay, int) and splay <= 1:
        yield "options.schedule_splay_percent", "osquery takes 10 instead of 1 or less", True


def _decorators(decorators: Mapping[str, Any]) -> _Found:
    for key in ("load", "always"):
        value = decorators.get(key)
        if value is not None and not _are_texts(value):
            yield f"decorators.{key}", "it must be an array of SQL", False
    interval = decorators.get("interval")
    if interval is None:
        return
    if not isinstance(interval, Mapping):
        yield "decorators.interval", "it must be an object of seconds to arrays of SQL", False
        return
    for seconds, value in interval.items():
        number = _whole(seconds)
        if not number or number % 60:
            yield f"decorators.interval.{seconds}", "the seconds must be a multiple of 60", False
        if not _are_texts(value):
            yield f"decorators.interval.{seconds}", "it must be an array of SQL", False


def _globs(body: Mapping[str, Any]) -> _Found:
    for key in ("file_paths", "file_paths_query", "exclude_paths"):
        for category, value in _object(body, key).items():
            if value is not None and not _are_texts(value):
                yield f"{key}.{category}", "it must be an array of text", False
    if "exclude_paths" in body and not ("file_paths" in body or "file_paths_query" in body):
        yield "exclude_paths", "osquery reads it only beside file_paths or file_paths_query", True


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _name_problem(name: str) -> str:
    if not name or not name.isprintable():
        return "the name must be printable and not empty"
    if name.startswith(_BAD_PREFIXES) or name.endswith(_BAD_SUFFIXES):
        return "osquery keeps data of its own under such names"
    return ""


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    return None


def _depth(value: Any) -> int:
    if isinstance(value, Mapping):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0
