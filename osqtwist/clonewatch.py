"""
Notices clones: when machines enroll, and from how node keys and certificates are used.

The request that shows a clone does not wait for what is done about it, and asks the store for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
from twisted.internet.interfaces import IReactorTime

from osqtwist.authentication import Caller
from osqtwist.clone import Clone, clone_id_for, clone_name, instance_of, is_another, mark_of
from osqtwist.cloneevidence import KeysInTurn, ReadsAtOnce
from osqtwist.clones import Clones
from osqtwist.interfaces import IStores
from osqtwist.node import Node

MOST_OF_ONE_NAME = 50
"""Machines of one host identifier that have ids of their own."""
_MOST_KEYS = 16


class CloneWatch:
    """
    Places machines that enroll, and watches how keys and certificates are used.

    :param enrolled_at: when a node enrolled last, as far as that is in memory, else 0.
    :param shares: how many processes serve the nodes.
    """

    def __init__(
        self,
        clock: IReactorTime,
        stores: IStores,
        clones: Clones,
        enrolled_at: Callable[[str], float],
        shares: int = 1,
    ) -> None:
        self._clock = clock
        self._stores = stores
        self._clones = clones
        self._enrolled_at = enrolled_at
        self._keys = KeysInTurn()
        self._reads = ReadsAtOnce(shares)

    def used(self, caller: Caller) -> None:
        """Note that a node key was used."""
        newest = int(self._enrolled_at(caller.node_id))
        if not caller.issued_at or not newest or (caller.issued_at == newest and not self._keys):
            return
        if self._keys.used(caller.node_id, caller.issued_at, newest, self._clock.seconds()):
            self._clones.begin(self._part(caller.node_id, newest, int(caller.issued_at)))

    def begin_read(self, caller: Caller, address: str) -> None:
        """Note that a node's read begins to be held."""
        places = self._reads.begin(caller.node_id, address)
        if places:
            self._clones.begin(self._clones.found_in_use(caller.node_id, caller.name, "reads", places))

    def end_read(self, caller: Caller, address: str) -> None:
        """Note that it is over."""
        self._reads.end(caller.node_id, address)

    async def placed(self, node: Node) -> Node:
        """
        The node that a machine is which enrolls: with the id that is its own, and a moment that no other key has.

        :param node: as the secret or the certificate and the machine's own word have it.
        :raise StoreUnavailable: nobody knows.
        """
        if node.proof == "secret":
            node, before = await self._place(node)
        else:
            before = await self._stores.nodes.get(node.node_id)
        if before is None:
            return node
        mark, old, older = mark_of(node.host_details), mark_of(before.host_details), before.machine_before
        if is_another(old, mark):
            if older and is_another(older, old) and not is_another(older, mark):
                await self._clones.found_in_use(node.node_id, node.name, "enrollments", (old, mark))
            older = old
        moment = max(node.enrolled_at, math.floor(before.enrolled_at) + 1.0)
        return msgspec.structs.replace(node, enrolled_at=moment, machine_before=older)

    async def _place(self, node: Node) -> tuple[Node, Node | None]:
        found = await self._stores.nodes.find(node.host_identifier, MOST_OF_ONE_NAME + 1)
        known = [each for each in found if each.proof == "secret" and each.host_identifier == node.host_identifier]
        if not known:
            return node, None
        mark, instance = mark_of(node.host_details), instance_of(node.host_details)

        def unlike(each: Node) -> tuple[bool, bool, bool, str]:
            other = instance_of(each.host_details)
            return other != instance, bool(other), each.node_id != node.node_id, each.node_id

        same = sorted((each for each in known if not is_another(mark_of(each.host_details), mark)), key=unlike)
        if same:
            before = same[0]
        elif all(each.node_id != node.node_id for each in known):
            return node, None
        elif len(known) < MOST_OF_ONE_NAME:
            (first,) = (each for each in known if each.node_id == node.node_id)
            own = clone_id_for(node.node_id, mark)
            node = msgspec.structs.replace(node, node_id=own, name=clone_name(node.host_identifier, own))
            await self._suspect(first, node, mark)
            return node, None
        else:
            # Machines whose mark is new at every start would fill the store.
            seen = await self._clones.seen(each.node_id for each in known)
            before = min(known, key=lambda each: seen[each.node_id])
        return msgspec.structs.replace(node, node_id=before.node_id, name=before.name), before

    async def _suspect(self, first: Node, node: Node, mark: str) -> None:
        places = (mark_of(first.host_details), mark)
        await self._clones.keep(
            Clone(
                node_id=first.node_id,
                clone_id=node.node_id,
                name=node.host_identifier,
                kind="machines",
                suspected_at=self._clock.seconds(),
                places=places,
            )
        )

    async def _part(self, node_id: str, newest: int, other: int) -> None:
        """Give the machine with the newer of two keys an id of its own, if its node is not a certificate's."""
        await self._clones.refresh()
        node = await self._stores.nodes.get(node_id)
        first, last = sorted((newest, other))
        if node is None or int(node.enrolled_at) != newest or self._clones.node_of(node_id, last) != node_id:
            return
        if node.proof == "certificate":
            await self._clones.found_in_use(node_id, node.name, "keys", ())
            return
        clone = await self._silent_clone(node_id, last)
        now = self._clock.seconds()
        clone_id = clone.clone_id if clone else clone_id_for(node_id, f"key {last}")
        name = clone_name(node.host_identifier, clone_id)
        keys = (*(clone.keys if clone else ()), last)[-_MOST_KEYS:]
        parted = msgspec.structs.replace(node, node_id=clone_id, name=name, enrolled_at=float(last))
        await self._stores.nodes.record(parted)
        await self._clones.keep(
            Clone(
                node_id=node_id,
                clone_id=clone_id,
                name=node.host_identifier,
                kind="keys",
                suspected_at=now,
                found_at=clone.found_at if clone else now,
                seen_at=now,
                keys=keys,
            )
        )
        # The details are those of the machine that enrolled last; the first says its own when it enrolls again.
        osquery = {**node.host_details.get("osquery_info", {}), "instance_id": ""}
        details = {**node.host_details, "osquery_info": osquery}
        rest = msgspec.structs.replace(node, host_details=details, enrolled_at=float(first))
        await self._stores.nodes.record(rest)
        for changed in (node_id, clone_id):
            await self._stores.signals.publish("nodes", changed)

    async def _silent_clone(self, node_id: str, since: float) -> Clone | None:
        """The clone that has not been heard of since the newest key was issued: it is the one that has it."""
        clones = [each for each in self._clones.all() if each.node_id == node_id and each.keys]
        seen = await self._clones.seen(each.clone_id for each in clones)
        return next((each for each in clones if seen[each.clone_id] <= since), None)
