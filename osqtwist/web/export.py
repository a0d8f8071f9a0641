"""The operation that gives what the API changed as files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import attrs
import msgspec

from osqtwist.fleetexport import FilePart, FleetExport
from osqtwist.operator import Role
from osqtwist.web.operations import NDJSON, Call, Operation
from osqtwist.web.pacing import PacedAnswer


class ExportEnd(TypedDict):
    """The last line: there are so many files, and that is all of them."""

    type: Literal["end"]
    files: int


@attrs.frozen
class ExportOperations:
    """What operators changed, as files."""

    export: FleetExport

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        lines = (FilePart, ExportEnd)
        return (Operation("GET", "/api/v1/export", self.files, Role.VIEWER, media=NDJSON, lines=lines),)

    async def files(self, call: Call) -> None:
        """What operators changed, as parts of files, without secrets; for admins what access tokens there are, too."""
        paths = set()
        call.set_header("Content-Type", NDJSON)
        with PacedAnswer(self.export.clock, call.request) as answer:
            async for part in self.export.parts(tokens=call.actor.role is Role.ADMIN):
                paths.add(part["path"])
                await answer.write(msgspec.json.encode(part) + b"\n")
            end: ExportEnd = {"type": "end", "files": len(paths)}
            await answer.write(msgspec.json.encode(end) + b"\n")
