"""Operations about figures over time."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import msgspec

from osqtwist.history import Curves, History, SpanName
from osqtwist.operator import Role
from osqtwist.web.operations import Call, Operation


class CurvesWanted(msgspec.Struct, forbid_unknown_fields=True):
    """How far back."""

    span: SpanName = "hour"


@attrs.frozen
class HistoryOperations:
    """What the figures were."""

    history: History

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (Operation("GET", "/api/v1/history", self.curves, Role.VIEWER, query=CurvesWanted),)

    async def curves(self, call: Call) -> Curves:
        """The figures of the last hour, a point every 10 s, or of the last day, one every 5 min."""
        return await self.history.curves(call.query.span)
