"""Operations about log sinks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec

from osqtwist.operator import Role
from osqtwist.sinkview import (
    SinkDeadLine,
    SinkForgotten,
    SinkPaused,
    SinkReplayed,
    SinkRow,
    SinkView,
)
from osqtwist.web.operations import NDJSON, Call, Operation
from osqtwist.wire import MalformedRequest


class ReplayOrder(msgspec.Struct, forbid_unknown_fields=True):
    """From where on to deliver again: one of the three."""

    since: Annotated[float, msgspec.Meta(ge=0, le=1e11, description="Unix time")] | None = None
    after: str = ""
    dead: bool = False


class AllSinks(TypedDict):
    """Log sinks, by name."""

    sinks: list[SinkRow]


@attrs.frozen
class SinkOperations:
    """Log sinks: looked at, paused, replayed."""

    view: SinkView

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        sink = "/api/v1/sinks/{sink}"
        return (
            Operation("GET", "/api/v1/sinks", self.sinks, Role.VIEWER),
            Operation("GET", f"{sink}/dead", self.dead_letters, Role.VIEWER, media=NDJSON, lines=(SinkDeadLine,)),
            Operation("POST", f"{sink}/pause", self.pause, Role.OPERATOR),
            Operation("POST", f"{sink}/resume", self.resume, Role.OPERATOR),
            Operation("POST", f"{sink}/replay", self.replay, Role.OPERATOR, body=ReplayOrder),
            Operation("POST", f"{sink}/forget", self.forget, Role.ADMIN),
        )

    async def sinks(self, call: Call) -> AllSinks:
        """Log sinks: how far each has come, and what is wrong with it."""
        return {"sinks": await self.view.rows()}

    async def dead_letters(self, call: Call) -> None:
        """Lines that the sink refused, and why."""
        await self.view.known(call.path["sink"])
        await self.view.dead_letters(call.path["sink"], call.emit)

    async def pause(self, call: Call) -> SinkPaused:
        """Stop delivering to it."""
        return await self.view.pause(call.path["sink"], True)

    async def resume(self, call: Call) -> SinkPaused:
        """Go on."""
        return await self.view.pause(call.path["sink"], False)

    async def replay(self, call: Call) -> SinkReplayed:
        """Deliver again: `{"since": TIME}`, `{"after": BATCH}` or `{"dead": true}`."""
        order: ReplayOrder = call.body
        if sum((order.since is not None, bool(order.after), order.dead)) != 1:
            raise MalformedRequest("say one of since, after and dead")
        if order.dead:
            return await self.view.replay_dead(call.path["sink"])
        try:
            return await self.view.replay(call.path["sink"], order.after, order.since)
        except ValueError as problem:
            raise MalformedRequest(str(problem)) from None

    async def forget(self, call: Call) -> SinkForgotten:
        """Delete its cursor; the buffer keeps nothing for it any more."""
        return await self.view.forget(call.path["sink"])
