"""The list of nodes."""

from __future__ import annotations

from typing import Any

from osqtwist.targeting import BadTarget
from osqtwist.web.pages.page import Page, Shown, Visit

_ROWS = 50


async def nodes(visit: Visit) -> Shown:
    """Nodes, searched in the language of targets."""
    where, online = visit.asked("where"), visit.asked("online") == "1"
    offset = visit.number("offset")
    values: dict[str, Any] = {"where": where, "online": online, "offset": offset, "wrong": ""}
    try:
        found = await visit.ask("nodes.nodes", where=where, online=online, limit=_ROWS, offset=offset)
    except BadTarget as problem:
        return Shown("nodes.html", values | {"nodes": [], "next_offset": None, "wrong": str(problem)}, 400)
    return Shown("nodes.html", values | found)


PAGES = (Page("/nodes", nodes, ("nodes.nodes",), nav="Nodes"),)
