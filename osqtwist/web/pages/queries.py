"""Live queries: asked, followed, saved."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from osqtwist.interfaces import NoSuchThing
from osqtwist.web.pages.page import Action, Done, Page, Shown, Visit
from osqtwist.web.pages.targets import expression_of, words_of
from osqtwist.web.pages.times import duration, moment
from osqtwist.web.problems import problem_of
from osqtwist.wire import MalformedRequest

_ROWS = 20
_RESULTS = 20
_MOST_ROWS = 500
_SILENT = 100
_LONGEST_LINK = 6000
_FIELDS = ("sql", "where", "percent", "salt", "until", "begins", "discovery", "keep")
_LASTS = "10m"
_MEASURES = {
    "wall_time_ms": ("Time", "ms"),
    "user_time": ("CPU, user", "ms"),
    "system_time": ("CPU, system", "ms"),
    "memory": ("Memory", "bytes"),
    "elapsed": ("Until the answer", "s"),
}


async def queries(visit: Visit) -> Shown:
    """Where queries are written, those that are kept, and the newest."""
    offset = visit.number("offset")
    found = await visit.ask("queries.queries", limit=_ROWS, offset=offset)
    saved = (await visit.ask("queries.saved_queries", limit=1000))["saved"]
    values = {
        "queries": [_row(each) for each in found["queries"]],
        "offset": offset,
        "next_offset": found["next_offset"],
        "saved": [each | {"words": words_of(each["target"])} for each in saved],
        "draft": await _draft(visit),
    }
    return Shown("queries.html", values)


async def query(visit: Visit) -> Shown:
    """One query: how far it has come, what came, who is silent, and what it cost."""
    path = {"query": visit.path["query"]}
    found = await visit.ask("queries.query", path)
    values = {
        "query": _row(found),
        "costs": [(*_MEASURES[name], each) for name, each in found["cost"].items()],
        "silent": await visit.ask("queries.silent", path, limit=_SILENT),
        "is_live": found["state"] in ("open", "waiting", "scheduled") or _is_recent(found),
        "rows": [],
        "columns": [],
        "failed": [],
        "next_after": None,
    }
    if visit.asked("part") != "live":
        values |= _rows_of(await visit.ask("queries.page", path, limit=_RESULTS, after=visit.asked("after")))
    return Shown("query.html", values)


async def issue(visit: Visit) -> Done:
    """Ask nodes; what is refused comes back into the editor."""
    try:
        found = await visit.ask("queries.issue", body=_order(visit))
    except Exception as failure:
        problem = problem_of(failure)
        if problem is None:
            raise
        return Done(problem.detail, _with_draft(visit), is_bad=True)
    said = "The query waits for approval by somebody else." if found["state"] == "waiting" else "The query is issued."
    return Done(said, f"/queries/{found['query_id']}")


async def save(visit: Visit) -> Done:
    """Keep a query under a name."""
    name = visit.filled("name")
    order = {
        "name": name,
        "sql": visit.filled("sql"),
        "discovery": visit.filled("discovery"),
        "description": visit.filled("description"),
        "target": _target(visit),
        "replace": visit.filled("replace") == "1",
    }
    try:
        await visit.ask("queries.save", body=order)
    except Exception as failure:
        problem = problem_of(failure)
        if problem is None:
            raise
        return Done(problem.detail, _with_draft(visit), is_bad=True)
    return Done(f"{name} is saved.", visit.url("/queries", saved=name))


async def forget(visit: Visit) -> Done:
    """Keep a saved query no more."""
    await visit.ask("queries.forget_saved", {"saved": visit.path["saved"]})
    return Done(f"{visit.path['saved']} is forgotten.", "/queries")


async def approve(visit: Visit) -> Done:
    """Let a query that may do harm go out."""
    await visit.ask("queries.approve", {"query": visit.path["query"]})
    return Done("The query goes to nodes now.")


async def cancel(visit: Visit) -> Done:
    """Ask no more nodes."""
    await visit.ask("queries.cancel", {"query": visit.path["query"]})
    return Done("No more nodes are asked.")


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    return {**found, "words": words_of(found["target"])}


def _is_recent(found: Mapping[str, Any]) -> bool:
    """Whether answers may still come of nodes that took it before it was over."""
    return bool(found["answered"] < found["offered"]) and time.time() < found["expires_at"] + 60


def _rows_of(page: Mapping[str, Any]) -> dict[str, Any]:
    """A page of results for those who have no script: rows, their columns, and errors."""
    rows: list[tuple[str, dict[str, Any]]] = []
    columns: dict[str, None] = {}
    for each in page["results"]:
        for row in each["rows"]:
            if isinstance(row, dict) and len(rows) < _MOST_ROWS:
                columns.update(dict.fromkeys(row))
                rows.append((each["name"], row))
    failed = [each for each in page["results"] if each["status"]]
    return {"rows": rows, "columns": list(columns), "failed": failed, "next_after": page["next_after"]}


async def _draft(visit: Visit) -> dict[str, str]:
    """What stands in the editor: a saved query, one that was asked before, or what could not be asked."""
    draft = dict.fromkeys((*_FIELDS, "name", "description"), "") | {"until": _LASTS, "percent": "100"}
    with contextlib.suppress(NoSuchThing):
        if name := visit.asked("saved"):
            draft |= _of(await visit.ask("queries.saved_query", {"saved": name}))
        elif again := visit.asked("again"):
            draft |= _of(await visit.ask("queries.query", {"query": again}))
    return draft | {name: visit.asked(name) for name in _FIELDS if name in visit.query}


def _of(found: Mapping[str, Any]) -> dict[str, str]:
    target = found["target"]
    return {
        "sql": found["sql"],
        "discovery": found["discovery"],
        "where": expression_of(target),
        "percent": f"{target.get('percent', 100):g}",
        "salt": target.get("salt", ""),
        "name": found.get("name", ""),
        "description": found.get("description", ""),
    }


def _with_draft(visit: Visit) -> str:
    """The editor with what was typed, if that is not too much for a link."""
    link = visit.url("/queries", **{name: visit.filled(name) for name in _FIELDS})
    return link if len(link) < _LONGEST_LINK else ""


def _target(visit: Visit) -> dict[str, Any]:
    percent = visit.filled("percent") or "100"
    try:
        share = float(percent)
    except ValueError:
        raise MalformedRequest(f"the share {percent[:32]!r} is no number") from None
    target = {"where": visit.filled("where"), "percent": share, "salt": visit.filled("salt")}
    return target if share < 100 else {"where": target["where"]}


def _order(visit: Visit) -> dict[str, Any]:
    order: dict[str, Any] = {
        "sql": visit.filled("sql"),
        "discovery": visit.filled("discovery"),
        "target": _target(visit),
    }
    now = time.time()
    if begins := visit.filled("begins"):
        wait = duration(begins)
        order["from"] = moment(begins) if wait is None else now + wait
    until = visit.filled("until") or _LASTS
    lasts = duration(until)
    order |= {"until": moment(until)} if lasts is None else {"expires_in": lasts}
    if keep := visit.filled("keep"):
        kept = duration(keep)
        if kept is None:
            raise MalformedRequest(f"{keep[:32]!r} is not how long something lasts, such as 7d")
        order["keep_for"] = kept
    return order


PAGES = (
    Page("/queries", queries, ("queries.queries",), nav="Live query"),
    Page("/queries/{query}", query, ("queries.query",)),
    Action("/queries", issue),
    Action("/queries/save", save),
    Action("/queries/saved/{saved}/forget", forget),
    Action("/queries/{query}/approve", approve),
    Action("/queries/{query}/cancel", cancel),
)
