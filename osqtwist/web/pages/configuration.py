"""The configuration: layers, how versions are rolled out, what differs between them, and why a node has what it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from osqtwist.confdiff import NOTHING, Change, words
from osqtwist.interfaces import NoSuchThing
from osqtwist.web.pages.page import Action, Done, Page, Shown, Visit
from osqtwist.web.pages.targets import words_of

_HISTORY = 20


async def configuration(visit: Visit) -> Shown:
    """What is in force, what is tried, and what was."""
    values: dict[str, Any] = {"status": await visit.ask("rollouts.status")}
    if visit.asked("part") != "live":
        layers = await visit.ask("config.layers")
        history = await visit.ask("rollouts.history", limit=_HISTORY)
        values |= {
            "layers": [each | {"words": words_of(each["target"])} for each in layers["layers"]],
            "nodes": layers["nodes"],
            "versions": history["versions"],
            "changes": history["changes"],
        }
    return Shown("configuration.html", {"layers": [], "nodes": 0, "versions": [], "changes": []} | values)


async def difference(visit: Visit) -> Shown:
    """What differs between two versions."""
    before, after = visit.asked("before"), visit.asked("after")
    found = await visit.ask("rollouts.diff", before=before, after=after)
    values = {"before": before, "after": after, "parts": _parts(found["changes"])}
    return Shown("difference.html", values)


async def version(visit: Visit) -> Shown:
    """One version, with its files."""
    return Shown("version.html", {"version": await visit.ask("rollouts.version", {"version": visit.path["version"]})})


async def why(visit: Visit) -> Shown:
    """Why a node has the configuration that it has."""
    name = visit.asked("node").strip()
    values: dict[str, Any] = {"name": name, "found": None, "wrong": ""}
    if not name:
        return Shown("why.html", values)
    try:
        found = await visit.ask("nodes.node_config", {"node": name})
    except NoSuchThing as problem:
        return Shown("why.html", values | {"wrong": str(problem)}, 404)
    return Shown("why.html", values | {"found": found})


async def pause(visit: Visit) -> Done:
    """Stay at the step."""
    await visit.ask("rollouts.pause")
    return Done("The roll-out is paused.")


async def resume(visit: Visit) -> Done:
    """Go on."""
    await visit.ask("rollouts.resume")
    return Done("The roll-out goes on.")


async def stop(visit: Visit) -> Done:
    """Give canaries back what they had."""
    await visit.ask("rollouts.stop", body={"why": visit.filled("why")})
    return Done("The roll-out is stopped: its canaries get the version in force.")


async def finish(visit: Visit) -> Done:
    """Give every node the version."""
    await visit.ask("rollouts.finish")
    return Done("Every node gets the version now.")


async def roll_back(visit: Visit) -> Done:
    """Give every node an earlier version."""
    name = visit.path["version"]
    await visit.ask("rollouts.roll_back", {"version": name})
    return Done(f"Every node gets version {name} now, until the files change.", "/config")


def _parts(changes: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Changes by layer: lines, each with what it says (``added``, ``removed`` or nothing)."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for row in changes:
        said = (row["layer"], row["what"], row["name"], row.get("before", NOTHING), row.get("after", NOTHING))
        parts.setdefault(row["layer"], []).extend((_way(line), line) for line in words(Change(*said)))
    return list(parts.items())


def _way(line: str) -> str:
    return {"+": "added", "-": "removed", "~": "changed"}.get(line.lstrip()[:1], "")


PAGES = (
    Page("/config", configuration, ("config.layers", "rollouts.status"), nav="Configuration"),
    Page("/config/diff", difference, ("rollouts.diff",)),
    Page("/config/why", why, ("nodes.node_config",)),
    Page("/config/versions/{version}", version, ("rollouts.version",)),
    Action("/config/pause", pause),
    Action("/config/resume", resume),
    Action("/config/stop", stop),
    Action("/config/finish", finish),
    Action("/config/versions/{version}/rollback", roll_back),
)
