"""Versions of the configuration and roll-outs in memory, for tests and trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.canaryhealth import Kind, ProblemCount
from osqtwist.rollout import HistoryEntry, Rollout, VersionInfo
from osqtwist.rolloutinterfaces import (
    MOST_BYTES,
    MOST_ENTRIES,
    MOST_NAMES,
    MOST_PROBLEMS,
    MOST_VERSIONS,
    MOST_WATCHED,
    OTHER_PROBLEMS,
    SAME_MOMENT,
    IRolloutStore,
    NodeTrouble,
)


@attrs.define
class _Problem:
    kind: Kind
    text: str
    canaries: set[str] = attrs.field(factory=set)
    others: set[str] = attrs.field(factory=set)
    names: list[str] = attrs.field(factory=list)


@attrs.define
class _Run:
    served: dict[str, float] = attrs.field(factory=dict)
    problems: dict[str, _Problem] = attrs.field(factory=dict)


@implementer(IRolloutStore)
@attrs.define
class MemoryRolloutStore:
    """See :class:`osqtwist.rolloutinterfaces.IRolloutStore`."""

    most_watched: int = MOST_WATCHED
    _current: Rollout | None = None
    _history: list[HistoryEntry] = attrs.field(factory=list)
    _versions: dict[int, tuple[VersionInfo, bytes]] = attrs.field(factory=dict)
    _numbers: int = 0
    _folders: dict[str, str] = attrs.field(factory=dict)
    _runs: dict[int, _Run] = attrs.field(factory=dict)

    async def current(self) -> Rollout | None:
        """See the interface."""
        return self._current

    async def change(self, rollout: Rollout, seen: Rollout | None) -> bool:
        """See the interface."""
        if (self._current.revision if self._current else 0) != (seen.revision if seen else 0):
            return False
        self._current = rollout
        self._history = [HistoryEntry.of(rollout), *self._history][:MOST_ENTRIES]
        return True

    async def history(self, count: int) -> list[HistoryEntry]:
        """See the interface."""
        return self._history[:count]

    async def keep(self, info: VersionInfo, data: bytes, needed: Sequence[int]) -> VersionInfo:
        """See the interface."""
        for kept, _ in self._versions.values():
            if kept.digest == info.digest:
                return kept
        self._numbers += 1
        kept = msgspec.structs.replace(info, number=self._numbers)
        self._versions[kept.number] = kept, data
        for number in sorted(self._versions):
            total = sum(len(each) for _, each in self._versions.values())
            if len(self._versions) <= MOST_VERSIONS and total <= MOST_BYTES:
                break
            if number not in needed and number != kept.number:
                del self._versions[number]
        return kept

    async def versions(self) -> list[VersionInfo]:
        """See the interface."""
        return [self._versions[number][0] for number in sorted(self._versions, reverse=True)]

    async def data(self, number: int) -> bytes | None:
        """See the interface."""
        return self._versions[number][1] if number in self._versions else None

    async def folder_said(self, folder: str) -> str:
        """See the interface."""
        return self._folders.get(folder, "")

    async def note_folder(self, folder: str, digest: str) -> None:
        """See the interface."""
        self._folders[folder] = digest

    async def watch(self, run: int, served: Mapping[str, float], said: Sequence[NodeTrouble]) -> bool:
        """See the interface."""
        found = self._runs.setdefault(run, _Run())
        for node_id, at in served.items():
            if len(found.served) < self.most_watched:
                found.served.setdefault(node_id, at)
        is_full = len(found.served) >= self.most_watched
        for each in said:
            served_at = found.served.get(each.node_id)
            if served_at is None and is_full:
                continue
            problem = each.problem
            if problem not in found.problems and len(found.problems) >= MOST_PROBLEMS:
                problem = f"{OTHER_PROBLEMS}: {each.kind}"
            about = found.problems.setdefault(problem, _Problem(each.kind, each.text))
            if served_at is not None and each.at >= served_at - SAME_MOMENT:
                if each.node_id not in about.canaries and len(about.names) < MOST_NAMES:
                    about.names.append(each.name)
                about.canaries.add(each.node_id)
            else:
                about.others.add(each.node_id)
        return not is_full

    async def canaries(self, run: int) -> int:
        """See the interface."""
        return len(self._runs[run].served) if run in self._runs else 0

    async def problems(self, run: int) -> list[ProblemCount]:
        """See the interface."""
        return [
            ProblemCount(each.kind, problem, each.text, len(each.canaries), len(each.others), tuple(each.names))
            for problem, each in sorted(self._runs.get(run, _Run()).problems.items())
        ]

    async def distinct(self, run: int, problems: Sequence[str]) -> int:
        """See the interface."""
        found = self._runs.get(run, _Run()).problems
        return len(set().union(*(found[each].canaries for each in problems if each in found)))

    async def served_before(self, run: int, moment: float, after: str, count: int) -> tuple[dict[str, float], str]:
        """See the interface."""
        return {node: at for node, at in self._runs.get(run, _Run()).served.items() if at < moment}, ""
