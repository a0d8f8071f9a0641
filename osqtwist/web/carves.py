"""Operations about carves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import attrs
from twisted.protocols.basic import FileSender

from osqtwist.carves import CarveRow, Carves
from osqtwist.operator import Role
from osqtwist.web.operations import Call, Operation, Page, page_of


class CarvePage(TypedDict):
    """Some carves, newest first."""

    carves: list[CarveRow]
    next_offset: int | None


@attrs.frozen
class CarveOperations:
    """Files that nodes sent."""

    files: Carves

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation("GET", "/api/v1/carves", self.carves, Role.VIEWER, query=Page),
            Operation(
                "GET",
                "/api/v1/carves/{carve}/file",
                self.file,
                Role.OPERATOR,
                media="application/octet-stream",
            ),
        )

    async def carves(self, call: Call) -> CarvePage:
        """Carves, newest first."""
        page: Page = call.query
        rows, next_offset = page_of(await self.files.listing(page.offset + page.limit + 1), page)
        return {"carves": rows, "next_offset": next_offset}

    async def file(self, call: Call) -> None:
        """The bytes of a complete carve, with their SHA-256 in the header X-Carve-SHA256."""
        path, sha256 = await self.files.file_of(call.path["carve"])
        with path.open("rb") as file:
            call.set_header("Content-Type", "application/octet-stream")
            call.set_header("Content-Length", str(path.stat().st_size))
            call.set_header("X-Carve-SHA256", sha256)
            call.set_header("X-Carve-File-Name", path.name)
            await FileSender().beginFileTransfer(file, call.request)
