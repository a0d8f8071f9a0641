"""Enroll secrets that operators hand out: kept in memory where nodes enroll, and listed, made and ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

import attrs
import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from osqtwist.enrollsecret import (
    NAME_PATTERN,
    SHORTEST,
    EnrollSecret,
    EnrollSecrets,
    check_tags,
    digest_of,
    new_secret_id,
    new_secret_text,
)
from osqtwist.interfaces import IStores, NoSuchThing, StoreFull, StoreUnavailable

LOOK_INTERVAL = 5.0
"""Seconds between two looks at the store, in case a signal was lost."""
_MOST = 1000
_MOST_PATTERNS = 100
_TOPIC = "secrets"


class SecretRow(TypedDict):
    """An enroll secret, without its text; `quota` is null for any number of nodes, `expires_at` for never."""

    secret_id: str
    name: str
    tags: list[str]
    allow: list[str]
    quota: int | None
    created_at: float
    created_by: str
    expires_at: float | None
    ended: bool


class UsedSecretRow(SecretRow):
    """With its uses: how often, by how many nodes (where there is a quota), when and by whom last."""

    enrollments: int
    nodes: int | None
    used_at: float | None
    used_by: str | None


class NewSecret(SecretRow):
    """With its text, which is shown this once."""

    secret: str


class RotatedSecret(NewSecret):
    """One in the place of another, and when that ends."""

    old_ends_at: float


class SecretsRevoked(TypedDict):
    """How many secrets of a name were ended."""

    name: str
    revoked: int


class SecretsForgotten(TypedDict):
    """How many secrets of a name are kept no more."""

    name: str
    forgotten: int


class BadSecret(ValueError):
    """An enroll secret cannot be made so; says why."""


class StoredSecrets(Service):
    """Keeps what is in force as the store has it; while that is away, as it was."""

    def __init__(self, clock: IReactorTime, stores: IStores, secrets: EnrollSecrets) -> None:
        self._clock, self._stores, self._secrets = clock, stores, secrets
        self._loop: LoopingCall | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._secrets.stored = None
        self._unsubscribe = self._stores.signals.subscribe(_TOPIC, lambda _: self._look())
        self._loop = LoopingCall(self._look)
        self._loop.clock = self._clock
        self._loop.start(LOOK_INTERVAL, now=True)

    def stopService(self) -> None:
        """Stop."""
        super().stopService()
        if self._unsubscribe:
            self._unsubscribe()
        if self._loop and self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        Deferred.fromCoroutine(self.refresh())

    async def refresh(self) -> None:
        """Look now; if the store does not answer, what is known stays in force."""
        try:
            self._secrets.stored = tuple(await self._stores.secrets.all())
        except (StoreUnavailable, StoreFull):
            return


@attrs.frozen
class SecretBook:
    """Secrets, as operators see and change them.  Their texts are shown once, and kept nowhere."""

    clock: IReactorTime
    stores: IStores

    async def secrets(self) -> list[UsedSecretRow]:
        """All of them, the ended ones too, the oldest first."""
        found = await self.stores.secrets.all()
        uses = await self.stores.secrets.uses([secret.secret_id for secret in found])
        now = self.clock.seconds()
        return [
            {
                **_row(secret, now),
                "enrollments": use.enrollments,
                "nodes": use.nodes if secret.quota else None,
                "used_at": use.used_at or None,
                "used_by": use.used_by or None,
            }
            for secret, use in zip(found, uses, strict=True)
        ]

    async def add(
        self,
        name: str,
        by: str,
        text: str = "",
        tags: Sequence[str] = (),
        allow: Sequence[str] = (),
        quota: int = 0,
        seconds: float = 0.0,
    ) -> NewSecret:
        """
        Hand out a secret; its text is in the answer, and nowhere else from now on.

        :param text: one that nodes have already; empty for a new one.
        :param seconds: until it ends; 0 for never.
        :raise BadSecret: it cannot be made so.
        """
        if not NAME_PATTERN.fullmatch(name):
            raise BadSecret(f"{name[:64]!r} cannot be the name of a secret: letters, digits and _.@- only, at most 64")
        try:
            check_tags(tags)
        except ValueError as problem:
            raise BadSecret(str(problem)) from None
        if text and (len(text) < SHORTEST or text != text.strip() or not text.isprintable() or len(text) > 1024):
            raise BadSecret(
                f"a secret of your own has {SHORTEST} to 1024 printable characters, with no blanks around it"
            )
        if len(allow) > _MOST_PATTERNS or any(len(pattern) > 255 or not pattern for pattern in allow):
            raise BadSecret(f"allow has at most {_MOST_PATTERNS} patterns of 1 to 255 characters")
        now = self.clock.seconds()
        there = await self.stores.secrets.all()
        if any(each.name == name and not each.has_ended(now) for each in there):
            raise BadSecret(f"there is a secret {name!r}; rotate or revoke it, or take another name")
        if text and any(each.digest == digest_of(text) for each in there):
            raise BadSecret("there is a secret with this text already")
        secret = EnrollSecret(
            digest=b"",
            name=name,
            tags=tuple(tags),
            allow=tuple(allow),
            quota=quota,
            expires_at=now + seconds if seconds else 0.0,
        )
        return await self._make(secret, text or new_secret_text(), by, len(there))

    async def rotate(self, name: str, by: str, overlap: float, seconds: float) -> RotatedSecret:
        """
        Hand out a new text for a secret; the old one ends so many seconds from now.

        The quota counts anew.

        :param seconds: until the new one ends; 0 for never.
        """
        now = self.clock.seconds()
        old = await self._named(name, now)
        newest = old[-1]
        made = msgspec.structs.replace(newest, expires_at=now + seconds if seconds else 0.0)
        answer = await self._make(made, new_secret_text(), by, len(await self.stores.secrets.all()))
        for secret in old:
            if not secret.expires_at or secret.expires_at > now + overlap:
                await self.stores.secrets.put(msgspec.structs.replace(secret, expires_at=now + overlap))
        await self.stores.signals.publish(_TOPIC)
        return {**answer, "old_ends_at": now + overlap}

    async def revoke(self, name: str) -> SecretsRevoked:
        """End every secret of that name, or the one with that id; nodes that came by it stay in."""
        now = self.clock.seconds()
        found = await self._named(name, now)
        for secret in found:
            await self.stores.secrets.put(msgspec.structs.replace(secret, expires_at=now))
        await self.stores.signals.publish(_TOPIC)
        return {"name": found[0].name, "revoked": len(found)}

    async def forget(self, name: str) -> SecretsForgotten:
        """Keep nothing of those of that name or id that have ended."""
        now = self.clock.seconds()
        found = [each for each in await self.stores.secrets.all() if name in (each.name, each.secret_id)]
        ended = [each for each in found if each.has_ended(now)]
        if not ended:
            raise NoSuchThing(f"no secret {name!r} has ended" if found else f"there is no secret {name!r}")
        for secret in ended:
            await self.stores.secrets.remove(secret.secret_id)
        await self.stores.signals.publish(_TOPIC)
        return {"name": ended[0].name, "forgotten": len(ended)}

    async def _make(self, like: EnrollSecret, text: str, by: str, there: int) -> NewSecret:
        if there >= _MOST:
            raise BadSecret(f"there are {_MOST} secrets; forget some that have ended")
        now = self.clock.seconds()
        secret = msgspec.structs.replace(
            like, secret_id=new_secret_id(), digest=digest_of(text), created_at=now, created_by=by
        )
        await self.stores.secrets.put(secret)
        await self.stores.signals.publish(_TOPIC)
        return {**_row(secret, now), "secret": text}

    async def _named(self, name: str, now: float) -> list[EnrollSecret]:
        found = [each for each in await self.stores.secrets.all() if name in (each.name, each.secret_id)]
        in_force = [each for each in found if not each.has_ended(now)]
        if not in_force:
            raise NoSuchThing(f"every secret {name!r} has ended" if found else f"there is no secret {name!r}")
        return in_force


def _row(secret: EnrollSecret, now: float) -> SecretRow:
    return {
        "secret_id": secret.secret_id,
        "name": secret.name,
        "tags": list(secret.tags),
        "allow": list(secret.allow),
        "quota": secret.quota or None,
        "created_at": secret.created_at,
        "created_by": secret.created_by,
        "expires_at": secret.expires_at or None,
        "ended": secret.has_ended(now),
    }
