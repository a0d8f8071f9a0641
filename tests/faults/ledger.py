"""What was acknowledged, and so must be there in the end."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs

from tests.faults.stage import Stage

if TYPE_CHECKING:
    from tests.faults.nodes import Node


@attrs.frozen
class Balance:
    """
    What became of it.

    :ivar acknowledged: how many things of each sort.
    :ivar lost: those that are not there, in words.
    :ivar twice: log lines that the sink has more than once, which is allowed.
    """

    acknowledged: dict[str, int]
    lost: list[str]
    twice: int


@attrs.define
class Ledger:
    """
    :ivar lines: node and number of each log line.
    :ivar keys: nodes that were given a node key; each must be good for ever.
    :ivar results: query and node of each result.
    :ivar carves: bytes of each carve by its id.
    :ivar revoked: names of nodes that an operator revoked, and :attr:`tags` what he tagged.
    """

    lines: set[tuple[str, int]] = attrs.field(factory=set)
    keys: list[Node] = attrs.field(factory=list)
    results: list[tuple[str, str]] = attrs.field(factory=list)
    carves: dict[str, bytes] = attrs.field(factory=dict)
    revoked: list[Node] = attrs.field(factory=list)
    tags: dict[str, set[str]] = attrs.field(factory=dict)

    async def settle(self, stage: Stage, forgiven: bool = False) -> Balance:
        """
        Compare with what is there; waits for the sink to catch up.

        :param forgiven: whether the store was emptied: then what lived in it alone is not missed.
        """
        lost: list[str] = []
        await stage.until(lambda: self.lines <= self._delivered(stage).keys() or forgiven, 30, 0.5)
        delivered = self._delivered(stage)
        if not forgiven:
            lost += [f"line {number} of {node}" for node, number in sorted(self.lines - delivered.keys())]
            lost += await self._lost_results(stage)
            lost += await self._lost_carves(stage)
            lost += await self._lost_tags(stage)
        lost += await self._lost_credentials()
        return Balance(
            {
                "lines": len(self.lines),
                "node keys": len(self.keys),
                "results": len(self.results),
                "carves": len(self.carves),
                "revocations": len(self.revoked),
                "tags": sum(map(len, self.tags.values())),
            },
            lost,
            sum(delivered.values()) - len(delivered),
        )

    @staticmethod
    def _delivered(stage: Stage) -> Counter[tuple[str, int]]:
        return Counter(
            (line["hostIdentifier"], int(line["columns"]["number"]))
            for line in stage.lines()
            if line.get("name") == "numbered"
        )

    async def _lost_results(self, stage: Stage) -> list[str]:
        lost = []
        for query_id in {query_id for query_id, _ in self.results}:
            _, content = await stage.ask("GET", f"/api/v1/queries/{query_id}/results")
            rows = [json.loads(line) for line in content.splitlines()]
            counted = Counter(row["rows"][0]["node"] for row in rows if row.get("rows"))
            for expected, node in self.results:
                if expected == query_id and counted[node] != 1:
                    lost.append(f"result of {node} to {query_id}: counted {counted[node]} times")
        return lost

    async def _lost_carves(self, stage: Stage) -> list[str]:
        lost = []
        for carve_id, data in self.carves.items():
            code, content = await stage.ask("GET", f"/api/v1/carves/{carve_id}/file")
            if code != 200 or hashlib.sha256(content).digest() != hashlib.sha256(data).digest():
                lost.append(f"carve {carve_id}: {code}, {len(content)} of {len(data)} bytes")
        return lost

    async def _lost_tags(self, stage: Stage) -> list[str]:
        lost = []
        for name, tags in self.tags.items():
            found: Any = await stage.json("GET", f"/api/v1/nodes/{name}")
            if missing := tags - set(found["tags"]):
                lost.append(f"tags of {name}: {sorted(missing)}")
        return lost

    async def _lost_credentials(self) -> list[str]:
        good = [node for node in self.keys if node not in self.revoked]
        return [
            f"{what} of {node.machine.name}: {seen.word} {seen.text}"
            for what, nodes, word in (("node key", good, "config"), ("revocation", self.revoked, "NODE_INVALID"))
            for node in nodes
            if (seen := await node.config()).word != word
        ]
