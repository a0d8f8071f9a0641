"""
The routes of nodes: one name for each, and the paths it answers on.

The aliases let a fleet move here without a new flagfile: the reference server and osquery's manual (``/logger``,
``/distributed_read``, ``/carve_init``...), Doorman (``/v1``), Fleet (``/api/osquery``, ``/api/v1/osquery``) and,
with a prefix, Zentral (``/public/osquery``) and osctrl (``/ENVIRONMENT``, with ``/read``, ``/init``...).
"""

from __future__ import annotations

from collections.abc import Sequence

ENROLL, CONFIG, LOG = "enroll", "config", "log"
READ, WRITE = "distributed_read", "distributed_write"
CARVE_START, CARVE_CONTINUE = "carver_start", "carver_continue"

_OWN: dict[str, str] = {
    ENROLL: "/enroll",
    CONFIG: "/config",
    LOG: "/log",
    READ: "/distributed/read",
    WRITE: "/distributed/write",
    CARVE_START: "/carver/start",
    CARVE_CONTINUE: "/carver/continue",
}
_ALIASES: dict[str, tuple[str, ...]] = {
    LOG: ("/logger",),
    READ: ("/distributed_read", "/read"),
    WRITE: ("/distributed_write", "/write"),
    CARVE_START: ("/carve_init", "/init"),
    CARVE_CONTINUE: ("/carve_block", "/block"),
}
_FLEET = ("/api/osquery", "/api/v1/osquery")
_FLEET_NAMES = {CARVE_START: "/carve/begin", CARVE_CONTINUE: "/carve/block"}

METHODS = ("POST", "PUT")
"""Clients set up for Doorman may send PUT."""


def paths_by_route(prefixes: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """
    Every path of each route, the route's own first.

    :param prefixes: each is put before every path; the paths without it answer too.
    """
    table = {}
    for route, own in _OWN.items():
        fleet = tuple(base + _FLEET_NAMES.get(route, own) for base in _FLEET)
        paths = (own, *_ALIASES.get(route, ()), f"/v1{own}", *fleet)
        table[route] = paths + tuple(prefix + path for prefix in prefixes for path in paths)
    return table
