"""Targets as people read them and type them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from osqtwist.expression import Matches, term_for

_WILD = re.compile(r"[*?\[]")
_NOT_BARE = re.compile(r'[\s()"]')
_KEYS_OF_NAMES = ("id", "name", "host")


def expression_of(target: Mapping[str, Any]) -> str:
    """What a target says, but for its share, as one expression; empty for every node."""
    parts = []
    if nodes := target.get("nodes"):
        parts.append(_either(_term(key, name) for name in nodes for key in _KEYS_OF_NAMES))
    for field, key in (("tags", "tag"), ("platforms", "platform")):
        if values := target.get(field):
            parts.append(_either(term_for(key, value) for value in values))
    if (where := target.get("where", "").strip()) not in ("", "*"):
        parts.append(where)
    return parts[0] if len(parts) == 1 else " and ".join(f"({part})" for part in parts)


def words_of(target: Mapping[str, Any]) -> str:
    """The same for people, with the share."""
    text = expression_of(target) or "all nodes"
    percent = target.get("percent", 100)
    return text if percent >= 100 else f"{percent:g} % of {text}"


def _either(terms: Iterable[str]) -> str:
    return " or ".join(terms)


def _term(key: str, pattern: str) -> str:
    if not _WILD.search(pattern):
        return term_for(key, pattern)
    # A pattern has no blanks in an expression, so any one letter has to do.
    return str(Matches(key, _NOT_BARE.sub("?", pattern.lower())))
