"""
``python -m bench.layers``: the configuration of one node among many, with many layers.

In one process and without a network: what it costs to find which layers are for a node, how often a configuration is
made, and what a node costs that asks again.  Each layer has a target of its own, of the kinds that fleets have.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator

from osqtwist.configuration import NodeConfiguration
from osqtwist.layers import Layer, parse_layer
from osqtwist.targeting import NodeFacts

NODES = 100_000
LAYERS = 200
SITES = 40
ROLES = 24
_WORDS = ("linux", "ubuntu"), ("linux", "debian"), ("windows",), ("darwin",)


def targets() -> Iterator[str]:
    """Expressions: for everybody, by platform, by tags, by name, by version, and mixed."""
    yield ""
    for words in _WORDS:
        yield f"platform:{words[-1]}"
    for site in range(SITES):
        yield f"tag:site-{site}"
    for role in range(ROLES):
        yield f"tag:role-{role} and not name:build-*"
    for number in range(1000):
        site, role = number % SITES, number % ROLES
        yield (
            f"tag:site-{site} and tag:role-{role}",
            f"platform:linux and (tag:role-{role} or name:db-{number}*)",
            f"name:web-{number}.* or name:db-{number}.*",
        )[number % 3]


def layers(count: int) -> list[Layer]:
    """So many of them, each with a scheduled query or an option."""
    made = []
    for number, target in zip(range(count), targets(), strict=False):
        query = {"query": f"select * from processes where pid > {number}", "interval": 60 + number}
        body = {"osqtwist": {"target": {"where": target} if target else {}}, "schedule": {f"query-{number}": query}}
        made.append(parse_layer(f"{number:03}.json", json.dumps(body)))
    return made


def fleet(count: int) -> list[NodeFacts]:
    """So many nodes: each of one site, one role and one platform."""
    nodes = []
    for number in range(count):
        role = number // SITES % ROLES
        nodes.append(
            NodeFacts(
                node_id=f"{number:020x}",
                name=f"{('web', 'db', 'build')[number % 3]}-{number}.example.com",
                platforms=frozenset(_WORDS[number % 7 % len(_WORDS)]),
                tags=frozenset({f"site-{number % SITES}", f"role-{role}", "prod"}),
                firm_tags=frozenset({f"site-{number % SITES}", f"role-{role}", "prod"}),
            )
        )
    return nodes


class Counting(NodeConfiguration):
    """Counts how often a configuration is made."""

    made = 0

    def _render(self, chosen: tuple[int, ...]) -> bytes:
        self.made += 1
        return super()._render(chosen)


def timed(configuration: NodeConfiguration, nodes: list[NodeFacts]) -> tuple[float, set[str]]:
    """Microseconds of CPU for each node, and the etags that were answered."""
    etags = set()
    begin = time.process_time()
    for facts in nodes:
        etags.add(configuration.config_for(facts, "known").etag)
    return (time.process_time() - begin) / len(nodes) * 1e6, etags


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.layers", description=__doc__.splitlines()[1])
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    nodes = fleet(words.nodes)
    print("| layers | nodes | outcomes | made | us a node, first | us a node, again |")
    print("|---|---|---|---|---|---|")
    for count in sorted({1, words.layers // 10 or 1, words.layers}):
        configuration = Counting(layers(count))
        first, etags = timed(configuration, nodes)
        again = statistics.median(timed(configuration, nodes)[0] for _ in range(words.rounds))
        print(f"| {count} | {len(nodes)} | {len(etags)} | {configuration.made} | {first:.1f} | {again:.1f} |")


if __name__ == "__main__":
    main()
