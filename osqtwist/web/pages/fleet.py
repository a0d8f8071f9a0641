"""The fleet at a glance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from osqtwist.web.pages.charts import Chart, chart, known_part, round_size
from osqtwist.web.pages.page import Page, Shown, Visit
from osqtwist.web.pages.units import amount, size, span

_SOON_DAYS = 30
_VERY_SOON_DAYS = 14
_LEAST_POINTS = 60


@attrs.frozen
class Concern:
    """
    Something that somebody should look at.

    :ivar kind: ``bad`` or ``warn``.
    :ivar where: a page that shows more, if there is one.
    """

    kind: str
    text: str
    where: str = ""


async def fleet(visit: Visit) -> Shown:
    """Figures, curves, and what needs a look."""
    wanted = "day" if visit.asked("span") == "day" else "hour"
    status = await visit.ask("status.status")
    history = await visit.ask("history.curves", span=wanted)
    ends = (await visit.ask("certificates.certificates", within=_SOON_DAYS, limit=5))["certificates"]
    values = {
        "status": status,
        "span": wanted,
        "charts": _charts(history, status),
        "ends": ends,
        "concerns": _concerns(status, ends),
    }
    return Shown("fleet.html", values)


def _charts(history: dict[str, Any], status: dict[str, Any]) -> list[Chart]:
    figures = known_part(history["figures"], _LEAST_POINTS)
    step, at = history["step"], history["at"]

    def one(title: str, *curves: tuple[str, str], write: Callable[[float], str] = amount, **more: Any) -> Chart:
        return chart(title, [(name, figures[figure]) for name, figure in curves], step, at, write, **more)

    budget = status["log_buffer"]["budget_bytes"]
    return [
        one("Nodes", ("online", "nodes_online"), ("known", "nodes"), least_top=5),
        one("Log lines", ("lines", "log_lines"), unit="a second"),
        one("Connections", ("open", "connections"), ("held reads", "parked_reads"), least_top=5),
        one("New connections", ("accepted", "accepted"), unit="a second"),
        one("Enrollments", ("enrolled", "enrollments"), unit="a second"),
        one("Refusals", ("refused", "refusals"), unit="a second"),
        one(
            "Log buffer",
            ("bytes", "log_buffer_bytes"),
            write=size,
            rounded=round_size,
            least_top=2**20,
            limit=budget or None,
        ),
        one("Lines that sinks are behind", ("lines", "sink_lag_lines"), least_top=10),
        one("Query results", ("results", "results"), unit="a second"),
    ]


def _concerns(status: dict[str, Any], ends: list[dict[str, Any]]) -> list[Concern]:
    """The gravest first."""
    buffer = status["log_buffer"]
    found = [
        (buffer["shut"], Concern("bad", "The log buffer is full: nodes keep their lines until there is room.")),
        (buffer["away"], Concern("bad", f"Log servers that do not answer: {', '.join(buffer['away'])}.")),
    ]
    for name, sink in status["sinks"].items():
        if sink["state"] == "unserved":
            found.append((True, Concern("bad", f"Nothing delivers to the sink {name}.", "/logs/sinks")))
        elif sink["state"] == "waiting":
            behind = f"{amount(sink['lag_lines'])} lines behind, by {span(sink['lag_seconds'])}"
            found.append((True, Concern("warn", f"The sink {name} does not take its lines: {behind}.", "/logs/sinks")))
    ended = sum(each["days"] <= 0 for each in ends)
    found += [
        (ended, Concern("bad", "There are nodes whose certificate has ended: they cannot connect.", "#certificates")),
        (
            any(0 < each["days"] <= _VERY_SOON_DAYS for each in ends),
            Concern("warn", f"There are nodes whose certificate ends within {_VERY_SOON_DAYS} days.", "#certificates"),
        ),
        (
            buffer["dead_letters"],
            Concern("warn", f"{amount(buffer['dead_letters'])} log lines are dead letters.", "/logs/dead"),
        ),
        (status["node_clones"], Concern("warn", f"Clones: {amount(status['node_clones'])} pairs of machines.")),
        (
            status["nodes_pending"],
            Concern("warn", f"Nodes that wait for approval: {status['nodes_pending']}.", "/credentials"),
        ),
        (status["ease"]["level"], Concern("warn", "The server is busy: nodes are told to come less often.")),
    ]
    return [concern for applies, concern in found if applies]


PAGES = (Page("/", fleet, ("status.status", "history.curves", "certificates.certificates"), nav="Fleet"),)
