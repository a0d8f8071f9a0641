"""All targets, by name."""

from __future__ import annotations

from tests.fuzz import of_nodes, of_people
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {target.name: target for target in (*of_nodes.TARGETS, *of_people.TARGETS)}
