"""The layers of the configuration in force, and how many nodes get each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import attrs

from osqtwist.census import Census, Counted
from osqtwist.configuration import NodeConfiguration
from osqtwist.layers import Layer
from osqtwist.targeting import Target


class PackRow(TypedDict):
    """A pack, the names of its queries, and its file if it has one of its own."""

    pack: str
    file: str | None
    queries: list[str]


class LayerRow(TypedDict):
    """A layer: whom it is for, how many nodes that are, and the names of what it says."""

    layer: str
    description: str
    target: Target
    nodes: int
    online: int
    queries: list[str]
    options: list[str]
    packs: list[PackRow]


class ServedLayers(TypedDict):
    """Every layer in the order in which they are merged, and how many nodes there are."""

    layers: list[LayerRow]
    nodes: int


@attrs.frozen
class LayerView:
    """What is served, for people."""

    configuration: NodeConfiguration
    census: Census

    async def rows(self) -> ServedLayers:
        """
        Every layer in the order in which they are merged, with the packs, queries and options that it says.

        ``nodes`` and ``online`` are how many nodes it is for; canaries of a roll-out are counted as if they had the
        version in force.
        """
        groups = await self.census.groups()
        rows = []
        for layer in self.configuration.layers:
            meant = [each for group in groups for each in _meant(layer, group)]
            rows.append(_row(layer, meant))
        return {"layers": rows, "nodes": sum(map(len, groups))}


def _meant(layer: Layer, group: Sequence[Counted]) -> list[Counted]:
    verdict = layer.target.verdict(layer.seen(group[0].facts))
    if verdict is None:
        return [each for each in group if layer.is_for(each.facts)]
    return list(group) if verdict else []


def _row(layer: Layer, meant: Sequence[Counted]) -> LayerRow:
    packs = _object(layer.body, "packs")
    return {
        "layer": layer.name,
        "description": layer.description,
        "target": Target() if layer.target.is_everything else layer.target,
        "nodes": len(meant),
        "online": sum(each.is_online for each in meant),
        "queries": sorted(_object(layer.body, "schedule")),
        "options": sorted(_object(layer.body, "options")),
        "packs": [
            {
                "pack": name,
                "file": layer.pack_files.get(name) or None,
                "queries": sorted(_object(pack, "queries")) if isinstance(pack, Mapping) else [],
            }
            for name, pack in sorted(packs.items())
        ],
    }


def _object(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    return value if isinstance(value, Mapping) else {}
