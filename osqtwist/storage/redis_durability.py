"""
How safe a batch is before a node is told that it may forget it.

``append``
    Redis has it in memory and will write it to its append-only file within a second: lost only if the machine of
    Redis, or Redis itself, dies within that second.
``fsync``
    it is in the append-only file on the disk (WAITAOF): nothing that was acknowledged is lost with the machine's power.
``replica``
    one replica has it in memory (WAIT).
``fsync+replica``
    it is on the disk here and on that of one replica (WAITAOF).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import attrs
import txredisapi
from twisted.internet.defer import Deferred

from osqtwist.interfaces import StoreUnavailable
from osqtwist.storage.redis_connection import RedisConnection

DurabilityLevel = Literal["append", "fsync", "replica", "fsync+replica"]
LEVELS: tuple[str, ...] = get_args(DurabilityLevel)

WAIT_SECONDS = 8.0
"""How long to wait for disk or replica.  A node waits 16 s for its answer in all."""

_WAITS: dict[str, tuple[Any, ...]] = {
    "fsync": ("WAITAOF", 1, 0),
    "replica": ("WAIT", 1),
    "fsync+replica": ("WAITAOF", 1, 1),
}


class NotDurable(Exception):
    """The server cannot give the durability that was asked for; one sentence."""


def waiting_command(level: str) -> tuple[Any, ...] | None:
    """The command that waits, without its time-out; None if nothing does."""
    return _WAITS.get(level)


@attrs.define(eq=False)
class Durability:
    """
    Waits, for many appends at a time, until they are as safe as the level says.

    Waiting holds up the whole connection on the server's side, so it is not for anything else, and one command
    waits for everything that was appended before it; what comes meanwhile shares the next.
    """

    connection: RedisConnection
    level: str = "append"
    _next: list[Deferred[None]] = attrs.field(factory=list, init=False)
    _is_waiting: bool = attrs.field(default=False, init=False)

    async def reached(self) -> None:
        """
        Fire when everything appended over the connection so far is safe.

        :raise StoreUnavailable: not in time, or it cannot be known.
        """
        if waiting_command(self.level) is None:
            return
        mine: Deferred[None] = Deferred()
        self._next.append(mine)
        if not self._is_waiting:
            Deferred.fromCoroutine(self._wait())
        await mine

    async def _wait(self) -> None:
        self._is_waiting = True
        try:
            while self._next:
                these, self._next = self._next, []
                try:
                    await self._wait_once()
                except Exception as problem:
                    for each in these:
                        if not each.called:
                            each.errback(problem)
                else:
                    for each in these:
                        if not each.called:
                            each.callback(None)
        finally:
            self._is_waiting = False

    async def _wait_once(self) -> None:
        command = _WAITS[self.level]
        try:
            reply = await self.connection.execute(*command, int(WAIT_SECONDS * 1000), deadline=WAIT_SECONDS + 2)
        except txredisapi.ResponseError as problem:
            raise StoreUnavailable(f"--durability {self.level}: {self.connection.called}: {problem}") from None
        is_safe = reply >= 1 if command[0] == "WAIT" else reply[0] >= 1 and reply[1] >= command[2]
        if not is_safe:
            raise StoreUnavailable(f"{self.connection.called} did not confirm in time (--durability {self.level})")


def check_durability(level: str, ask: Any) -> None:
    """
    See whether a server can give a level.

    :param ask: asks the server a command, answers with the reply, and raises with the error's text.
    :raise NotDurable: it cannot; one sentence.
    """
    command = waiting_command(level)
    if command is None:
        return
    if level != "replica":
        try:
            ask("WAITAOF", "1", "0", "100")
        except Exception as problem:
            text = str(problem)
            if "unknown command" in text:
                text = "it has no WAITAOF, which came with Redis 7.2 and Valkey"
            elif "appendonly" in text:
                text = "it keeps no append-only file (appendonly no)"
            raise NotDurable(f"--durability {level} cannot be had from this server: {text}") from None
    if level != "fsync":
        facts = ask("INFO", "replication").decode()
        if "connected_slaves:0" in facts:
            raise NotDurable(f"--durability {level} cannot be had from this server: it has no replica")
