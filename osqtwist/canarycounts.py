"""How the canaries of a roll-out are, as far as the stores know."""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorTime

from osqtwist.canaryhealth import Health, news
from osqtwist.confdiff import Folder
from osqtwist.interfaces import IStores
from osqtwist.rollout import Rollout

_MISSING_EVERY = 60.0
_HEARD_OF = 30.0
_PAGE = 1000


@attrs.define(eq=False)
class CanaryCounts:
    """Counts those that got the version, those in trouble, and those that fell silent; the last ones once a minute."""

    clock: IReactorTime
    stores: IStores
    _missing: tuple[int, float, int] = attrs.field(default=(0, 0.0, 0), init=False)

    async def health(self, rollout: Rollout, before: Folder) -> Health:
        """
        How the canaries are now.

        :param before: what the version in force says.
        """
        store, run = self.stores.rollouts, rollout.run
        canaries = await store.canaries(run)
        heard_of = await self.stores.nodes.count_since(rollout.began_at)
        # Most canaries were among the others at first, and may have told of a problem then.
        ratio = canaries / max(heard_of - canaries, heard_of / 2, 1.0)
        found = [each for each in await store.problems(run) if each.canaries and each.is_new(ratio)]
        problems = news(found, before) if found else ()
        counts = {
            kind: await store.distinct(run, [each.problem for each in problems if each.kind == kind])
            for kind in ("error", "denylisted")
        }
        missing = await self._count_missing(rollout)
        return Health(canaries, counts["error"], counts["denylisted"], missing, problems)

    async def _count_missing(self, rollout: Rollout) -> int:
        if rollout.plan is None or not rollout.plan.stop.missing:
            return 0
        run, at, count = self._missing
        now = self.clock.seconds()
        if run == rollout.run and now - at < _MISSING_EVERY:
            return count
        moment = now - rollout.plan.stop.missing_after
        count, place, is_first = 0, "", True
        while place or is_first:
            is_first = False
            served, place = await self.stores.rollouts.served_before(rollout.run, moment, place, _PAGE)
            sightings = await self.stores.nodes.sightings(list(served))
            count += sum(each.seen_at < served[node_id] + _HEARD_OF for node_id, each in sightings.items())
        self._missing = rollout.run, now, count
        return count
