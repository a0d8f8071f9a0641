"""Operations about the log buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

import attrs
import msgspec

from osqtwist.logview import LogLine, LogTrimmed, LogView, ServerRow
from osqtwist.operator import Role
from osqtwist.sinkview import DeadLine
from osqtwist.web.operations import NDJSON, Call, Operation


class LinesWanted(msgspec.Struct, forbid_unknown_fields=True, rename={"start": "from"}):
    """Log lines from where on, and whether to wait for more."""

    start: Literal["start", "now"] = "now"
    follow: bool = True


class TrimOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What may go; seconds."""

    older_than: Annotated[float, msgspec.Meta(ge=0, le=1e10)]


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
            Operation("GET", "/api/v1/logs/servers", self.servers, Role.VIEWER),
            Operation("GET", "/api/v1/logs/dead", self.dead_letters, Role.VIEWER, media=NDJSON, lines=(DeadLine,)),
            Operation("POST", "/api/v1/logs/trim", self.trim, Role.ADMIN, body=TrimOrder),
        )

    async def lines(self, call: Call) -> None:
        """Log lines as they come; `from=start` for all that is kept, `follow=0` for no more than that."""
        await self.view.tail(call.emit, from_start=call.query.start == "start", follow=call.query.follow)

    async def servers(self, call: Call) -> BufferServers:
        """The servers that the log buffer is on: how full each is, and what is still to be delivered from it."""
        return {"servers": await self.view.servers()}

    async def dead_letters(self, call: Call) -> None:
        """Dead letters: lines that no log sink could take."""
        await self.view.dead_letters(call.emit)

    async def trim(self, call: Call) -> LogTrimmed:
        """Delete what is older than `{"older_than": SECONDS}`."""
        return await self.view.trim(call.body.older_than)
