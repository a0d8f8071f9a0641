"""
Which layers are for a node: found out once for each kind of node, but for what names and shares decide.

A fleet of 100,000 has few kinds of nodes: those with the same tags, platform, version, issuer and secret.  Of most
layers that says already whether they are for a node.
"""

from __future__ import annotations

from collections.abc import Hashable

import attrs

from osqtwist.layers import Layer
from osqtwist.targeting import NodeFacts

_MAX_KINDS = 4096

_Candidate = tuple[int, Layer | None]


@attrs.define
class LayerChoice:
    """
    Chooses among layers that stay the same.

    :ivar layers: in order.
    """

    layers: tuple[Layer, ...]
    _kinds: dict[Hashable, tuple[_Candidate, ...]] = attrs.field(factory=dict, init=False, repr=False)
    _each: list[tuple[_Candidate, _Candidate]] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        # Shared by all kinds, so that one costs 8 bytes a layer.
        self._each = [((number, None), (number, layer)) for number, layer in enumerate(self.layers)]

    def chosen(self, facts: NodeFacts) -> tuple[int, ...]:
        """The places of the layers that are for a node, the same as if each was asked."""
        kind = facts.kind
        candidates = self._kinds.get(kind)
        if candidates is None:
            if len(self._kinds) >= _MAX_KINDS:
                self._kinds.clear()
            candidates = self._kinds[kind] = self._candidates(facts)
        return tuple(number for number, layer in candidates if layer is None or layer.is_for(facts))

    def _candidates(self, facts: NodeFacts) -> tuple[_Candidate, ...]:
        """The layers that are for a node of this kind, without the layer, or may be, with it."""
        verdicts = [layer.target.verdict(layer.seen(facts)) for layer in self.layers]
        return tuple(
            surely if verdict else perhaps
            for verdict, (surely, perhaps) in zip(verdicts, self._each, strict=True)
            if verdict is not False
        )
