"""What tag queries find, taken out of log posts into the tags of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import msgspec
from twisted.logger import Logger

from osqtwist.interfaces import INodeStore, ISignals, StoreFull, StoreUnavailable
from osqtwist.tagging import Tagging
from osqtwist.targeting import NodeFacts


@attrs.frozen
class TagFindings:
    """
    Gives nodes the tags whose queries have rows, and takes away those whose have none.

    :ivar tagging: answers with the tag queries in force for a node.
    """

    nodes: INodeStore
    signals: ISignals
    tagging: Callable[[NodeFacts], Tagging]
    _log: Logger = Logger()

    async def take(self, facts: NodeFacts, data: bytes, lines: Sequence[msgspec.Raw]) -> None:
        """
        Look through the lines of a log post that is stored already; the store is asked only if tags change.

        A failure of it is no failure of the post: the query will say the same again.

        :param data: all lines as one.
        """
        findings = self.tagging(facts).findings(data, lines)
        added = [tag for tag, has_rows in findings.items() if has_rows and tag not in facts.found_tags]
        removed = [tag for tag, has_rows in findings.items() if not has_rows and tag in facts.found_tags]
        if not added and not removed:
            return
        try:
            await self.nodes.tag_found(facts.node_id, added, removed)
            await self.signals.publish("nodes", facts.node_id)
        except (StoreUnavailable, StoreFull) as problem:
            self._log.warn("tags of {node!r} stay as they were: {problem}", node=facts.name, problem=problem)
