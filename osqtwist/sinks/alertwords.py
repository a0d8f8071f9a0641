"""What is said of an event to people: of an alert its own words, of any other line its name."""

from __future__ import annotations

import attrs

from osqtwist.logevent import LogEvent

SEVERITIES = ("info", "warning", "error", "critical")


@attrs.frozen
class Words:
    """
    An event in words.

    :ivar group: the same for what is one thing.
    """

    text: str
    severity: str
    rule: str
    group: str


def words_of(event: LogEvent) -> Words:
    """An event in words."""
    fields = event.fields
    columns = fields.get("columns")
    if event.log_type == "alert" and isinstance(columns, dict):
        severity = str(columns.get("severity", ""))
        return Words(
            str(columns.get("text", "")) or "an alert",
            severity if severity in SEVERITIES else "warning",
            str(columns.get("rule", "")),
            str(columns.get("group", "")) or event.event_id,
        )
    name = str(fields.get("name") or event.log_type)
    return Words(f"{name} on {event.node_name}", "info", name, event.event_id)
