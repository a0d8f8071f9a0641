"""One node: what is known of it, and what can be done to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from osqtwist.web.pages.logs import shown_line
from osqtwist.web.pages.page import Action, Done, Page, Shown, Visit

_LINES = 10
_QUERIES = 10
_CARVES_LOOKED_AT = 200
_CARVES = 10


async def node(visit: Visit) -> Shown:
    """Everything of a node that whoever looks may see."""
    found = await visit.ask("nodes.node", visit.path)
    own = {"node": found["node"]}
    config = await visit.ask("nodes.node_config", own)
    lines: list[dict[str, Any]] = []
    if visit.may("logs.newest"):
        when = f"log_type:status and node:{found['node']}"
        lines = (await visit.ask("logs.newest", when=when, limit=_LINES))["lines"]
    carves: list[dict[str, Any]] = []
    if visit.may("carves.carves"):
        newest = (await visit.ask("carves.carves", limit=_CARVES_LOOKED_AT))["carves"]
        carves = [each for each in newest if each["node"] == found["node"]][:_CARVES]
    values = {
        "node": found,
        "why": config["why"],
        "config": config["config"],
        "lines": [shown_line(each) for each in lines],
        "queries": (await visit.ask("nodes.node_queries", own, limit=_QUERIES))["queries"],
        "carves": carves,
    }
    return Shown("node.html", values)


async def tag(visit: Visit) -> Done:
    """Give tags, take some away."""
    change = {"add": visit.words("add"), "remove": visit.form.get("remove", [])}
    await visit.ask("nodes.tag", visit.path, change)
    return Done("its tags are changed.")


async def annotate(visit: Visit) -> Done:
    """Replace the note."""
    await visit.ask("nodes.annotate", visit.path, {"note": visit.filled("note")})
    return Done("the note is kept.")


async def revoke(visit: Visit) -> Done:
    """Refuse it."""
    await visit.ask("nodes.revoke", visit.path, {"reason": visit.filled("reason")})
    return Done("the node is refused from now on, everywhere; its connections end within a second or two.")


async def merge(visit: Visit) -> Done:
    """Have another node take over."""
    order = {"into": visit.filled("into"), "force": visit.filled("force") == "1"}
    found = await visit.ask("nodes.merge", visit.path, order)
    return Done("the other node took over from it.", f"/nodes/{found['node']}")


async def forget(visit: Visit) -> Done:
    """Keep nothing of it."""
    await visit.ask("nodes.forget", visit.path, {})
    return Done("nothing is kept of the node any more.", "/nodes")


def _plain(operation: str, said: str) -> Callable[[Visit], Any]:
    async def do(visit: Visit) -> Done:
        await visit.ask(operation, visit.path, {})
        return Done(said)

    return do


PAGES = (
    Page("/nodes/{node}", node, ("nodes.node", "nodes.node_config", "nodes.node_queries")),
    Action("/nodes/{node}/tags", tag),
    Action("/nodes/{node}/note", annotate),
    Action("/nodes/{node}/revoke", revoke),
    Action("/nodes/{node}/restore", _plain("nodes.restore", "the node is served again.")),
    Action("/nodes/{node}/rekey", _plain("nodes.rekey", "its keys are refused: whoever uses one enrolls again.")),
    Action("/nodes/{node}/merge", merge),
    Action("/nodes/{node}/forget", forget),
)
