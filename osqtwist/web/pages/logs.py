"""Log lines: the newest, a live tail of them, and dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from osqtwist.web.pages.page import Page, Shown, Visit
from osqtwist.wire import MalformedRequest

_LINES = 100
_MOST_TEXT = 4000


async def logs(visit: Visit) -> Shown:
    """The newest lines that an expression means; the script goes on with those that come."""
    when = visit.asked("when")
    try:
        found = await visit.ask("logs.newest", when=when, limit=_LINES)
    except MalformedRequest as problem:
        wrong = str(problem).removeprefix("when: ")
        return Shown("logs.html", {"when": when, "lines": [], "wrong": wrong}, 400)
    return Shown("logs.html", {"when": when, "lines": list(map(shown_line, found["lines"])), "wrong": ""})


async def dead_letters(visit: Visit) -> Shown:
    """Those that no sink could take; the script fetches them."""
    return Shown("dead.html", {"sink": "", "source": "/api/v1/logs/dead"})


def shown_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the log buffer with what a page shows of it: ``kind`` and ``text``."""
    return {**line, "kind": _kind_of(line["line"]), "text": _text_of(line["line"])}


def _kind_of(line: Any) -> str:
    """The name of the query, or of a status line how grave it is."""
    if not isinstance(line, Mapping):
        return ""
    if "severity" in line:
        severities = {"0": "info", "1": "warning", "2": "error", "3": "fatal"}
        return severities.get(str(line["severity"]), str(line["severity"])[:40])
    return str(line.get("name", ""))[:200]


def _text_of(line: Any) -> str:
    if isinstance(line, Mapping) and "severity" in line and "message" in line:
        text = str(line["message"])
    else:
        text = msgspec.json.encode(line).decode("utf-8", "replace")
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "…"


PAGES = (
    Page("/logs", logs, ("logs.newest",), nav="Logs"),
    Page("/logs/dead", dead_letters, ("logs.dead_letters",)),
)
