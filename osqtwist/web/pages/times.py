"""Times and durations as people type them into a form, where a server cannot know their time zone."""

from __future__ import annotations

import datetime
import re

from osqtwist.wire import MalformedRequest

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([smhd]?)")


def duration(text: str) -> float | None:
    """Seconds that ``90``, ``90s``, ``15m``, ``2h`` or ``7d`` say; nothing for what is none."""
    found = _DURATION.fullmatch(text.strip().lower())
    return float(found[1]) * _UNITS[found[2] or "s"] if found else None


def moment(text: str) -> float:
    """
    The Unix time that ISO 8601 says, in UTC where it has no offset.

    :raise MalformedRequest: it says none.
    """
    try:
        found = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise MalformedRequest(f"{text[:64]!r} is no time, such as 2h or 2026-12-01T22:00") from None
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()
