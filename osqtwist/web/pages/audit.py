"""The audit trail."""

from __future__ import annotations

from osqtwist.web.pages.page import Page, Shown, Visit

_ROWS = 50


async def audit(visit: Visit) -> Shown:
    """What operators did, the newest first; whether the chain is whole, if that is asked."""
    text, refused, offset = visit.asked("text"), visit.asked("refused") == "1", visit.number("offset")
    found = await visit.ask("audit.newest", text=text, refused=refused, limit=_ROWS, offset=offset)
    verified = await visit.ask("audit.verify") if visit.asked("verify") == "1" else None
    values = {"text": text, "refused": refused, "offset": offset, "verified": verified}
    return Shown("audit.html", values | found)


PAGES = (Page("/audit", audit, ("audit.newest", "audit.verify"), nav="Audit"),)
