"""
Sessions: how an operator's browser is known from one request to the next.

A session has a text of 256 bits by chance that only the browser has; the server keeps its SHA-256.  From the same text
follows the token that shows that a change was asked for by a page of ours, and not by somebody else's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

import msgspec

from osqtwist.operator import Actor, Role, RoleWord

LINK_SECONDS = 60
"""How long a link is good that signs a browser in, once."""

_TEXT = re.compile(r"[\w-]{43}")


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is kept of a session, or of a link that begins one.

    :ivar digest: SHA-256 of its text.
    :ivar role: the word of the role that it began with; it never is good for more.
    :ivar proof: how it began: by ``socket``, ``certificate`` or ``token``.
    :ivar token_id: the token that it began by: when that ends, it ends.
    :ivar fingerprint: SHA-256 of the certificate that it began by, which each request has to come with.
    :ivar ends_at: Unix time, as all here.
    """

    digest: str
    name: str
    role: RoleWord
    proof: str
    groups: tuple[str, ...] = ()
    token_id: str = ""
    fingerprint: str = ""
    created_at: float
    ends_at: float


def new_session(actor: Actor, now: float, ends_at: float, fingerprint: str = "") -> tuple[Session, str]:
    """A session, and its text, which only the browser keeps."""
    text = secrets.token_urlsafe(32)
    kept = Session(
        digest=digest_of(text),
        name=actor.name,
        role=actor.role.word,
        proof=actor.proof,
        groups=tuple(sorted(actor.groups)),
        token_id=actor.token_id,
        fingerprint=fingerprint,
        created_at=now,
        ends_at=ends_at,
    )
    return kept, text


def digest_of(text: str) -> str:
    """What is kept of the text of a session; empty if it is none."""
    return hashlib.sha256(text.encode()).hexdigest() if _TEXT.fullmatch(text) else ""


def change_token_of(text: str) -> str:
    """What a request of this session says to show that a page of ours asks for a change (a CSRF token)."""
    made = hmac.digest(text.encode(), b"osqtwist change token", "sha256")
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def actor_of(session: Session, now: Actor) -> Actor:
    """
    Who comes in with a session.

    :param now: who whoever began it would be now: nobody does in a session what they could not do without.
    """
    return Actor(session.name, min(Role.of(session.role), now.role), "session", now.groups)
