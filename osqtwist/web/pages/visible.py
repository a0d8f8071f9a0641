"""Text of others, such that all that is in it can be seen, and nothing in it reorders what stands beside it."""

from __future__ import annotations

import json
import re
from typing import Any

# Control characters, and those that turn the direction of what follows.
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def cell(value: Any, most: int = 300) -> str:
    """A value on one line, cut where it is too long."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = _HIDDEN.sub(lambda found: _escape(found[0]), text)
    return text if len(text) <= most else text[: most - 1] + "…"


def lines(value: str) -> str:
    """The same with its own line ends and tabs, and whole."""
    return _HIDDEN.sub(lambda found: found[0] if found[0] in "\n\t" else _escape(found[0]), value.replace("\r\n", "\n"))


def _escape(letter: str) -> str:
    known = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(letter)
    return known or (f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}")
