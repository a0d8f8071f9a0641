"""Times and durations, as people type them."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(text: str) -> float:
    return float(text[:-1]) * _UNITS[text[-1]] if text[-1:] in _UNITS else float(text)


class Moment(click.ParamType[float]):
    """
    A time: ``2h`` (from now; s, m, h, d), Unix seconds, or ISO 8601 (local unless it says otherwise).

    :param is_past: whether ``2h`` means two hours ago, not in two hours.
    """

    name = "time"

    def __init__(self, *, is_past: bool) -> None:
        self._sign = -1 if is_past else 1

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Unix seconds."""
        text = str(value)
        try:
            if text[-1:] in _UNITS:
                return time.time() + self._sign * _seconds(text)
            return float(text) if text.replace(".", "", 1).isdecimal() else datetime.fromisoformat(text).timestamp()
        except ValueError:
            self.fail(f"{text!r} is not a time, such as 2h, 1790000000 or 2026-09-21T14:00", param, ctx)


class Duration(click.ParamType[float]):
    """How long: ``90``, ``90s``, ``15m``, ``2h``, ``7d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        try:
            found = _seconds(str(value))
        except ValueError:
            found = 0.0
        if not 0 < found < float("inf"):
            self.fail(f"{str(value)!r} is not how long something lasts, such as 90s, 15m, 2h or 7d", param, ctx)
        return found
