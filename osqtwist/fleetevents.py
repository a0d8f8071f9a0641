"""
What happens in a fleet, as lines of the log: log type ``event``, for sinks and alert rules like any other.

=========================  ==============================================================================
``node_new``               a node enrolled, or came with a certificate, that was not known
``node_pending``           a new node waits for approval
``node_offline``           a node was not heard of for :attr:`EventSettings.offline_after` seconds
``certificate_expiring``   a node's certificate ends within :attr:`EventSettings.certificate_days` days
``revoked_attempt``        a revoked node asked for something; once an hour for each
``clone``                  two machines use what belongs to one node
``sink_behind``            a log sink falls behind, or nobody serves it
``rollout_begun``          a new version of the configuration goes to its first canaries
``rollout_stopped``        it was taken back from them
``rollout_finished``       every node gets it
``rolled_back``            an operator went back to an earlier version
=========================  ==============================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from osqtwist.alertrule import EVENT
from osqtwist.interfaces import IStores, StoreFull, StoreUnavailable
from osqtwist.logbatch import LogBatch
from osqtwist.loginterfaces import BufferFull

KINDS = (
    "node_new",
    "node_pending",
    "node_offline",
    "certificate_expiring",
    "revoked_attempt",
    "clone",
    "sink_behind",
    "rollout_begun",
    "rollout_stopped",
    "rollout_finished",
    "rolled_back",
)
LOOK_EVERY = 30.0
_AGAIN = {
    "node_new": 3600.0,
    "node_pending": 86400.0,
    "revoked_attempt": 3600.0,
    "clone": 86400.0,
    "sink_behind": 3600.0,
}
_MOST_REMEMBERED = 10_000
_LOOK_BACK = 3600.0
_NEW_WITHIN = 10.0
_AT_ONCE = 1000
_DAY = 86400.0
_SERVER = "0" * 20


class EventSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    The table ``[events]`` of the settings.

    :ivar offline_after: seconds without a word after which a node counts as offline.
    :ivar certificate_days: days before the end of a node's certificate.
    """

    offline_after: float = 600.0
    certificate_days: float = 14.0

    def __post_init__(self) -> None:
        if self.offline_after < 120 or self.certificate_days < 0:
            raise ValueError("offline_after must be at least 120 seconds, certificate_days at least 0")


class FleetEvents(Service):
    """
    Writes such lines.

    Each thing is said once, by whichever process and host sees it first.  While the store is away, or the log buffer
    full, what is not seen again later is not said.

    :param looks: whether this process looks for nodes that went offline and certificates that end.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, stores: IStores, settings: EventSettings, looks: bool) -> None:
        self._clock, self._stores, self._settings, self._looks = clock, stores, settings, looks
        self._said: dict[tuple[str, str], float] = {}
        self._looked_at = clock.seconds() - _LOOK_BACK
        self._loop: LoopingCall | None = None

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        if self._looks:
            self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._safely()))
            self._loop.clock = self._clock
            self._loop.start(LOOK_EVERY, now=False)

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._loop and self._loop.running:
            self._loop.stop()

    def report(self, kind: str, node_id: str, facts: Mapping[str, Any]) -> None:
        """
        Say that something happened to a node (or, with an empty id, to the server); does not wait.

        :param facts: what stands in ``columns``; ``name`` is the node's.
        """
        now, again = self._clock.seconds(), _AGAIN.get(kind, 0.0)
        if again:
            about = (kind, node_id or str(facts.get("sink", "")))
            if now - self._said.get(about, -again) < again:
                return
            self._remember(about)
        key = f"{kind} {node_id} {facts.get('sink', '')}" + ("" if again else f" {now}")
        Deferred.fromCoroutine(self._say(kind, node_id, facts, key, again or 60.0)).addErrback(
            lambda failure: self._log.failure("an event could not be written", failure)
        )

    def _remember(self, about: tuple[str, str]) -> None:
        if len(self._said) >= _MOST_REMEMBERED:
            self._said.clear()
        self._said[about] = self._clock.seconds()

    async def _is_new(self, node_id: str) -> bool:
        found = (await self._stores.nodes.sightings([node_id])).get(node_id)
        return found is None or self._clock.seconds() - found.first_seen_at < _NEW_WITHIN

    async def _say(self, kind: str, node_id: str, facts: Mapping[str, Any], key: str, window: float) -> None:
        digest = hashlib.sha256(key.encode()).hexdigest()
        now = self._clock.seconds()
        try:
            if kind == "node_new" and not await self._is_new(node_id):
                return
            if not await self._stores.alerts.claim("", digest[:32], f"{digest[:32]}{now}", window):
                return
            columns = {name: _text(value) for name, value in facts.items()}
            name = columns.pop("name", "") or node_id or "osqtwist"
            line = {
                "name": f"osqtwist_{kind}",
                "action": kind,
                "hostIdentifier": name,
                "unixTime": int(now),
                "columns": {**columns, "node": node_id},
            }
            batch = LogBatch(
                node_id=node_id or _SERVER,
                node_name=name,
                log_type=EVENT,
                data=b"[" + msgspec.json.encode(line) + b"]",
                count=1,
                digest=hashlib.sha256(f"{key} {now}".encode()).hexdigest(),
                received_at=now,
            )
            await self._stores.logs.append(batch)
        except (StoreUnavailable, StoreFull, BufferFull) as problem:
            self._log.warn("event {kind} of {node} is lost: {problem}", kind=kind, node=node_id, problem=problem)

    async def _safely(self) -> None:
        try:
            await self.look()
        except (StoreUnavailable, StoreFull):
            return
        except Exception:
            self._log.failure("the fleet could not be looked at; it is tried again")

    async def look(self) -> None:
        """Look for nodes that went offline since the last look, and for certificates that end soon."""
        now = self._clock.seconds()
        until = now - self._settings.offline_after
        nodes = self._stores.nodes
        since, offset = self._looked_at - self._settings.offline_after, 0
        while gone := await nodes.last_seen_between(since, until, offset, _AT_ONCE):
            known = await nodes.get_many([node_id for node_id, _ in gone])
            for node_id, seen_at in gone:
                if node_id in known:
                    facts = {"name": known[node_id].name, "seen_at": int(seen_at)}
                    await self._say("node_offline", node_id, facts, f"node_offline {node_id} {seen_at}", 30 * _DAY)
            offset += len(gone)
        self._looked_at = now
        ending = await nodes.expiring(now, now + self._settings.certificate_days * _DAY, _AT_ONCE)
        for node_id, node in (await nodes.get_many(ending)).items():
            if node.certificate:
                end = node.certificate.not_after
                facts = {"name": node.name, "not_after": int(end), "days": round((end - now) / _DAY, 1)}
                key = f"certificate_expiring {node_id} {end}"
                if ("certificate_expiring", key) not in self._said:
                    self._remember(("certificate_expiring", key))
                    await self._say("certificate_expiring", node_id, facts, key, 60 * _DAY)


def _text(value: Any) -> str:
    """As osquery has it in a column, where everything is text."""
    if isinstance(value, bool):
        return str(int(value))
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
