"""Operations about versions of the configuration and how they are rolled out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec

from osqtwist.confdiff import ChangeRow
from osqtwist.operator import Role
from osqtwist.rollouts import History, Rollouts, RolloutStatus, VersionFiles
from osqtwist.web.operations import Call, Limit, Operation


class HistoryWanted(msgspec.Struct, forbid_unknown_fields=True):
    """How much of it."""

    limit: Limit = 20


class TwoVersions(msgspec.Struct, forbid_unknown_fields=True):
    """Versions, by number or digest."""

    before: str
    after: str


class StopOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Why."""

    why: Annotated[str, msgspec.Meta(max_length=500)] = ""


class Differences(TypedDict):
    """What differs, layer by layer."""

    changes: list[ChangeRow]


@attrs.frozen
class RolloutOperations:
    """Roll-outs: looked at, paused, stopped, undone."""

    rollouts: Rollouts

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        all_of_them = "/api/v1/rollouts"
        return (
            Operation("GET", all_of_them, self.status, Role.VIEWER),
            Operation("GET", f"{all_of_them}/history", self.history, Role.VIEWER, query=HistoryWanted),
            Operation("GET", f"{all_of_them}/diff", self.diff, Role.VIEWER, query=TwoVersions),
            Operation("GET", f"{all_of_them}/versions/{{version}}", self.version, Role.VIEWER),
            Operation("POST", f"{all_of_them}/pause", self.pause, Role.OPERATOR),
            Operation("POST", f"{all_of_them}/resume", self.resume, Role.OPERATOR),
            Operation("POST", f"{all_of_them}/stop", self.stop, Role.OPERATOR, body=StopOrder),
            Operation("POST", f"{all_of_them}/finish", self.finish, Role.ADMIN),
            Operation("POST", f"{all_of_them}/versions/{{version}}/rollback", self.roll_back, Role.ADMIN),
        )

    async def status(self, call: Call) -> RolloutStatus:
        """Which version of the configuration is in force, which is tried, and how its canaries are."""
        return await self.rollouts.status()

    async def history(self, call: Call) -> History:
        """The versions that are kept, and what became of them."""
        return await self.rollouts.history(call.query.limit)

    async def diff(self, call: Call) -> Differences:
        """What differs between two versions: `before` and `after`."""
        return {"changes": await self.rollouts.differences(call.query.before, call.query.after)}

    async def version(self, call: Call) -> VersionFiles:
        """One version, by number or digest, with the texts of its files."""
        return await self.rollouts.version(call.path["version"])

    async def pause(self, call: Call) -> RolloutStatus:
        """Stay at the step; canaries are still looked after."""
        return await self.rollouts.pause(call.actor.name)

    async def resume(self, call: Call) -> RolloutStatus:
        """Go on after a pause, begin again after a stop, or follow the files again after a rollback."""
        return await self.rollouts.resume(call.actor.name)

    async def stop(self, call: Call) -> RolloutStatus:
        """Give canaries the version in force back: `{"why": ...}`."""
        return await self.rollouts.stop(call.actor.name, call.body.why)

    async def finish(self, call: Call) -> RolloutStatus:
        """Give every node the version that is tried, or was stopped, at once."""
        return await self.rollouts.finish(call.actor.name)

    async def roll_back(self, call: Call) -> RolloutStatus:
        """Give every node this version at once, until the files change."""
        return await self.rollouts.roll_back(call.path["version"], call.actor.name)
