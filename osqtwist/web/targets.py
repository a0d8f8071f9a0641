"""Operations about targets: how many nodes one means, and what there is to say in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

import attrs
import msgspec

from osqtwist.census import Census, FleetWord, Headcount
from osqtwist.operator import Role
from osqtwist.targeting import Target
from osqtwist.web.operations import Call, Operation

_Key = Literal["cn", "host", "id", "issuer", "name", "platform", "proof", "secret", "tag", "version"]


class WordsWanted(msgspec.Struct, forbid_unknown_fields=True):
    """Which values, of what key of an expression."""

    key: _Key
    begun: Annotated[str, msgspec.Meta(max_length=255, description="how they begin, in capitals or not")] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=200, description="how many at most")] = 50


class FleetWords(TypedDict):
    """What fits, that of most nodes first."""

    words: list[FleetWord]


@attrs.frozen
class TargetOperations:
    """Targets, while they are written."""

    census: Census

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation("POST", "/api/v1/targets/count", self.count, Role.VIEWER, body=Target, only_asks=True),
            Operation("GET", "/api/v1/targets/words", self.words, Role.VIEWER, query=WordsWanted),
        )

    async def count(self, call: Call) -> Headcount:
        """How many nodes a target means, and how many of them are online: `{"where": "tag:prod"}`."""
        return await self.census.count(call.body)

    async def words(self, call: Call) -> FleetWords:
        """The values that nodes have for a key of an expression, those of most nodes first; as they were lately."""
        wanted: WordsWanted = call.query
        return {"words": await self.census.words(wanted.key, wanted.begun, wanted.limit)}
