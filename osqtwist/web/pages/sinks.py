"""Log sinks: how they are, and the levers; the servers that the buffer is on."""

from __future__ import annotations

from urllib.parse import quote

from osqtwist.interfaces import NoSuchThing
from osqtwist.web.pages.page import Action, Done, Page, Shown, Visit

_SINKS = "/logs/sinks"


async def sinks(visit: Visit) -> Shown:
    """All sinks, and the servers of the log buffer."""
    rows = (await visit.ask("sinks.sinks"))["sinks"]
    servers = (await visit.ask("logs.servers"))["servers"]
    return Shown("sinks.html", {"sinks": rows, "servers": servers})


async def dead_letters(visit: Visit) -> Shown:
    """What a sink refused; the script fetches it."""
    sink = visit.path["sink"]
    if sink not in {row["sink"] for row in (await visit.ask("sinks.sinks"))["sinks"]}:
        raise NoSuchThing(f"there is no sink {sink!r}")
    return Shown("dead.html", {"sink": sink, "source": f"/api/v1/sinks/{quote(sink, '')}/dead"})


async def pause(visit: Visit) -> Done:
    """Stop delivering."""
    await visit.ask("sinks.pause", visit.path)
    return Done(f"The sink {visit.path['sink']} is paused; its lines wait in the buffer.", _SINKS)


async def resume(visit: Visit) -> Done:
    """Go on."""
    await visit.ask("sinks.resume", visit.path)
    return Done(f"The sink {visit.path['sink']} goes on.", _SINKS)


async def replay(visit: Visit) -> Done:
    """Deliver again: the lines of some hours, or dead letters."""
    name = visit.path["sink"]
    if visit.filled("what") == "dead":
        found = await visit.ask("sinks.replay", visit.path, {"dead": True})
        return Done(f"{found.get('dead_letters', 0)} dead letters are brought to {name} again.", _SINKS)
    since = visit.now - visit.seconds("hours", 3600)
    found = await visit.ask("sinks.replay", visit.path, {"since": since})
    return Done(f"{found.get('lines', 0)} lines are brought to {name} again.", _SINKS)


async def forget(visit: Visit) -> Done:
    """Keep nothing for it."""
    await visit.ask("sinks.forget", visit.path)
    return Done(f"The cursor of {visit.path['sink']} is deleted.", _SINKS)


PAGES = (
    Page(_SINKS, sinks, ("sinks.sinks", "logs.servers")),
    Page(_SINKS + "/{sink}/dead", dead_letters, ("sinks.dead_letters", "sinks.sinks")),
    Action(_SINKS + "/{sink}/pause", pause),
    Action(_SINKS + "/{sink}/resume", resume),
    Action(_SINKS + "/{sink}/replay", replay),
    Action(_SINKS + "/{sink}/forget", forget),
)
