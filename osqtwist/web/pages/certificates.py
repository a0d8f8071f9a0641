"""Certificates of nodes: which end soon, which were renewed, who issued them, and which are refused."""

from __future__ import annotations

from osqtwist.web.pages.page import Action, Done, Page, Shown, Visit

_CERTIFICATES = "/credentials/certificates"
_ROWS = 100


async def certificates(visit: Visit) -> Shown:
    """Each question is one of an index in the store."""
    days = visit.number("within", 30, 3650)
    status = await visit.ask("status.status")
    return Shown(
        "certificates.html",
        {
            "within": days,
            "ending": (await visit.ask("certificates.certificates", within=days, limit=_ROWS))["certificates"],
            "renewed": (await visit.ask("certificates.renewed", within=7, limit=_ROWS))["certificates"],
            "issuers": (await visit.ask("certificates.issuers"))["issuers"],
            "denials": (await visit.ask("denials.list", limit=_ROWS))["denials"],
            "lists": status["revocation_lists"],
            "ocsp": status["ocsp"],
        },
    )


async def deny(visit: Visit) -> Done:
    """Put certificates on the deny list."""
    order: dict[str, object] = {name: visit.filled(name) for name in ("kind", "value", "issuer", "reason")}
    if seconds := visit.seconds("days"):
        order["expires_in"] = seconds
    found = await visit.ask("denials.add", body=order)
    return Done(f"Denied: {found['kind']} {found['value']}.", _CERTIFICATES)


async def allow(visit: Visit) -> Done:
    """Take them off it."""
    await visit.ask("denials.remove", visit.path)
    return Done("The denial is gone.", _CERTIFICATES)


PAGES = (
    Page(_CERTIFICATES, certificates, ("certificates.certificates", "denials.list", "status.status")),
    Action(_CERTIFICATES + "/denials", deny),
    Action(_CERTIFICATES + "/denials/{denial}/remove", allow),
)
