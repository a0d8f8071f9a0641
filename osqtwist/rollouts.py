"""Roll-outs: begun by what the files say, moved on by time, stopped by canaries that suffer, changed by operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NotRequired, TypedDict

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from osqtwist.audittrail import AuditTrail
from osqtwist.canarycounts import CanaryCounts
from osqtwist.canaryhealth import Health, HealthRow
from osqtwist.confdiff import ChangeRow, Folder, compare_folders
from osqtwist.configfiles import Content, unpacked
from osqtwist.interfaces import IStores, NoSuchThing, Report
from osqtwist.layers import BadConfiguration
from osqtwist.metrics import Metrics
from osqtwist.rollout import BY_ITSELF, BadRollout, HistoryEntry, Phase, Rollout, VersionInfo, VersionRef, first
from osqtwist.rolloutinterfaces import MOST_BYTES, MOST_ENTRIES
from osqtwist.rolloutplan import Limits, Plan

MOST_VERSION_BYTES = MOST_BYTES // 4
"""How long the files of one version may be as they are kept."""
_ATTEMPTS = 5
_SHORTEST_DIGEST = 4
_ENDED = {
    "noted": "noted",
    "stopped": "stopped",
    "finished": "replaced",
    "in force": "replaced",
    "rolled back": "replaced",
}
_EVENTS = {
    "begun": "rollout_begun",
    "stopped": "rollout_stopped",
    "finished": "rollout_finished",
    "rolled back": "rolled_back",
}


class VersionName(TypedDict):
    """Which version."""

    version: int
    digest: str


class RolloutStatus(TypedDict):
    """
    Which version of the configuration is in force and which one is tried.

    `rolling`: whether changes are rolled out at all.  From `percent` on: of the roll-out under way, if there is one;
    `waits_for` says in words what its step waits for.
    """

    rolling: bool
    phase: Phase | Literal["none"]
    in_force: VersionName | None
    files: NotRequired[VersionName | None]
    trial: NotRequired[VersionName | None]
    last: NotRequired[HistoryEntry]
    percent: NotRequired[float]
    step: NotRequired[int]
    steps: NotRequired[list[float]]
    target: NotRequired[str]
    began_at: NotRequired[float]
    step_began_at: NotRequired[float]
    waits_for: NotRequired[str | None]
    stop: NotRequired[Limits]
    health: NotRequired[HealthRow]


class VersionFacts(TypedDict):
    """A version; see :class:`osqtwist.rollout.VersionInfo`."""

    number: int
    digest: str
    noted_at: float
    folder: str
    files: int
    bytes: int


class VersionRow(VersionFacts):
    """A version that is kept, what became of it, and why."""

    state: str
    why: str


class History(TypedDict):
    """Versions and changes, the newest first."""

    versions: list[VersionRow]
    changes: list[HistoryEntry]


class VersionFiles(VersionFacts):
    """A version: `layers` are their names, `texts` its files by name."""

    layers: list[str]
    texts: dict[str, str]


@attrs.define(eq=False)
class Rollouts:
    """
    What becomes of versions of the configuration.

    Every change is a compare-and-set in the store, so of several processes that want the same one makes it, and tells
    of it.

    :ivar plan: answers with the plan of the folder, if it has one.
    :ivar report: told of roll-outs that begin, stop and end.
    """

    clock: IReactorTime
    stores: IStores
    plan: Callable[[], Plan | None]
    report: Report
    metrics: Metrics
    trail: AuditTrail
    _counts: CanaryCounts = attrs.field(init=False)
    _refused: str = attrs.field(default="", init=False)
    _folders: dict[VersionRef, Folder] = attrs.field(factory=dict, init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._counts = CanaryCounts(self.clock, self.stores)

    # -- by itself

    async def has_taken(self, content: Content, plan: Plan | None) -> bool:
        """Whether nothing has to be submitted of a folder, for what is known without asking what it said last."""
        current = await self.stores.rollouts.current()
        if content.digest == self._refused:
            return True
        is_wanted = current is not None and current.wanted.digest == content.digest
        return is_wanted and (plan is not None or (current is not None and current.phase == "in force"))

    async def submit(self, content: Content, plan: Plan | None, folder: str) -> None:
        """
        Take up what the files of a folder say, if that is not what they said last.

        :param folder: its name among the folders of all hosts.
        """
        store, now = self.stores.rollouts, self.clock.seconds()
        said, current = await store.folder_said(folder), await store.current()
        if said == content.digest and current and (plan or current.phase == "in force"):
            await store.note_folder(folder, content.digest)
            return
        data = content.packed()
        if len(data) > MOST_VERSION_BYTES:
            self._refused = content.digest
            self._log.error(
                "the configuration in {folder} cannot be kept as a version: compressed it has {size} bytes, and may "
                "have {most}",
                folder=folder,
                size=len(data),
                most=MOST_VERSION_BYTES,
            )
            return
        info = VersionInfo(
            number=0,
            digest=content.digest,
            noted_at=round(now, 3),
            folder=folder,
            files=len(content.files),
            bytes=len(data),
        )
        ref = (await store.keep(info, data, _needed(current))).ref
        for _ in range(_ATTEMPTS):
            current = await store.current()
            changed = first(ref, now)
            if current is not None:
                before = await self._folder_of(current.in_force)
                is_different = not before.layers or bool(compare_folders(before, content.folder))
                found = current.submitted(ref, plan, is_different, now)
                if found is None:
                    break
                changed = found
            if await self._change(changed, current):
                break
        else:
            return
        await store.note_folder(folder, content.digest)

    async def advance(self) -> None:
        """Look at the canaries, and move on, stop or wait."""
        current = await self.stores.rollouts.current()
        if current is None or not current.is_under_way:
            self._count(Health())
            return
        health = await self.health(current)
        self._count(health)
        changed = current.advanced(health, self.clock.seconds())
        if changed is not None:
            await self._change(changed, current)

    async def health(self, rollout: Rollout) -> Health:
        """How its canaries are."""
        return await self._counts.health(rollout, await self._folder_of(rollout.in_force))

    # -- for operators

    async def status(self) -> RolloutStatus:
        """How things are, ready to be JSON."""
        plan = self.plan()
        current = await self.stores.rollouts.current()
        if current is None:
            return {"rolling": plan is not None, "phase": "none", "in_force": None}
        row: RolloutStatus = {
            "rolling": plan is not None,
            "phase": current.phase,
            "in_force": _named(current.in_force),
            "files": _named(current.wanted),
            "trial": _named(current.trial),
            "last": HistoryEntry.of(current),
        }
        if not current.is_under_way or current.plan is None:
            return row
        health = await self.health(current)
        return {
            **row,
            "percent": current.percent,
            "step": current.step + 1,
            "steps": list(current.plan.steps),
            "target": current.plan.target,
            "began_at": current.began_at,
            "step_began_at": current.step_began_at,
            "waits_for": current.waits(health, self.clock.seconds()) or None,
            "stop": current.plan.stop,
            "health": health.as_row(),
        }

    async def history(self, count: int) -> History:
        """The versions that are kept and what became of them, the newest first."""
        store = self.stores.rollouts
        current, changes = await store.current(), await store.history(MOST_ENTRIES)
        roles: dict[int, str] = {}
        if current:
            roles = {current.trial.number: current.phase} if current.trial else {}
            roles[current.in_force.number] = "in force" if current.phase != "pinned" else "pinned"
        last = {each.version: each for each in reversed(changes)}
        versions: list[VersionRow] = []
        for info in (await store.versions())[:count]:
            change = last.get(info.number)
            what = change.what if change else "noted"
            state = roles.get(info.number) or _ENDED.get(what, "not finished")
            versions.append({**_info(info), "state": state, "why": change.why if change else ""})
        return {"versions": versions, "changes": changes[:count]}

    async def version(self, name: str) -> VersionFiles:
        """One version, with its files."""
        info = await self._find(name)
        content = await self._content(info.ref)
        return {**_info(info), "layers": [layer.name for layer in content.layers], "texts": dict(content.files)}

    async def differences(self, before: str, after: str) -> list[ChangeRow]:
        """What differs between two versions."""
        one, other = [await self._content((await self._find(name)).ref) for name in (before, after)]
        return [each.as_row() for each in compare_folders(one.folder, other.folder)]

    async def pause(self, by: str) -> RolloutStatus:
        """Stay at the present step; see :meth:`osqtwist.rollout.Rollout.paused`."""
        return await self._operate(lambda current, now: current.paused(by, now))

    async def resume(self, by: str) -> RolloutStatus:
        """Go on; see :meth:`osqtwist.rollout.Rollout.resumed`."""
        return await self._operate(lambda current, now: current.resumed(self.plan(), by, now))

    async def stop(self, by: str, why: str = "") -> RolloutStatus:
        """Take the version back; see :meth:`osqtwist.rollout.Rollout.stopped`."""
        return await self._operate(lambda current, now: current.stopped(by, now, why))

    async def finish(self, by: str) -> RolloutStatus:
        """Give every node the version; see :meth:`osqtwist.rollout.Rollout.finished`."""
        return await self._operate(lambda current, now: current.finished(by, now))

    async def roll_back(self, name: str, by: str) -> RolloutStatus:
        """
        Give every node an earlier version; see :meth:`osqtwist.rollout.Rollout.rolled_back`.

        :raise NoSuchThing: it is not kept.
        """
        info = await self._find(name)
        await self._content(info.ref)
        return await self._operate(lambda current, now: current.rolled_back(info.ref, by, now))

    # -- how

    async def _operate(self, work: Callable[[Rollout, float], Rollout]) -> RolloutStatus:
        if self.plan() is None:
            raise BadRollout("nothing is rolled out here: the config folder has no rollout.toml")
        for _ in range(_ATTEMPTS):
            current = await self.stores.rollouts.current()
            if current is None:
                raise BadRollout("no version is noted yet")
            if await self._change(work(current, self.clock.seconds()), current):
                return await self.status()
        raise BadRollout("somebody else changes it at the same time; look again")

    async def _change(self, changed: Rollout, seen: Rollout | None) -> bool:
        if not await self.stores.rollouts.change(changed, seen):
            return False
        entry = HistoryEntry.of(changed)
        because = f": {entry.why}" if entry.why else ""
        text = f"version {entry.version}: {entry.what}, {entry.percent:g} % of nodes, by {entry.by}{because}"
        (self._log.error if entry.what == "stopped" else self._log.info)("configuration: {text}", text=text)
        self.metrics.rollout_changes.labels(what=entry.what).inc()
        if kind := _EVENTS.get(entry.what):
            facts = {"version": entry.version, "in_force": changed.in_force.number, "by": entry.by, "why": entry.why}
            self.report(kind, "", facts)
        await self.stores.signals.publish("rollouts")
        if entry.by == BY_ITSELF and entry.what in _EVENTS:
            await self.trail.begun(BY_ITSELF, f"rollout {entry.what}", text)
        return True

    def _count(self, health: Health) -> None:
        for state in ("canaries", "errors", "denylisted", "missing"):
            self.metrics.rollout_nodes.labels(state=state).set(getattr(health, state))

    async def _folder_of(self, ref: VersionRef) -> Folder:
        """What a version says; nothing if that is not known any more."""
        if ref not in self._folders:
            try:
                self._folders = {ref: (await self._content(ref)).folder}
            except (NoSuchThing, BadRollout):
                return Folder(())
        return self._folders[ref]

    async def _find(self, name: str) -> VersionInfo:
        versions: list[VersionInfo] = await self.stores.rollouts.versions()
        for info in versions:
            if name == str(info.number) or name == info.digest:
                return info
        fits = [info for info in versions if len(name) >= _SHORTEST_DIGEST and info.digest.startswith(name)]
        if len(fits) != 1:
            raise NoSuchThing(f"no version {name[:64]!r} is kept; `osqtwist rollout history` lists them")
        return fits[0]

    async def _content(self, ref: VersionRef) -> Content:
        data = await self.stores.rollouts.data(ref.number)
        if data is None:
            raise NoSuchThing(f"version {ref.number} is not kept any more")
        try:
            return unpacked(data)
        except BadConfiguration as bad:
            raise BadRollout(f"version {ref.number} cannot be served any more: {bad}") from None


def _needed(current: Rollout | None) -> list[int]:
    if current is None:
        return []
    refs = (current.in_force, current.wanted, current.trial)
    return [ref.number for ref in refs if ref]


def _named(ref: VersionRef | None) -> VersionName | None:
    return {"version": ref.number, "digest": ref.digest} if ref else None


def _info(info: VersionInfo) -> VersionFacts:
    return {
        "number": info.number,
        "digest": info.digest,
        "noted_at": info.noted_at,
        "folder": info.folder,
        "files": info.files,
        "bytes": info.bytes,
    }
