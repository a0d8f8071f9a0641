"""The routes of operators that are about log sinks."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from twisted.web.server import Request

from osqtwist.sinkview import SinkView
from osqtwist.web.asking import begin_lines, json_of, write_line
from osqtwist.wire import MalformedRequest


class ReplayOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What the body of a replay says: one of the three."""

    since: float | None = None
    after: str = ""
    dead: bool = False


@attrs.frozen
class SinkRoutes:
    """Each method is one route; see :mod:`osqtwist.web.admin`."""

    view: SinkView

    async def sinks(self, request: Request) -> Any:
        """All sinks."""
        return {"sinks": await self.view.rows()}

    async def sink_dead_letters(self, request: Request, sink: str) -> None:
        """Lines that a sink refused."""
        await self.view.known(sink)
        begin_lines(request)
        await self.view.dead_letters(sink, lambda line: write_line(request, line))

    async def pause(self, request: Request, sink: str) -> Any:
        """Stop delivering."""
        return await self.view.pause(sink, True)

    async def resume(self, request: Request, sink: str) -> Any:
        """Go on."""
        return await self.view.pause(sink, False)

    async def replay(self, request: Request, sink: str) -> Any:
        """Deliver again."""
        order: ReplayOrder = json_of(request, ReplayOrder)
        if sum((order.since is not None, bool(order.after), order.dead)) != 1:
            raise MalformedRequest("say one of since, after and dead")
        if order.dead:
            return await self.view.replay_dead(sink)
        try:
            return await self.view.replay(sink, order.after, order.since)
        except ValueError as problem:
            raise MalformedRequest(str(problem)) from None

    async def forget(self, request: Request, sink: str) -> Any:
        """Delete a sink's cursor."""
        return await self.view.forget(sink)
