"""Operations about the audit trail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec

from osqtwist.auditentry import AuditEntry
from osqtwist.audittrail import AuditTrail, Verified
from osqtwist.operator import Role
from osqtwist.web.operations import NDJSON, Call, Operation, Page, page_of


class EntriesWanted(Page, forbid_unknown_fields=True):
    """Which entries: with this text in actor, action or detail; refused ones only."""

    text: Annotated[str, msgspec.Meta(max_length=200)] = ""
    refused: bool = False


class AuditPage(TypedDict):
    """Some entries, the newest first."""

    entries: list[AuditEntry]
    next_offset: int | None


@attrs.frozen
class AuditOperations:
    """What operators did, looked at; nothing here changes it."""

    trail: AuditTrail

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation("GET", "/api/v1/audit", self.newest, Role.OPERATOR, query=EntriesWanted),
            Operation("GET", "/api/v1/audit/all", self.all, Role.OPERATOR, media=NDJSON, lines=(AuditEntry,)),
            Operation("GET", "/api/v1/audit/verify", self.verify, Role.OPERATOR),
        )

    async def newest(self, call: Call) -> AuditPage:
        """What operators did, newest first; `text=`: with this in it; `refused=1`: what was refused."""
        wanted: EntriesWanted = call.query
        found = await self.trail.newest(wanted.offset + wanted.limit + 1, wanted.text, wanted.refused)
        entries, next_offset = page_of(found, wanted)
        return {"entries": entries, "next_offset": next_offset}

    async def all(self, call: Call) -> None:
        """All of it, oldest first."""
        await self.trail.all(call.emit)

    async def verify(self, call: Call) -> Verified:
        """Whether each entry follows from the one before."""
        return await self.trail.verify()
