"""
Which layers are for a node: found out once for each kind of node, but for what names and shares decide.

A fleet of 100,000 has few kinds of nodes: those with the same tags, platform, version, issuer and secret.  Of most
layers that says already whether they are for a node.  What names and shares decided is remembered as long as what is
known of the node is the same object.
"""

from __future__ import annotations

from collections.abc import Hashable

import attrs

from osqtwist.layers import Layer
from osqtwist.outcomes import Chosen
from osqtwist.targeting import NodeFacts

_MAX_KINDS = 4096
_MAX_NODES = 131_072

_Candidate = tuple[int, Layer | None]


@attrs.define
class LayerChoice:
    """
    Chooses among layers that stay the same.

    :ivar layers: in order.
    """

    layers: tuple[Layer, ...]
    _kinds: dict[Hashable, tuple[_Candidate, ...]] = attrs.field(factory=dict, init=False, repr=False)
    _decided: dict[str, tuple[NodeFacts, Chosen]] = attrs.field(factory=dict, init=False, repr=False)
    _shared: dict[Chosen, Chosen] = attrs.field(factory=dict, init=False, repr=False)
    _each: list[tuple[_Candidate, _Candidate]] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        # Shared by all kinds, so that one costs 8 bytes a layer.
        self._each = [((number, None), (number, layer)) for number, layer in enumerate(self.layers)]

    def chosen(self, facts: NodeFacts) -> Chosen:
        """The places of the layers that are for a node, the same as if each was asked."""
        decided = self._decided.get(facts.node_id)
        if decided and decided[0] is facts:
            return decided[1]
        if len(self._decided) >= _MAX_NODES:
            self._decided.clear()
            self._shared.clear()
        chosen = self._choose(facts)
        chosen = self._shared.setdefault(chosen, chosen)
        self._decided[facts.node_id] = facts, chosen
        return chosen

    def _choose(self, facts: NodeFacts) -> Chosen:
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
