"""Enroll secrets, and nodes that wait for approval."""

from __future__ import annotations

from osqtwist.web.pages.page import Action, Done, Page, Shown, Visit

_SECRETS = "/credentials"
_PENDING = 100


async def secrets(visit: Visit) -> Shown:
    """Both."""
    rows = (await visit.ask("secrets.secrets"))["secrets"]
    waiting = await visit.ask("pending.waiting", limit=_PENDING)
    return Shown("secrets.html", {"secrets": rows, "pending": waiting["pending"], "more": waiting["next_offset"]})


async def add(visit: Visit) -> Shown:
    """Hand one out; its text is on this page alone."""
    order = {
        "name": visit.filled("name"),
        "tags": visit.words("tags"),
        "allow": visit.words("allow"),
        "quota": int(visit.seconds("quota", 1)),
        "expires_in": visit.seconds("days"),
    }
    return _once(await visit.ask("secrets.add", body=order))


async def rotate(visit: Visit) -> Shown:
    """Hand out a new text for it."""
    order = {"overlap": visit.seconds("overlap_days"), "expires_in": visit.seconds("days")}
    return _once(await visit.ask("secrets.rotate", visit.path, order))


async def revoke(visit: Visit) -> Done:
    """End it."""
    found = await visit.ask("secrets.revoke", visit.path)
    return Done(f"The secret {found['name']} has ended; nodes that enrolled by it stay.", _SECRETS)


async def forget(visit: Visit) -> Done:
    """Keep nothing of it."""
    found = await visit.ask("secrets.forget", visit.path)
    return Done(f"Nothing is kept of {found['name']} any more.", _SECRETS)


async def approve(visit: Visit) -> Done:
    """Let one in that waits, or all of those that are shown."""
    nodes = list(visit.form.get("node", ()))
    found = (await visit.ask("pending.approve", body={"nodes": nodes}))["approved"]
    return Done(f"{len(found)} nodes may come in.", _SECRETS)


async def refuse(visit: Visit) -> Done:
    """Keep one out."""
    await visit.ask("pending.refuse", visit.path, {"reason": visit.filled("reason")})
    return Done("The node is revoked.", _SECRETS)


def _once(secret: dict[str, object]) -> Shown:
    said = {"what": "enroll secret", "name": secret["name"], "text": secret["secret"], "back": _SECRETS}
    return Shown("shownonce.html", said | {"old_ends_at": secret.get("old_ends_at")})


PAGES = (
    Page(_SECRETS, secrets, ("secrets.secrets", "pending.waiting"), nav="Credentials"),
    Action(_SECRETS + "/secrets", add),
    Action(_SECRETS + "/secrets/{secret}/rotate", rotate),
    Action(_SECRETS + "/secrets/{secret}/revoke", revoke),
    Action(_SECRETS + "/secrets/{secret}/forget", forget),
    Action(_SECRETS + "/pending", approve),
    Action(_SECRETS + "/pending/{node}/refuse", refuse),
)
