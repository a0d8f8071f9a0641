"""Access tokens, for programs."""

from __future__ import annotations

from osqtwist.operator import ROLE_WORDS
from osqtwist.web.pages.page import Action, Done, Page, Shown, Visit

_TOKENS = "/credentials/tokens"


async def tokens(visit: Visit) -> Shown:
    """All of them, without their texts."""
    groups = sorted({operation.group for operation in visit.api.operations()})
    return Shown("tokens.html", {**await visit.ask("tokens.tokens"), "roles": ROLE_WORDS, "groups": groups})


async def add(visit: Visit) -> Shown:
    """Hand one out; its text is on this page alone."""
    order = {
        "name": visit.filled("name"),
        "role": visit.filled("role"),
        "groups": visit.words("groups"),
        "expires_in": visit.seconds("days"),
    }
    found = await visit.ask("tokens.add", body=order)
    said = {"what": "access token", "name": found["name"], "text": found["token"], "back": _TOKENS}
    return Shown("shownonce.html", said | {"old_ends_at": None})


async def revoke(visit: Visit) -> Done:
    """Take one back."""
    found = await visit.ask("tokens.revoke", visit.path)
    return Done(f"The token {found['name']} is good for nothing any more.", _TOKENS)


PAGES = (
    Page(_TOKENS, tokens, ("tokens.tokens",)),
    Action(_TOKENS + "/add", add),
    Action(_TOKENS + "/{token}/revoke", revoke),
)
