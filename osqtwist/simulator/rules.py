"""
What the client makes of answers, and when it tries again (utility.h, json.cpp, tls_enroll.cpp, buffered.cpp).

The HTTP status counts for nothing.  An empty body is ``{}``.  ``node_invalid``, if it is really ``true``, drops the
node key.  A top-level ``error``, whatever its value, is a failure.
"""

from __future__ import annotations

import json
from typing import Any


class CallFailed(Exception):
    """A call to the server failed; the text is what osquery would log."""


class NodeInvalid(CallFailed):
    """The server does not know the node key; it is dropped."""


def understand(body: bytes) -> dict[str, Any]:
    """
    The object that an answer to config, log or distributed holds.

    :raise NodeInvalid: ``node_invalid`` is true.
    :raise CallFailed: the body is not JSON, or has an ``error``.
    """
    if not body:
        return {}
    try:
        found = json.loads(body)
    except ValueError:
        raise CallFailed("Cannot parse JSON") from None
    if not isinstance(found, dict):
        raise CallFailed("not an object")
    if found.get("node_invalid") is True:
        raise NodeInvalid(f"node_invalid: {found.get('error', '')}")
    if "error" in found:
        raise CallFailed(f"Request failed: {found['error']}")
    return found


def understand_enroll(body: bytes) -> str:
    """
    The node key that an answer to enroll holds; neither ``node_invalid`` nor ``error`` is looked at.

    :raise CallFailed: there is no usable one.
    """
    try:
        found = json.loads(body) if body else {}
    except ValueError:
        raise CallFailed("Cannot parse JSON") from None
    key = found.get("node_key", found.get("id")) if isinstance(found, dict) else None
    if not isinstance(key, str) or not key:
        raise CallFailed("No node key returned from TLS enroll plugin")
    return key


def understand_carve(body: bytes) -> dict[str, Any]:
    """
    The JSON of an answer to a carve; only a body that is not JSON is a failure.

    :raise CallFailed: it is not JSON.
    """
    try:
        found = json.loads(body) if body else {}
    except ValueError:
        raise CallFailed("Cannot parse JSON") from None
    return found if isinstance(found, dict) else {}


def enroll_wait(failures: int, max_interval: float = 600.0) -> float:
    """Seconds after the n-th failed enrollment of a round."""
    return float(min(failures * failures, max_interval))


def call_wait(failures: int) -> float:
    """Seconds after the n-th failed attempt of a config or distributed call."""
    return float(failures * failures)


def log_wait(failures: int, period: float, longest: float = 3600.0) -> float:
    """Seconds to the next flush of the logger after n failed ones."""
    if not failures or not longest:
        return period
    return min(period * failures * failures, longest)
