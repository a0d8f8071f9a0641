"""Operations about access tokens, and who one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec

from osqtwist.access import Access, NewToken, TokenRow, TokensRevoked
from osqtwist.operator import Role, RoleWord
from osqtwist.web.operations import Call, Operation

_YEARS = 5 * 366 * 86400


class TokenOrder(msgspec.Struct, forbid_unknown_fields=True):
    """A new token; ``expires_in`` in seconds, ``groups`` none for all."""

    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_.@-]{1,64}$")]
    role: RoleWord = "viewer"
    groups: tuple[str, ...] = ()
    expires_in: Annotated[float, msgspec.Meta(gt=0, le=_YEARS)] = 90 * 86400.0


class Me(TypedDict):
    """Who one is, what shows it, and what one may do; no groups are all groups."""

    name: str
    role: RoleWord
    proof: str
    groups: list[str]


class AllTokens(TypedDict):
    """Access tokens."""

    tokens: list[TokenRow]


@attrs.frozen
class TokenOperations:
    """Tokens for programs: handed out, listed, taken back."""

    access: Access

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation("GET", "/api/v1/me", self.me, Role.VIEWER),
            Operation("GET", "/api/v1/tokens", self.tokens, Role.ADMIN),
            Operation("POST", "/api/v1/tokens", self.add, Role.ADMIN, body=TokenOrder, code=201, has_secret=True),
            Operation("POST", "/api/v1/tokens/{token}/revoke", self.revoke, Role.ADMIN),
        )

    async def me(self, call: Call) -> Me:
        """Who you are here, and what you may do."""
        actor = call.actor
        return {"name": actor.name, "role": actor.role.word, "proof": actor.proof, "groups": sorted(actor.groups)}

    async def tokens(self, call: Call) -> AllTokens:
        """Tokens, without their texts."""
        return {"tokens": await self.access.tokens()}

    async def add(self, call: Call) -> NewToken:
        """Hand out a token, shown this once: `{"name": ..., "role": "viewer", "groups": [...], "expires_in": 60}`."""
        order: TokenOrder = call.body
        return await self.access.add(order.name, Role.of(order.role), order.groups, order.expires_in, call.actor)

    async def revoke(self, call: Call) -> TokensRevoked:
        """Take a token back, by name or id."""
        return await self.access.revoke(call.path["token"])
