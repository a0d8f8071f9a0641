"""
The ``[sink.NAME]`` blocks of the settings file.

A block has keys of three sorts: of delivery (:class:`DeliveryKeys`), of routing
(:class:`osqtwist.routing.RouteSettings`), and those of its kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import msgspec

from osqtwist.courier import DeliveryLimits
from osqtwist.routing import BadRoute, Route, RouteSettings
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink
from osqtwist.sinks.kinds import kind_named

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class DeliveryKeys(msgspec.Struct, frozen=True, kw_only=True):
    """
    Keys of every sink.

    :ivar start: what a new sink gets: all that is in the buffer (``oldest``), or only what comes ``next``.
    :ivar lines: lines in one delivery, at most.
    :ivar mib: MiB taken from the buffer at once.
    :ivar first_pause: seconds to wait, at most, after a first failure; doubles with each up to ``longest_pause``.
    """

    kind: str
    start: Literal["oldest", "next"] = "oldest"
    lines: int = 1000
    mib: float = 4.0
    first_pause: float = 0.5
    longest_pause: float = 60.0

    def __post_init__(self) -> None:
        for name, least in (("lines", 1), ("mib", 0.001), ("first_pause", 0.001), ("longest_pause", self.first_pause)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be at least {least:g}")

    def limits(self) -> DeliveryLimits:
        """As delivery wants them."""
        return DeliveryLimits(self.lines, int(self.mib * 2**20), self.first_pause, self.longest_pause)


@attrs.frozen
class SinkPlan:
    """What a block says, checked; :meth:`make` makes the sink."""

    name: str
    keys: DeliveryKeys
    route: Route
    kind: Any
    settings: Any

    def make(self, reactor: Any) -> ILogSink:
        """
        The sink.

        :raise BadSinkSetting: its settings cannot work together.
        """
        try:
            sink: ILogSink = self.kind.make(reactor, self.name, self.settings)
        except BadSinkSetting as problem:
            raise BadSinkSetting(f"[sink.{self.name}]: {problem}") from None
        return sink


def read_sinks(blocks: Mapping[str, Mapping[str, Any]]) -> list[SinkPlan]:
    """
    Check every block.

    :raise BadSinkSetting: one sentence that names the block and the key.
    """
    return [_read(name, block) for name, block in blocks.items()]


def _read(name: str, block: Mapping[str, Any]) -> SinkPlan:
    if not _NAME.fullmatch(name):
        raise BadSinkSetting(f"[sink.{name}]: a sink's name has a-z, 0-9, - and _ only, and 32 letters at most")
    if not isinstance(block, Mapping) or "kind" not in block:
        raise BadSinkSetting(f'[sink.{name}]: kind is missing, as in kind = "file"')
    try:
        kind = kind_named(str(block["kind"]))
        mine = {field.name for field in msgspec.structs.fields(DeliveryKeys)}
        routes = {field.name for field in msgspec.structs.fields(RouteSettings)}
        its_own = {field.name for field in msgspec.structs.fields(kind.settings)}
        unknown = [key for key in block if key not in mine | routes | its_own]
        if unknown:
            known = ", ".join(sorted(its_own))
            raise BadSinkSetting(f"{unknown[0]} is not a key of a {block['kind']} sink, which has {known}")
        keys = msgspec.convert({key: value for key, value in block.items() if key in mine}, DeliveryKeys)
        route = Route(msgspec.convert({key: value for key, value in block.items() if key in routes}, RouteSettings))
        settings = msgspec.convert({key: value for key, value in block.items() if key in its_own}, kind.settings)
    except BadSinkSetting as problem:
        raise BadSinkSetting(f"[sink.{name}]: {problem}") from None
    except BadRoute as problem:
        raise BadSinkSetting(f"[sink.{name}]: {problem}") from None
    except msgspec.ValidationError as problem:
        raise BadSinkSetting(f"[sink.{name}]: {_plainly(problem)}") from None
    return SinkPlan(name, keys, route, kind, settings)


def _plainly(problem: msgspec.ValidationError) -> str:
    """What is wrong, with the key first: msgspec puts its path last."""
    text, _, path = str(problem).partition(" - at `$")
    return f"{path.strip('.`')}: {text}" if path.strip(".`") else text
