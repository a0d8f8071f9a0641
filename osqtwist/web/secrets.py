"""Operations about enroll secrets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec

from osqtwist.node import TAG_PATTERN
from osqtwist.operator import Role
from osqtwist.secretbook import NewSecret, RotatedSecret, SecretBook, SecretsForgotten, SecretsRevoked, UsedSecretRow
from osqtwist.web.operations import Call, Operation

_YEARS = 10 * 366 * 86400

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=_YEARS)]
_Tag = Annotated[str, msgspec.Meta(pattern=f"^{TAG_PATTERN.pattern}$")]
_Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class SecretOrder(msgspec.Struct, forbid_unknown_fields=True):
    """
    A new enroll secret; ``expires_in`` in seconds, 0 for never; ``quota`` so many nodes, 0 for any number.

    ``allow`` are shell patterns for the names of nodes, ``secret`` is a text that nodes have already.
    """

    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_.@-]{1,64}$")]
    tags: Annotated[tuple[_Tag, ...], msgspec.Meta(max_length=100)] = ()
    allow: Annotated[tuple[_Pattern, ...], msgspec.Meta(max_length=100)] = ()
    quota: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    expires_in: _Seconds = 0.0
    secret: Annotated[str, msgspec.Meta(max_length=1024)] = ""


class RotateOrder(msgspec.Struct, forbid_unknown_fields=True):
    """How many seconds the old text is good for beside the new one, and the new one at all (0: for ever)."""

    overlap: _Seconds = 7 * 86400.0
    expires_in: _Seconds = 0.0


class AllSecrets(TypedDict):
    """Enroll secrets that operators handed out, the oldest first."""

    secrets: list[UsedSecretRow]


@attrs.frozen
class SecretOperations:
    """Enroll secrets: handed out, listed, rotated, ended."""

    book: SecretBook

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        path = "/api/v1/secrets"
        one = f"{path}/{{secret}}"
        return (
            Operation("GET", path, self.secrets, Role.VIEWER),
            Operation("POST", path, self.add, Role.ADMIN, body=SecretOrder, code=201, has_secret=True),
            Operation("POST", f"{one}/rotate", self.rotate, Role.ADMIN, body=RotateOrder, has_secret=True),
            Operation("POST", f"{one}/revoke", self.revoke, Role.OPERATOR),
            Operation("POST", f"{one}/forget", self.forget, Role.ADMIN),
        )

    async def secrets(self, call: Call) -> AllSecrets:
        """Enroll secrets that operators handed out, without their texts: what each is good for, who used it last."""
        return {"secrets": await self.book.secrets()}

    async def add(self, call: Call) -> NewSecret:
        """Hand out an enroll secret, shown this once: `{"name": ..., "tags": [...], "allow": [...], "quota": 50}`."""
        order: SecretOrder = call.body
        return await self.book.add(
            order.name, call.actor.name, order.secret, order.tags, order.allow, order.quota, order.expires_in
        )

    async def rotate(self, call: Call) -> RotatedSecret:
        """Hand out a new text for it, shown this once; the old one is good for `overlap` seconds more."""
        order: RotateOrder = call.body
        return await self.book.rotate(call.path["secret"], call.actor.name, order.overlap, order.expires_in)

    async def revoke(self, call: Call) -> SecretsRevoked:
        """End it, by name or id; nodes that enrolled by it stay."""
        return await self.book.revoke(call.path["secret"])

    async def forget(self, call: Call) -> SecretsForgotten:
        """Keep nothing of those of that name or id that have ended."""
        return await self.book.forget(call.path["secret"])
