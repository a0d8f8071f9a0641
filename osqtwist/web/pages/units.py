"""Numbers and times as people read them."""

from __future__ import annotations

import datetime

_SPANS = (("d", 86400), ("h", 3600), ("min", 60))
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def span(seconds: float) -> str:
    """How long something lasts."""
    for unit, length in _SPANS:
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def ago(at: float | None, now: float) -> str:
    """A Unix time, by how long ago it was, or in how long it will be."""
    if not at:
        return "never"
    return f"{span(now - at)} ago" if now - at > -1 else f"in {span(at - now)}"


def moment(at: float | None) -> str:
    """A Unix time as ISO 8601 has it, in UTC."""
    if not at:
        return ""
    try:
        return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return ""


def size(count: float) -> str:
    """Bytes."""
    for unit in _SIZES:
        if abs(count) < 1024 or unit == _SIZES[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def amount(count: float) -> str:
    """A number: short, with its thousands apart."""
    if count != int(count) and abs(count) < 100:
        return f"{count:.1f}"
    return f"{count:,.0f}".replace(",", "\u202f")
