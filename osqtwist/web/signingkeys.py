"""Operations about the keys that sign node keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import attrs

from osqtwist.operator import Role
from osqtwist.signingkeys import BadKeyChange, SigningKeyBook, SigningKeyRow
from osqtwist.web.operations import Call, Operation


class SigningKeys(TypedDict):
    """The signing keys, the newest first."""

    signing_keys: list[SigningKeyRow]


@attrs.frozen
class SigningKeyOperations:
    """Signing keys: seen, rotated, retired."""

    book: SigningKeyBook | None

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (
            Operation("GET", "/api/v1/signing-keys", self.list, Role.VIEWER),
            Operation("POST", "/api/v1/signing-keys/rotate", self.rotate, Role.ADMIN),
            Operation("POST", "/api/v1/signing-keys/{key}/retire", self.retire, Role.ADMIN),
        )

    async def list(self, call: Call) -> SigningKeys:
        """The keys that sign node keys, without their secrets, and how many requests came with node keys of each."""
        return {"signing_keys": self.book.rows() if self.book else []}

    async def rotate(self, call: Call) -> SigningKeys:
        """Make a new one, which signs in ten seconds, when every process knows it; the others are accepted on."""
        return {"signing_keys": self._book.rotate()}

    async def retire(self, call: Call) -> SigningKeys:
        """Accept one no more: nodes that have a node key of it enroll again."""
        return {"signing_keys": self._book.retire(call.path["key"])}

    @property
    def _book(self) -> SigningKeyBook:
        if self.book is None:
            raise BadKeyChange("this server has no file of signing keys")
        return self.book
