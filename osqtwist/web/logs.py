"""Operations about the log buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

import attrs
import msgspec

from osqtwist.logview import LogLine, LogTrimmed, LogView, ServerRow
from osqtwist.operator import Role
from osqtwist.routing import BadRoute, Route, RouteSettings
from osqtwist.sinkview import DeadLine
from osqtwist.web.operations import NDJSON, Call, Limit, Operation
from osqtwist.wire import MalformedRequest


class LinesWanted(msgspec.Struct, forbid_unknown_fields=True, rename={"start": "from"}):
    """Log lines from where on, and whether to wait for more."""

    start: Literal["start", "now"] = "now"
    follow: bool = True
    when: str = ""


class NewestWanted(msgspec.Struct, forbid_unknown_fields=True):
    """How many of the newest lines, and of which: an expression as sinks have it."""

    limit: Limit = 100
    when: str = ""


class TrimOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What may go; seconds."""

    older_than: Annotated[float, msgspec.Meta(ge=0, le=1e10)]


class NewestLines(TypedDict):
    """Log lines, the newest first."""

    lines: list[LogLine]


class BufferServers(TypedDict):
    """The servers that the log buffer is on."""

    servers: list[ServerRow]


@attrs.frozen
class LogOperations:
    """What nodes posted, as it lies in the buffer."""

    view: LogView

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation(
                "GET", "/api/v1/logs", self.lines, Role.VIEWER, query=LinesWanted, media=NDJSON, lines=(LogLine,)
            ),
            Operation("GET", "/api/v1/logs/newest", self.newest, Role.VIEWER, query=NewestWanted),
            Operation("GET", "/api/v1/logs/servers", self.servers, Role.VIEWER),
            Operation("GET", "/api/v1/logs/dead", self.dead_letters, Role.VIEWER, media=NDJSON, lines=(DeadLine,)),
            Operation("POST", "/api/v1/logs/trim", self.trim, Role.ADMIN, body=TrimOrder),
        )

    async def lines(self, call: Call) -> None:
        """Log lines as they come; `from=start` for all that is kept, `follow=0` for no more; `when=EXPRESSION`."""
        wanted: LinesWanted = call.query
        only = _route(wanted.when)
        await self.view.tail(call.emit, from_start=wanted.start == "start", follow=wanted.follow, only=only)

    async def newest(self, call: Call) -> NewestLines:
        """The newest lines in the log buffer; `when=EXPRESSION`: those of them that it means."""
        return {"lines": await self.view.newest(call.query.limit, _route(call.query.when))}

    async def servers(self, call: Call) -> BufferServers:
        """The servers that the log buffer is on: how full each is, and what is still to be delivered from it."""
        return {"servers": await self.view.servers()}

    async def dead_letters(self, call: Call) -> None:
        """Dead letters: lines that no log sink could take."""
        await self.view.dead_letters(call.emit)

    async def trim(self, call: Call) -> LogTrimmed:
        """Delete what is older than `{"older_than": SECONDS}`."""
        return await self.view.trim(call.body.older_than)


def _route(when: str) -> Route:
    try:
        return Route(RouteSettings(when=when))
    except BadRoute as problem:
        raise MalformedRequest(str(problem)) from None
