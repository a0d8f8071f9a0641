"""What operators changed through the API, gathered from the stores; see :mod:`osqtwist.exportfiles`."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import TypedDict

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from osqtwist import exportfiles
from osqtwist.interfaces import IStores
from osqtwist.node import Node
from osqtwist.rollouts import Rollouts

_PAGE = 500
_MOST_QUERIES = 1000


class FilePart(TypedDict):
    """
    A part of a file: parts of the same path come one after the other, and their texts in that order are the file.

    `path` is relative, with slashes.
    """

    path: str
    text: str


@attrs.frozen
class FleetExport:
    """Gives what there is as files."""

    clock: IReactorTime
    stores: IStores
    rollouts: Rollouts

    async def parts(self, tokens: bool) -> AsyncIterator[FilePart]:
        """
        Every file, also those with nothing in them; the configuration once a version of it is noted.

        :param tokens: whether access tokens are among it.
        """
        stores, now = self.stores, self.clock.seconds()
        yield {"path": exportfiles.NODES, "text": ""}
        changed = await self._changed_nodes()
        for start in range(0, len(changed), _PAGE):
            page = changed[start : start + _PAGE]
            yield {"path": exportfiles.NODES, "text": exportfiles.yaml_text(exportfiles.of_nodes(page))}
            # YAML takes its time; everybody else gets a turn.
            await deferLater(self.clock, 0)
        denials = await stores.denials.changed("")
        small = {
            exportfiles.REVOCATIONS: exportfiles.of_revocations(await stores.nodes.revocations()),
            exportfiles.DENIALS: exportfiles.of_denials(denials.denials if denials else ()),
            exportfiles.SECRETS: exportfiles.of_secrets(await stores.secrets.all()),
            exportfiles.SILENCES: exportfiles.of_silences(await stores.alerts.silences(now)),
            exportfiles.QUERIES: exportfiles.of_queries(await stores.queries.recent(_MOST_QUERIES)),
        }
        small[exportfiles.SAVED_QUERIES] = exportfiles.of_saved_queries(await stores.saved_queries.all())
        if tokens:
            small[exportfiles.TOKENS] = exportfiles.of_tokens(await stores.operators.tokens())
        current = await stores.rollouts.current()
        small[exportfiles.VERSIONS] = exportfiles.of_versions(current, await stores.rollouts.versions())
        for path, things in small.items():
            yield {"path": path, "text": exportfiles.yaml_text(things)}
        if current is not None:
            version = await self.rollouts.version(str(current.in_force.number))
            for name, text in sorted(version["texts"].items()):
                yield {"path": exportfiles.CONFIG + name, "text": text}

    async def _changed_nodes(self) -> list[Node]:
        """Nodes that operators gave something, by id."""
        seen: set[str] = set()
        changed: list[Node] = []
        start, offset = -math.inf, 0
        # From who was silent longest: who is heard of meanwhile comes again further on, so nobody is passed over.
        while page := await self.stores.nodes.last_seen_between(start, math.inf, offset, _PAGE):
            new = [node_id for node_id, _ in page if node_id not in seen]
            seen.update(new)
            nodes = await self.stores.nodes.get_many(new)
            changed += [node for node in nodes.values() if exportfiles.has_changes(node)]
            if len(page) < _PAGE:
                break
            last = page[-1][1]
            start, offset = (last, 0) if last > start else (start, offset + _PAGE)
        return sorted(changed, key=lambda node: node.node_id)
