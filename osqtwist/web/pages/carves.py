"""Carved files."""

from __future__ import annotations

from osqtwist.web.pages.page import Page, Shown, Visit

_ROWS = 50


async def carves(visit: Visit) -> Shown:
    """The newest first; the files themselves come from the API."""
    offset = visit.number("offset")
    return Shown("carves.html", {"offset": offset, **await visit.ask("carves.carves", limit=_ROWS, offset=offset)})


PAGES = (Page("/carves", carves, ("carves.carves",), nav="Carves"),)
