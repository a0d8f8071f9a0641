"""Who operates the server, and what each may do."""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Literal

import attrs
import msgspec

RoleWord = Literal["viewer", "operator", "admin"]


class Role(enum.IntEnum):
    """What somebody may do; each may do what the one before it may."""

    VIEWER = 1
    """Look."""
    OPERATOR = 2
    """Ask nodes, tag and revoke them, steer log sinks."""
    ADMIN = 3
    """All else: what deletes, who may come in, other operators."""

    @property
    def word(self) -> RoleWord:
        """As people and settings write it."""
        return _WORDS[self]

    @classmethod
    def of(cls, word: str) -> Role:
        """
        The role of that word.

        :raise ValueError: there is none.
        """
        if word not in ROLE_WORDS:
            raise ValueError(f"{word!r} is not a role: they are {', '.join(ROLE_WORDS)}")
        return cls[word.upper()]


_WORDS: dict[Role, RoleWord] = {Role.VIEWER: "viewer", Role.OPERATOR: "operator", Role.ADMIN: "admin"}
ROLE_WORDS = tuple(_WORDS.values())


class NotKnown(Exception):
    """Nobody shows who is asking, or it is not true."""


class NotAllowed(Exception):
    """Whoever asks may not do that."""


@attrs.frozen
class Actor:
    """
    Who is asking, as proven.

    :ivar proof: ``socket``, ``certificate``, ``token`` or ``session``.
    :ivar groups: the groups of operations that a token is good for; empty for all.
    :ivar token_id: the token's.
    """

    name: str
    role: Role
    proof: str
    groups: frozenset[str] = frozenset()
    token_id: str = ""

    def must(self, role: Role, group: str) -> None:
        """
        Check that the actor may do what needs a role, in a group of operations.

        :raise NotAllowed: the actor may not.
        """
        if self.role < role:
            raise NotAllowed(f"{self.name} is {self.role.word}; this needs the role {role.word}")
        if self.groups and group not in self.groups:
            raise NotAllowed(f"{self.name} is good for {', '.join(sorted(self.groups))} only, not for {group}")


# A word that scanners for leaked secrets can look for, an id that is no secret, and 256 bits by chance.
_TOKEN = re.compile(r"osqtwist_([0-9a-f]{12})_([\w-]{43})")


class AccessToken(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is kept of a token that lets a program in; the token itself is not.

    :ivar groups: the groups of operations that it is good for; none for all.
    :ivar expires_at: Unix time, as all here.
    :ivar digest: SHA-256 of the token.  It has 256 bits by chance, so nothing slower is needed.
    :ivar used_at: when it was last used, to the minute; 0 for never.
    """

    token_id: str
    name: str
    role: RoleWord
    groups: tuple[str, ...] = ()
    created_at: float
    created_by: str
    expires_at: float
    digest: str
    used_at: float = 0.0

    @property
    def actor(self) -> Actor:
        """Who comes in with it."""
        return Actor(f"token {self.name}", Role.of(self.role), "token", frozenset(self.groups), self.token_id)

    def opens(self, text: str, now: float) -> bool:
        """Whether this is the token, and it is still good."""
        return hmac.compare_digest(self.digest, _digest(text)) and now < self.expires_at


def new_token(
    name: str, role: Role, groups: Sequence[str], now: float, expires_at: float, created_by: str
) -> tuple[AccessToken, str]:
    """A token, and its text, which is nowhere else from now on."""
    token_id = secrets.token_hex(6)
    text = f"osqtwist_{token_id}_{secrets.token_urlsafe(32)}"
    kept = AccessToken(
        token_id=token_id,
        name=name,
        role=role.word,
        groups=tuple(groups),
        created_at=now,
        created_by=created_by,
        expires_at=expires_at,
        digest=_digest(text),
    )
    return kept, text


def token_id_of(text: str) -> str:
    """The id in a token's text; empty if it is none."""
    found = _TOKEN.fullmatch(text)
    return found[1] if found else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
