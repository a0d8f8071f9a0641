"""
The configuration that each node gets.

Layers are kept in memory.  What a node gets depends only on which layers are for it, so it is put together once for
each such set, not once for each node.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from osqtwist.explaining import ConfigReasons, explain_layers, origin_of, sources
from osqtwist.layerchoice import LayerChoice
from osqtwist.layers import Layer, merge, render
from osqtwist.node import Node
from osqtwist.outcomes import Chosen, Outcomes
from osqtwist.rolloutplan import Plan
from osqtwist.tagging import Tagging
from osqtwist.targeting import NodeFacts

DEFAULT_OPTIONS: Mapping[str, Any] = {
    # Reads are held here, so a node may come back at once; osquery's own default of 60 would have it deaf for
    # most of the time.
    "distributed_interval": 1,
    # osquery's default is true.
    "disable_distributed": False,
    # Each flush is a connection with a full handshake: 10 s instead of osquery's 4.
    "logger_tls_period": 10,
}
"""Options that every configuration gets unless a layer sets them."""

_UNCHANGED = b'{"etag":"ok"}'


@attrs.frozen
class ConfigAnswer:
    """
    What a node is answered.

    :ivar etag: of the configuration, whether or not the node asked for it.
    :ivar layers: the names of the layers it is made of.
    :ivar is_unchanged: the node has it already, and :attr:`body` says only that.
    :ivar run: the roll-out that the node is a canary of, if what it gets is not what it got before; else 0.
    """

    body: bytes
    etag: str
    layers: tuple[str, ...] = ()
    is_unchanged: bool = False
    run: int = 0
    _gzipped: Callable[[bytes], bytes] = gzip.compress

    def gzipped(self) -> bytes:
        """The body as gzip, for clients that ask for it; made once for each configuration."""
        return self._gzipped(self.body)


class NodeConfiguration:
    """
    Answers with a node's configuration, from memory.

    :param layers: in the order in which they are merged.
    :ivar tagging: the tag queries that are served beside them, and the rules.
    :ivar plan: how a change of the folder is rolled out, if it is not for every node at once.
    """

    plan: Plan | None = None

    def __init__(
        self,
        layers: Sequence[Layer] = (),
        defaults: Mapping[str, Any] = DEFAULT_OPTIONS,
        tagging: Tagging = Tagging(),
    ) -> None:
        self._defaults = defaults
        self._eased: dict[str, Any] = {}
        self.replace(layers, tagging)

    def replace(self, layers: Sequence[Layer], tagging: Tagging = Tagging()) -> None:
        """Serve other layers from now on."""
        self.tagging = tagging
        self._layers = (*layers, *tagging.layers())
        self._choice = LayerChoice(self._layers)
        self._outcomes = Outcomes(self._render, lambda number: self._layers[number].name)

    def ease(self, options: Mapping[str, Any]) -> None:
        """Have these options stand over the defaults from now on; what a layer sets stays as it is."""
        self._eased = dict(options)
        self._outcomes.clear()

    @property
    def eased(self) -> Mapping[str, Any]:
        """The options that stand over the defaults."""
        return self._eased

    def tagging_of(self, facts: NodeFacts) -> Tagging:
        """What counts for this node."""
        return self.tagging

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers there are, in order."""
        return self._layers

    def layer_names(self) -> list[str]:
        """The layers there are, in order."""
        return [layer.name for layer in self._layers]

    def why(self, node: Node) -> ConfigReasons:
        """Why a node's configuration is what it is: of each layer, query and option, ready to be JSON."""
        stories = explain_layers(self._layers, self.tagging.applied(node.facts()), origin_of(node, self.tagging))
        applied = [story.layer for story in stories if story.why.matches]
        found = sources(applied, {**self._defaults, **self._eased})
        rows = [story.as_row() for story in stories]
        return {"layers": rows, "queries": found["queries"], "options": found["options"]}

    def etag_for(self, facts: NodeFacts) -> str:
        """The etag of a node's configuration."""
        return self._outcomes.of(self._choice.chosen(facts)).etag

    def config_for(self, facts: NodeFacts, etag: str | None) -> ConfigAnswer:
        """
        The configuration of a node.

        :param etag: what the node has, ``""`` if it has nothing, ``None`` if its osquery does not know of etags:
            then the answer has none either.
        """
        chosen = self._choice.chosen(facts)
        outcome = self._outcomes.of(chosen)
        if etag == outcome.etag:
            return ConfigAnswer(_UNCHANGED, outcome.etag, outcome.layers, True, gzipped=_gzip)
        body = self._outcomes.body(chosen)
        if etag is not None:
            # In front: the same configuration is always the same bytes, since the client hashes them.
            body = b'{"etag":"%s",%s' % (outcome.etag.encode(), body[1:])
        return ConfigAnswer(body, outcome.etag, outcome.layers, gzipped=_gzip)

    def _render(self, chosen: Chosen) -> bytes:
        layers = [self._layers[number] for number in chosen]
        return render(merge([{"options": {**self._defaults, **self._eased}}, *(layer.body for layer in layers)]))


class StaticConfiguration(NodeConfiguration):
    """
    The same bytes for every node.

    No etag is put into them, whatever they are.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body
        self._etag = hashlib.sha256(body).hexdigest()[:32]

    def why(self, node: Node) -> ConfigReasons:
        """Nothing decides anything here."""
        return {"layers": [], "queries": [], "options": []}

    def etag_for(self, facts: NodeFacts) -> str:
        """See :class:`NodeConfiguration`."""
        return self._etag

    def config_for(self, facts: NodeFacts, etag: str | None) -> ConfigAnswer:
        """See :class:`NodeConfiguration`."""
        has_it = etag == self._etag
        return ConfigAnswer(_UNCHANGED if has_it else self._body, self._etag, ("static",), has_it, gzipped=_gzip)


@functools.lru_cache(maxsize=64)
def _gzip(body: bytes) -> bytes:
    # No time stamp in it: the same configuration is the same bytes.
    return gzip.compress(body, mtime=0)
