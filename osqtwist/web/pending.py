"""Operations about nodes that wait for approval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec

from osqtwist.approval import MOST_AT_ONCE, Approvals, NodesApproved, NodesRefused, PendingRow
from osqtwist.operator import Role
from osqtwist.web.operations import Call, Operation, Page, page_of


class PendingWanted(Page, forbid_unknown_fields=True):
    """Which of them: those of an expression."""

    where: str = ""


class ApproveOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Whom to let in: names or ids, and everybody whom an expression means."""

    nodes: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_AT_ONCE)] = ()
    where: str = ""


class RefuseOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Why it stays out."""

    reason: Annotated[str, msgspec.Meta(max_length=500)] = ""


class PendingPage(TypedDict):
    """Some nodes that wait."""

    pending: list[PendingRow]
    next_offset: int | None


@attrs.frozen
class PendingOperations:
    """Nodes that wait: listed, let in, refused."""

    approvals: Approvals

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation("GET", "/api/v1/pending", self.waiting, Role.VIEWER, query=PendingWanted),
            Operation("POST", "/api/v1/pending", self.approve, Role.OPERATOR, body=ApproveOrder),
            Operation("POST", "/api/v1/pending/{node}/refuse", self.refuse, Role.OPERATOR, body=RefuseOrder),
        )

    async def waiting(self, call: Call) -> PendingPage:
        """Nodes that wait for approval, who asked last first."""
        wanted: PendingWanted = call.query
        rows, next_offset = page_of(await self.approvals.waiting(wanted.where, wanted.offset, wanted.limit), wanted)
        return {"pending": rows, "next_offset": next_offset}

    async def approve(self, call: Call) -> NodesApproved:
        """Let nodes in that wait: `{"nodes": [...]}`, or `{"where": "..."}`."""
        return await self.approvals.approve(call.body.nodes, call.body.where)

    async def refuse(self, call: Call) -> NodesRefused:
        """Revoke a node that waits."""
        return await self.approvals.refuse(call.path["node"], call.body.reason)
