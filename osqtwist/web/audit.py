"""Operations about the audit trail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from osqtwist.audittrail import AuditTrail
from osqtwist.operator import Role
from osqtwist.web.operations import NDJSON, Call, Operation, Page, page_of


@attrs.frozen
class AuditOperations:
    """What operators did, looked at; nothing here changes it."""

    trail: AuditTrail

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation("GET", "/api/v1/audit", self.newest, Role.OPERATOR, query=Page),
            Operation("GET", "/api/v1/audit/all", self.all, Role.OPERATOR, media=NDJSON),
            Operation("GET", "/api/v1/audit/verify", self.verify, Role.OPERATOR),
        )

    async def newest(self, call: Call) -> Any:
        """What operators did, newest first."""
        page: Page = call.query
        return page_of(await self.trail.newest(page.offset + page.limit + 1), page, "entries")

    async def all(self, call: Call) -> None:
        """All of it, oldest first."""
        await self.trail.all(call.emit)

    async def verify(self, call: Call) -> Any:
        """Whether each entry follows from the one before."""
        return await self.trail.verify()
