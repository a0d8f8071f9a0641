"""
The contract between roll-outs and their store.

As in :mod:`osqtwist.interfaces`: every method is a coroutine, and fails with ``StoreUnavailable`` or ``StoreFull``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from zope.interface import Interface

from osqtwist.canaryhealth import Kind, ProblemCount
from osqtwist.rollout import HistoryEntry, Rollout, VersionInfo

MOST_VERSIONS = 20
"""Versions that are kept, but for those in use."""
MOST_BYTES = 16 * 2**20
"""Bytes that all versions may have together as they are kept, but for those in use."""
MOST_ENTRIES = 200
"""Changes that are remembered."""
MOST_WATCHED = 20_000
"""Canaries of a roll-out whose health is looked at: the first so many that get the version."""
MOST_PROBLEMS = 100
"""Different problems of a roll-out that are told apart; all others count as one more."""
MOST_NAMES = 5
OTHER_PROBLEMS = "other problems"
KEPT_SECONDS = 7 * 86400
"""After so many seconds without news of its canaries, the health of a roll-out is forgotten."""
FOLDER_SECONDS = 30 * 86400
"""What a folder said is forgotten so many seconds after it was noted."""
SAME_MOMENT = 2.0
"""Seconds that a node's clock may be behind, and what it says about a moment still be about a later one."""


@attrs.frozen
class NodeTrouble:
    """Something that a node said is wrong; see :class:`osqtwist.canaryhealth.Trouble`."""

    node_id: str
    name: str
    kind: Kind
    problem: str
    text: str
    at: float


class IRolloutStore(Interface):
    """Versions of the configuration, which of them is in force or tried, and how canaries are."""

    async def current() -> Rollout | None:
        """How things are; nothing before the first version."""

    async def change(rollout: Rollout, seen: Rollout | None) -> bool:
        """
        Keep how things are from now on, unless they are not any more as they were seen; says whether.

        The change is remembered in the history.
        """

    async def history(count: int) -> list[HistoryEntry]:
        """The newest changes, the newest first."""

    async def keep(info: VersionInfo, data: bytes, needed: Sequence[int]) -> VersionInfo:
        """
        Keep a version; answers with it as it is kept: with its number, which one with this digest may have already.

        The oldest go when there are more than :data:`MOST_VERSIONS`, or :data:`MOST_BYTES` of them.

        :param needed: versions that stay.
        """

    async def versions() -> list[VersionInfo]:
        """All that are kept, the newest first."""

    async def data(number: int) -> bytes | None:
        """The files of a version."""

    async def folder_said(folder: str) -> str:
        """The digest that was noted last of a folder; empty if none was."""

    async def note_folder(folder: str, digest: str) -> None:
        """Note what a folder says, so that only a change of it counts as one."""

    async def watch(run: int, served: Mapping[str, float], said: Sequence[NodeTrouble]) -> bool:
        """
        Note which nodes got the version that is tried, and when first; and what nodes say is wrong.

        Trouble counts for canaries if it is of after they got it.  Of canaries past :data:`MOST_WATCHED` nothing is
        noted.  Answers whether there is room for more of them.
        """

    async def canaries(run: int) -> int:
        """How many canaries are watched."""

    async def problems(run: int) -> list[ProblemCount]:
        """What is wrong, and with how many nodes: nearly, where they are many."""

    async def distinct(run: int, problems: Sequence[str]) -> int:
        """How many canaries have one of these problems, or several: nearly, where they are many."""

    async def served_before(run: int, moment: float, after: str, count: int) -> tuple[dict[str, float], str]:
        """
        Watched canaries that got the version before a moment, and when; a page at a time.

        :param after: what the page before answered with; empty for the first, and empty in an answer at the end.
        """
