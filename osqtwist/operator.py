"""Who operates the server, and what each may do."""

from __future__ import annotations

import enum

import attrs


class Role(enum.IntEnum):
    """What somebody may do; each may do what the one before it may."""

    VIEWER = 1
    """Look."""
    OPERATOR = 2
    """Ask nodes, tag and revoke them, steer log sinks."""
    ADMIN = 3
    """All else: what deletes, who may come in, other operators."""

    @property
    def word(self) -> str:
        """As people and settings write it."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> Role:
        """
        The role of that word.

        :raise ValueError: there is none.
        """
        if word not in ROLE_WORDS:
            raise ValueError(f"{word!r} is not a role: they are {', '.join(ROLE_WORDS)}")
        return cls[word.upper()]


ROLE_WORDS = tuple(role.name.lower() for role in Role)


class NotKnown(Exception):
    """Nobody shows who is asking, or it is not true."""


class NotAllowed(Exception):
    """Whoever asks may not do that."""


@attrs.frozen
class Actor:
    """
    Who is asking, as proven.

    :ivar proof: ``socket``, ``certificate`` or ``token``.
    :ivar groups: the groups of operations that a token is good for; empty for all.
    """

    name: str
    role: Role
    proof: str
    groups: frozenset[str] = frozenset()

    def must(self, role: Role, group: str) -> None:
        """
        Check that the actor may do what needs a role, in a group of operations.

        :raise NotAllowed: the actor may not.
        """
        if self.role < role:
            raise NotAllowed(f"{self.name} is {self.role.word}; this needs the role {role.word}")
        if self.groups and group not in self.groups:
            raise NotAllowed(f"{self.name} is good for {', '.join(sorted(self.groups))} only, not for {group}")
