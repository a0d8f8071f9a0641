"""
Clones: two machines under one host identifier, or with one certificate or one node key.

A machine is known by what osquery says of its hardware when it enrolls, which is its own word, but a clone has no
reason to lie.  What many machines have in common is no mark of any: the placeholders that vendors leave.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from osqtwist.node import HostDetails

CloneKind = Literal["machines", "keys", "reads", "enrollments"]

MOST_PLACES = 8

# osquery/core/system.cpp keeps the first four from being a host identifier.
_PLACEHOLDER_UUIDS = {
    "00000000-0000-0000-0000-000000000000",
    "03000200-0400-0500-0006-000700080009",
    "03020100-0504-0706-0809-0a0b0c0d0e0f",
    "10000000-0000-8000-0040-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
}
_PLACEHOLDER_SERIALS = {
    "0",
    "-1",
    "none",
    "n/a",
    "na",
    "unknown",
    "default string",
    "not specified",
    "not available",
    "not applicable",
    "system serial number",
    "chassis serial number",
    "to be filled by o.e.m.",
    "0123456789",
    "123456789",
    "1234567890",
}


class Clone(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    Two machines that one node's name stands for.

    :ivar node_id: the node that was there first.
    :ivar clone_id: the id that the other has of its own, or the same one if they cannot be parted.
    :ivar kind: how it is known: ``machines`` of different hardware enrolled; ``keys`` were used in turn; ``reads`` were
        held at one time for two addresses; ``enrollments`` of different hardware came in turn.
    :ivar suspected_at: when there was reason to think so; :attr:`found_at` when it was sure, 0 before;
        :attr:`seen_at` when it was last true.
    :ivar places: addresses, or marks of machines.
    :ivar keys: the moments (whole seconds) at which keys of :attr:`node_id` were issued that are the clone's.
    """

    node_id: str
    clone_id: str
    name: str
    kind: CloneKind
    suspected_at: float
    found_at: float = 0.0
    seen_at: float = 0.0
    places: tuple[str, ...] = ()
    keys: tuple[int, ...] = ()

    @property
    def is_parted(self) -> bool:
        """Whether each has an id of its own."""
        return self.clone_id != self.node_id


def mark_of(details: HostDetails) -> str:
    """What a machine is known by: its hardware's UUID and serial number, either of which may be missing."""
    system = details.get("system_info", {})
    uuid, serial = (system.get(name, "").strip().lower() for name in ("uuid", "hardware_serial"))
    if uuid in _PLACEHOLDER_UUIDS:
        uuid = ""
    if serial in _PLACEHOLDER_SERIALS or len(set(serial)) < 2:
        serial = ""
    return f"{uuid}|{serial}"


def is_another(one: str, other: str) -> bool:
    """Whether two marks are evidently those of two machines: both say something, and not the same."""
    pairs = zip(one.split("|", 1), other.split("|", 1), strict=False)
    return any(left and right and left != right for left, right in pairs)


def instance_of(details: HostDetails) -> str:
    """What osquery's database is known by: it is new when a machine is imaged anew, and copied with a disk."""
    return details.get("osquery_info", {}).get("instance_id", "")


def clone_id_for(node_id: str, what: str) -> str:
    """The id of a clone of a node, by what it differs in."""
    return hashlib.sha256(f"clone\0{node_id}\0{what}".encode("utf-8", "surrogatepass")).hexdigest()[:20]


def clone_name(name: str, clone_id: str) -> str:
    """What a clone is called, to tell it from the first."""
    return f"{name}~{clone_id[:6]}"
