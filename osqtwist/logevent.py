"""
Log events: single lines on their way to sinks.

A batch becomes events when it is delivered.  What a sink writes is :attr:`LogEvent.document`: osquery's line as it
came, with one more key, ``osqtwist``, that holds what the server can vouch for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs
import msgspec


class _Times(msgspec.Struct):
    """As much of a line as says when it happened; osquery writes numbers as numbers or as text."""

    unixTime: int | str | None = None


_times = msgspec.json.Decoder(_Times)
_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


@attrs.frozen(slots=False)
class LogEvent:
    """
    One line for one sink.

    :ivar event_id: 32 hexadecimal digits; the same line sent twice has the same one.
    :ivar document: a JSON object in UTF-8, on one line and without its newline.
    :ivar log_type: ``result`` or ``status``.
    :ivar received_at: when the server took the line, in Unix seconds.
    """

    event_id: str
    node_id: str
    node_name: str
    log_type: str
    received_at: float
    document: bytes

    @cached_property
    def occurred_at(self) -> float:
        """When the node says it happened, in Unix seconds; when the server took it, if the node does not say."""
        try:
            said = _times.decode(self.document).unixTime
            return float(said) if said is not None and 0 < float(said) < 1e11 else self.received_at
        except (msgspec.MsgspecError, ValueError):
            return self.received_at

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """The document, parsed; costs time, so only for sinks and routes that look inside."""
        return _any.decode(self.document)  # type: ignore[no-any-return]
