"""The list of nodes."""

from __future__ import annotations

import re
from typing import Any

from osqtwist.interfaces import NoSuchThing
from osqtwist.targeting import BadTarget
from osqtwist.web.pages.page import Page, Shown, Visit

_ROWS = 50
_NAME = re.compile(r"[\w.@-]+")


async def nodes(visit: Visit) -> Shown:
    """Nodes, searched in the language of targets; a name alone is looked for as such."""
    where, online = visit.asked("where").strip(), visit.asked("online") == "1"
    offset = visit.number("offset")
    values: dict[str, Any] = {"where": where, "online": online, "offset": offset, "wrong": "", "named": None}
    values["some_wait"] = visit.may("pending.waiting") and bool(
        (await visit.ask("pending.waiting", limit=1))["pending"]
    )
    meant = where
    if _NAME.fullmatch(where):
        values["named"] = await _named(visit, where)
        meant = f"name:*{where}*"
    try:
        found = await visit.ask("nodes.nodes", where=meant, online=online, limit=_ROWS, offset=offset)
    except BadTarget as problem:
        wrong = str(problem).removeprefix("where is not an expression: ")
        return Shown("nodes.html", values | {"nodes": [], "next_offset": None, "wrong": wrong}, 400)
    return Shown("nodes.html", values | found)


async def _named(visit: Visit, name: str) -> dict[str, Any] | None:
    """The node that has just this name, host identifier or id; indexes know, however many nodes there are."""
    try:
        found: dict[str, Any] = await visit.ask("nodes.node", {"node": name})
    except NoSuchThing:
        return None
    return found


PAGES = (Page("/nodes", nodes, ("nodes.nodes",), nav="Nodes"),)
