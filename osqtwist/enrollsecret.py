"""Enroll secrets: those of a file, those that operators hand out, and what each is good for."""

from __future__ import annotations

import fnmatch
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence

import attrs
import msgspec

from osqtwist.node import TAG_PATTERN

NAME_PATTERN = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
SHORTEST = 16
"""A secret that an operator brings along has so many characters at least."""
_BITS = 256


class EnrollSecret(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One enroll secret, kept as its SHA-256.

    :ivar secret_id: empty for one of the file, which has neither a name nor limits.
    :ivar tags: what nodes get by it.
    :ivar allow: shell patterns; who enrolls by it must be called so, by its certificate or else by its own word.
    :ivar quota: so many nodes may enroll by it; 0 for any number.
    :ivar expires_at: Unix time from which on it is refused; 0 for never.
    """

    digest: bytes
    secret_id: str = ""
    name: str = ""
    tags: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    quota: int = 0
    created_at: float = 0.0
    created_by: str = ""
    expires_at: float = 0.0

    def __repr__(self) -> str:
        return f"EnrollSecret({self.secret_id or 'of the file'})"

    def has_ended(self, now: float) -> bool:
        """Whether it is refused to everybody."""
        return 0 < self.expires_at <= now

    def allows(self, name: str) -> bool:
        """Whether a node of this name may enroll by it."""
        return not self.allow or any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in self.allow)


@attrs.define
class EnrollSecrets:
    """
    The enroll secrets in force.

    :ivar of_file: replaced whole when their file changes.
    :ivar stored: those that operators handed out, the ended ones too; ``None`` until the store was asked.
    """

    of_file: tuple[EnrollSecret, ...] = ()
    stored: tuple[EnrollSecret, ...] | None = ()

    def match(self, text: str, now: float) -> EnrollSecret | None:
        """The secret that was given, compared with all of them in constant time; one that has not ended if there is."""
        digest = digest_of(text)
        found: EnrollSecret | None = None
        for candidate in (*self.of_file, *(self.stored or ())):
            is_it = hmac.compare_digest(candidate.digest, digest)
            if is_it and (found is None or found.has_ended(now)):
                found = candidate
        return found if text else None


def digest_of(text: str) -> bytes:
    """What is kept of a secret.  It needs no salt: ours have 256 bits by chance."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def new_secret_text() -> str:
    """A secret, for a file on the nodes."""
    return secrets.token_urlsafe(_BITS // 8)


def new_secret_id() -> str:
    """What operators call it where its name is not enough; says nothing of the secret."""
    return secrets.token_hex(4)


def parse_enroll_secrets(text: str) -> tuple[EnrollSecret, ...]:
    """
    Enroll secrets from their file: ``SECRET [TAG ...]`` a line; ``#`` begins a comment line.

    :raise ValueError: a line is something else, or a tag has other letters than a tag may have.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        secret, *tags = words
        try:
            check_tags(tags)
        except ValueError as problem:
            raise ValueError(f"line {number}: {problem}") from None
        found.append(EnrollSecret(digest=digest_of(secret), tags=tuple(tags)))
    return tuple(found)


def check_tags(tags: Sequence[str]) -> None:
    """
    See that each can be a tag.

    :raise ValueError: one cannot.
    """
    if wrong := [tag for tag in tags if not TAG_PATTERN.fullmatch(tag)]:
        raise ValueError(f"{wrong[0][:64]!r} cannot be a tag")
