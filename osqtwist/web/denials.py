"""Operations about the deny list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec

from osqtwist.denial import DenialKind
from osqtwist.denials import DenialRemoved, DenialRow, Denials
from osqtwist.operator import Role
from osqtwist.web.operations import Call, Operation, Page, page_of

_YEARS = 10 * 366 * 86400


class DenialOrder(msgspec.Struct, forbid_unknown_fields=True):
    """
    Certificates to deny.

    ``kind`` says what ``value`` is: a serial number (hexadecimal; of an ``issuer``, or of everybody), the SHA-256
    fingerprint of a certificate, or the identity that certificates prove (a shell pattern).  ``expires_in`` in seconds.
    """

    kind: DenialKind
    value: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    issuer: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    reason: Annotated[str, msgspec.Meta(max_length=500)] = ""
    expires_in: Annotated[float, msgspec.Meta(gt=0, le=_YEARS)] | None = None


class DenialPage(TypedDict):
    """Some denials, the oldest first."""

    denials: list[DenialRow]
    next_offset: int | None


@attrs.frozen
class DenialOperations:
    """The deny list: seen and changed."""

    denials: Denials

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation("GET", "/api/v1/denials", self.list, Role.VIEWER, query=Page),
            Operation("POST", "/api/v1/denials", self.add, Role.OPERATOR, body=DenialOrder, code=201),
            Operation("POST", "/api/v1/denials/{denial}/remove", self.remove, Role.OPERATOR),
        )

    async def list(self, call: Call) -> DenialPage:
        """Certificates that are denied, the oldest first; those whose time was up lately too."""
        rows, next_offset = page_of(await self.denials.rows(), call.query)
        return {"denials": rows, "next_offset": next_offset}

    async def add(self, call: Call) -> DenialRow:
        """Deny certificates: `{"kind": "serial", "value": ..., "issuer": ..., "reason": ..., "expires_in": 3600}`."""
        order: DenialOrder = call.body
        return await self.denials.add(
            order.kind, order.value, order.issuer, order.reason, order.expires_in, call.actor.name
        )

    async def remove(self, call: Call) -> DenialRemoved:
        """Deny them no more, by the id of the denial."""
        return await self.denials.remove(call.path["denial"])
