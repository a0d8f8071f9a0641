"""Alert rules and silences, and what rules would have said."""

from __future__ import annotations

from osqtwist.web.pages.page import Action, Done, Page, Shown, Visit

_ALERTS = "/alerts"


async def alerts(visit: Visit) -> Shown:
    """All of it; the script runs trials."""
    trial = {"rule": visit.asked("rule"), "when": visit.asked("when"), "hours": visit.asked("hours", "1")}
    return Shown("alerts.html", {**await visit.ask("alerts.alerts"), "trial": trial})


async def silence(visit: Visit) -> Done:
    """Tell of no alerts for a time."""
    rule, when, why = visit.filled("rule"), visit.filled("when"), visit.filled("why")
    order = {"rule": rule, "when": when, "why": why, "seconds": visit.seconds("hours", 3600)}
    await visit.ask("alerts.silence", body=order)
    about = " and ".join(filter(None, (f"the rule {rule}" if rule else "", f"lines of {when}" if when else "")))
    return Done(f"Alerts of {about} are kept silent for {visit.filled('hours')} hours.", _ALERTS)


async def unsilence(visit: Visit) -> Done:
    """Tell of them again."""
    await visit.ask("alerts.unsilence", visit.path)
    return Done("The silence has ended.", _ALERTS)


PAGES = (
    Page(_ALERTS, alerts, ("alerts.alerts",), nav="Alerts"),
    Action(_ALERTS + "/silences", silence),
    Action(_ALERTS + "/silences/{silence}/end", unsilence),
)
