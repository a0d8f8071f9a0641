"""
The keys that sign node keys: read again when their file changes, rotated and retired by operators.

A new key is accepted by a process from its next look at the file on, and signs only when every process has had the time
for one: so no node gets a key that the next worker does not know, and nobody is told to enroll again.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import attrs
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from osqtwist.figures import SummedFigures
from osqtwist.interfaces import NoSuchThing
from osqtwist.nodekey import NodeKeys, SigningKey, new_signing_key
from osqtwist.reloading import CHECK_INTERVAL, WatchedFile
from osqtwist.statefolder import StateFolder, UnusableState

SETTLES = 5 * CHECK_INTERVAL
"""Seconds from a change of the file until its first key signs."""
MOST_KEYS = 16


class BadKeyChange(Exception):
    """Signing keys cannot be changed so; says why."""


class SigningKeyRow(TypedDict):
    """
    A signing key, without its secret.

    ``state`` is ``signs``, ``accepted``, or ``signs soon`` until every process knows it.  ``requests`` counts those
    that came with a node key of it, since each process started.
    """

    key: str
    state: Literal["signs", "signs soon", "accepted"]
    requests: int


@attrs.define(eq=False)
class SigningKeysFile(WatchedFile):
    """
    Keeps the signing keys as their file says.  A file that cannot be understood changes nothing but the log.

    :ivar keys: what it keeps.
    """

    state: StateFolder
    keys: NodeKeys
    _settling: IDelayedCall | None = attrs.field(default=None, init=False)
    _log = Logger()

    @property
    def changed_at(self) -> float:
        """Unix time of the last change of the file; 0 if there is none."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0

    def startService(self) -> None:
        """Begin to watch the file."""
        super().startService()
        self._settle()

    def stopService(self) -> None:
        """Stop watching."""
        super().stopService()
        self._cancel()

    def reload(self) -> None:
        """Read the file again."""
        if not self.path.exists():
            # A new one must not be made in its place: every node would have to enroll again.
            self._log.error("signing keys stay as they were: {path} is gone", path=str(self.path))
            return
        try:
            found = self.state.signing_keys()
        except UnusableState as problem:
            self._log.error("signing keys stay as they were: {problem}", problem=problem)
            return
        if found != self.keys.signing_keys:
            self.keys.signing_keys = found
            self._log.info("signing keys in force: {keys}", keys=", ".join(key.key_id for key in found))
        self._settle()

    def _settle(self) -> None:
        """Have the one before the first sign, until every process has looked at the file."""
        self._cancel()
        keys, left = self.keys.signing_keys, self.changed_at + SETTLES - self.clock.seconds()
        self.keys.still_signs = keys[1] if len(keys) > 1 and 0 < left <= SETTLES else None
        if self.keys.still_signs:
            self._settling = self.clock.callLater(left, self._settle)

    def _cancel(self) -> None:
        if self._settling and self._settling.active():
            self._settling.cancel()
        self._settling = None


@attrs.frozen
class SigningKeyBook:
    """What operators see of the signing keys, and do with them."""

    file: SigningKeysFile
    figures: SummedFigures

    def rows(self) -> list[SigningKeyRow]:
        """The keys, the newest first."""
        keys, used = self.file.keys, self.figures.values("osqtwist_signing_key_requests_total", "key")
        return [
            {
                "key": key.key_id,
                "state": "signs" if key == keys.signing else "signs soon" if not place else "accepted",
                "requests": int(used.get(key.key_id, 0)),
            }
            for place, key in enumerate(keys.signing_keys)
        ]

    def rotate(self) -> list[SigningKeyRow]:
        """
        Make a new key, which signs as soon as every process knows it; the others are accepted on.

        :raise BadKeyChange: the last change is not known to all yet, or there are too many keys.
        """
        keys = self._keys()
        if self.file.keys.still_signs:
            raise BadKeyChange(f"the keys changed just now; wait {SETTLES:g} s, until every process knows that")
        if len(keys) >= MOST_KEYS:
            raise BadKeyChange(f"there are {MOST_KEYS} signing keys; retire some")
        return self._write((new_signing_key(), *keys))

    def retire(self, key_id: str) -> list[SigningKeyRow]:
        """
        Accept a key no more: nodes that have a node key of it are told to enroll again when they come next.

        :raise NoSuchThing: there is none of that id.
        :raise BadKeyChange: it signs.
        """
        keys = self._keys()
        if not any(key.key_id == key_id for key in keys):
            raise NoSuchThing(f"there is no signing key {key_id!r}")
        if key_id in (keys[0].key_id, self.file.keys.signing.key_id):
            raise BadKeyChange(f"the signing key {key_id} signs; rotate first")
        return self._write(tuple(key for key in keys if key.key_id != key_id))

    def _keys(self) -> tuple[SigningKey, ...]:
        # Somebody may have written to the file since it was read.
        self.file.check()
        return self.file.keys.signing_keys

    def _write(self, keys: tuple[SigningKey, ...]) -> list[SigningKeyRow]:
        try:
            self.file.state.write_signing_keys(keys)
        except UnusableState as problem:
            raise BadKeyChange(f"the signing keys stay as they were: {problem}") from None
        self.file.check()
        return self.rows()
