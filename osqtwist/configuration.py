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

from osqtwist.explaining import explain_layers, origin_of, sources
from osqtwist.layerchoice import LayerChoice
from osqtwist.layers import Layer, merge, render
from osqtwist.node import Node
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
_MAX_RENDERED = 4096


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
        self._rendered: dict[tuple[int, ...], _Rendered] = {}

    def ease(self, options: Mapping[str, Any]) -> None:
        """Have these options stand over the defaults from now on; what a layer sets stays as it is."""
        self._eased = dict(options)
        self._rendered.clear()

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

    def why(self, node: Node) -> dict[str, Any]:
        """Why a node's configuration is what it is: of each layer, query and option, ready to be JSON."""
        stories = explain_layers(self._layers, self.tagging.applied(node.facts()), origin_of(node, self.tagging))
        applied = [story.layer for story in stories if story.why.matches]
        return {"layers": [story.as_row() for story in stories], **sources(applied, {**self._defaults, **self._eased})}

    def config_for(self, facts: NodeFacts, etag: str | None) -> ConfigAnswer:
        """
        The configuration of a node.

        :param etag: what the node has, ``""`` if it has nothing, ``None`` if its osquery does not know of etags:
            then the answer has none either.
        """
        chosen = self._choice.chosen(facts)
        rendered = self._rendered.get(chosen)
        if rendered is None:
            if len(self._rendered) >= _MAX_RENDERED:
                self._rendered.clear()
            rendered = self._rendered[chosen] = self._render(chosen)
        return rendered.answer(etag)

    def _render(self, chosen: tuple[int, ...]) -> _Rendered:
        layers = [self._layers[number] for number in chosen]
        merged = merge([{"options": {**self._defaults, **self._eased}}, *(layer.body for layer in layers)])
        return _Rendered.of(render(merged), tuple(layer.name for layer in layers), merged)


class StaticConfiguration(NodeConfiguration):
    """The same bytes for every node."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._static = _Rendered.of(body, ("static",), None)

    def why(self, node: Node) -> dict[str, Any]:
        """Nothing decides anything here."""
        return {"layers": [], "queries": [], "options": []}

    def config_for(self, facts: NodeFacts, etag: str | None) -> ConfigAnswer:
        """See :class:`NodeConfiguration`."""
        return self._static.answer(etag)


@attrs.frozen
class _Rendered:
    plain: bytes
    tagged: bytes
    etag: str
    layers: tuple[str, ...]

    @classmethod
    def of(cls, plain: bytes, layers: tuple[str, ...], body: Mapping[str, Any] | None) -> _Rendered:
        etag = hashlib.sha256(plain).hexdigest()[:32]
        tagged = plain if body is None else render({**body, "etag": etag})
        return cls(plain, tagged, etag, layers)

    def answer(self, etag: str | None) -> ConfigAnswer:
        if etag is None:
            return ConfigAnswer(self.plain, self.etag, self.layers, gzipped=_gzip)
        if etag == self.etag:
            return ConfigAnswer(_UNCHANGED, self.etag, self.layers, True, gzipped=_gzip)
        return ConfigAnswer(self.tagged, self.etag, self.layers, gzipped=_gzip)


@functools.lru_cache(maxsize=64)
def _gzip(body: bytes) -> bytes:
    # No time stamp in it: the same configuration is the same bytes.
    return gzip.compress(body, mtime=0)
