"""
A roll-out: which version of the configuration is in force, which one is tried, and on which nodes.

=============  ====================================================================================================
``in force``   every node has the same version
``rolling``    a share of the nodes, the canaries, has the version that is tried; the share grows step by step
``paused``     it does not grow
``stopped``    nobody has that version any more; it is not tried again until the files change, or somebody says so
``pinned``     an operator went back to a version, whatever the files say; until they change, or somebody says so
=============  ====================================================================================================

Nothing here looks at a clock or asks anybody: each change is a function from what was to what is.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from osqtwist.canaryhealth import Health, verdict
from osqtwist.rolloutplan import Plan
from osqtwist.targeting import Target

Phase = Literal["in force", "rolling", "paused", "stopped", "pinned"]
BY_ITSELF = "osqtwist"
"""Who changed it, where no operator did."""


class BadRollout(Exception):
    """A roll-out cannot be changed so, as things are; says why."""


class VersionRef(msgspec.Struct, frozen=True):
    """A version: its number, which counts up from 1, and the digest of its files."""

    number: int
    digest: str


class Rollout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    How things are.

    :ivar revision: counts the changes.
    :ivar in_force: what nodes have that are no canaries.
    :ivar wanted: what the files said last.
    :ivar trial: what is tried or, when it was stopped, was.
    :ivar plan: by which that is done; a change of the plan counts from the next roll-out on.
    :ivar run: counts the roll-outs.
    :ivar step: counts from 0.
    :ivar step_began_at: Unix time, as if there had been no pause; :attr:`paused_at` when the pause began.
    :ivar what: the last change in a word or two, :attr:`changed_by` whose it was, :attr:`why` what for.
    """

    revision: int = 1
    phase: Phase = "in force"
    in_force: VersionRef
    wanted: VersionRef
    trial: VersionRef | None = None
    plan: Plan | None = None
    run: int = 0
    step: int = 0
    began_at: float = 0.0
    step_began_at: float = 0.0
    paused_at: float = 0.0
    what: str = "in force"
    changed_at: float = 0.0
    changed_by: str = BY_ITSELF
    why: str = ""

    @property
    def is_under_way(self) -> bool:
        """Whether there are canaries."""
        return self.phase in ("rolling", "paused")

    @property
    def percent(self) -> float:
        """The share of nodes that the version that is tried is for."""
        return self.plan.steps[self.step] if self.plan and self.is_under_way else 0.0

    @property
    def canaries(self) -> Target | None:
        """Who they are, if there are any: chosen by a hash of node and version, so another version has others."""
        if self.plan is None or self.trial is None or not self.is_under_way:
            return None
        return Target(where=self.plan.target, percent=self.percent, salt=self.trial.digest)

    @property
    def about(self) -> VersionRef:
        """The version that the last change was about."""
        return self.trial or self.in_force

    # -- what the files do

    def submitted(self, version: VersionRef, plan: Plan | None, is_different: bool, now: float) -> Rollout | None:
        """
        What becomes of it when files say something; nothing if they say what they said.

        :param is_different: whether any node could tell it from the version in force.
        """
        if version == self.wanted and (plan or (self.phase == "in force" and self.in_force == version)):
            return None
        moved = msgspec.structs.replace(self, wanted=version)
        if plan is None or version == self.in_force or not is_different:
            return moved._in_force(version, "in force", BY_ITSELF, now)
        return moved._begun(version, plan, "begun", BY_ITSELF, now)

    # -- what time does

    def advanced(self, health: Health, now: float) -> Rollout | None:
        """What becomes of it by itself, if anything does."""
        if not self.is_under_way or self.plan is None or self.trial is None:
            return None
        if why := verdict(self.plan.stop, health):
            return self._changed("stopped", BY_ITSELF, now, why, phase="stopped")
        if self.phase == "paused" or self.waits(health, now):
            return None
        if self.step + 1 < len(self.plan.steps):
            return self._changed("step", BY_ITSELF, now, step=self.step + 1, step_began_at=now)
        return self._in_force(self.trial, "finished", BY_ITSELF, now)

    def waits(self, health: Health, now: float) -> str:
        """What the present step waits for, in words; nothing if it is over."""
        if self.plan is None or self.phase != "rolling":
            return ""
        lasted = now - self.step_began_at
        if lasted < self.plan.wait:
            return f"{self.plan.wait - lasted:.0f} s"
        if health.canaries < self.plan.stop.nodes and lasted < self.plan.patience:
            return f"{self.plan.stop.nodes} canaries to get it, or {self.plan.patience - lasted:.0f} s"
        return ""

    # -- what operators do

    def paused(self, by: str, now: float) -> Rollout:
        """
        Stay at the step.

        :raise BadRollout: it is not rolling.
        """
        if self.phase != "rolling":
            raise BadRollout(f"nothing to pause: {self._words}")
        return self._changed("paused", by, now, phase="paused", paused_at=now)

    def resumed(self, plan: Plan | None, by: str, now: float) -> Rollout:
        """
        Go on after a pause; begin again after a stop; after a rollback follow the files again.

        :param plan: in force now.
        :raise BadRollout: there is nothing to resume.
        """
        if self.phase == "paused":
            began = self.step_began_at + now - self.paused_at
            return self._changed("resumed", by, now, phase="rolling", step_began_at=began, paused_at=0.0)
        plan = plan or self.plan
        if self.phase == "stopped" and self.trial and plan:
            return self._begun(self.trial, plan, "begun", by, now)
        if self.phase == "pinned" and self.wanted == self.in_force:
            return self._in_force(self.in_force, "in force", by, now)
        if self.phase == "pinned" and plan:
            return self._begun(self.wanted, plan, "begun", by, now)
        raise BadRollout(f"nothing to resume: {self._words}")

    def stopped(self, by: str, now: float, why: str = "") -> Rollout:
        """
        Give canaries the version in force back.

        :raise BadRollout: there are none.
        """
        if not self.is_under_way:
            raise BadRollout(f"nothing to stop: {self._words}")
        return self._changed("stopped", by, now, why, phase="stopped")

    def finished(self, by: str, now: float) -> Rollout:
        """
        Give every node the version at once, also if it was stopped.

        :raise BadRollout: none is tried.
        """
        if self.trial is None:
            raise BadRollout(f"nothing to finish: {self._words}")
        return self._in_force(self.trial, "finished", by, now)

    def rolled_back(self, version: VersionRef, by: str, now: float) -> Rollout:
        """
        Give every node an earlier version at once, whatever the files say.

        :raise BadRollout: all have it.
        """
        if version == self.in_force and self.trial is None:
            raise BadRollout(f"nothing to roll back: {self._words}")
        pinned = self._in_force(version, "rolled back", by, now)
        return msgspec.structs.replace(pinned, phase="pinned")

    # -- how

    def _begun(self, version: VersionRef, plan: Plan, what: str, by: str, now: float) -> Rollout:
        return self._changed(
            what,
            by,
            now,
            phase="rolling",
            trial=version,
            plan=plan,
            run=self.run + 1,
            step=0,
            began_at=now,
            step_began_at=now,
            paused_at=0.0,
        )

    def _in_force(self, version: VersionRef, what: str, by: str, now: float) -> Rollout:
        return self._changed(what, by, now, phase="in force", in_force=version, trial=None, step=0, paused_at=0.0)

    def _changed(self, what: str, by: str, now: float, why: str = "", **more: Any) -> Rollout:
        return msgspec.structs.replace(
            self, revision=self.revision + 1, what=what, changed_by=by, changed_at=now, why=why, **more
        )

    @property
    def _words(self) -> str:
        if self.trial is None:
            return f"version {self.in_force.number} is {self.phase}"
        return f"the roll-out of version {self.trial.number} is {self.phase}"


def first(version: VersionRef, now: float) -> Rollout:
    """How things are when the first files were seen."""
    return Rollout(in_force=version, wanted=version, changed_at=now)


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change, as it is remembered."""

    at: float
    version: int
    what: str
    percent: float
    by: str
    why: str

    @classmethod
    def of(cls, rollout: Rollout) -> HistoryEntry:
        """The change that led here."""
        return cls(
            at=round(rollout.changed_at, 3),
            version=rollout.about.number,
            what=rollout.what,
            percent=rollout.percent if rollout.trial else 100.0,
            by=rollout.changed_by,
            why=rollout.why,
        )


class VersionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known of a version beside its files.

    :ivar noted_at: when it was first seen, Unix time; :attr:`folder` where.
    :ivar files: how many, and :attr:`bytes` how long they are as they are kept.
    """

    number: int
    digest: str
    noted_at: float
    folder: str
    files: int
    bytes: int

    @property
    def ref(self) -> VersionRef:
        """Its name."""
        return VersionRef(self.number, self.digest)
