"""Configurations that were made: each once for all nodes that it is for, and kept as long as there is room."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import attrs

MOST_BYTES = 64 * 2**20
"""Of the bodies that are kept; the one asked for longest ago is made anew when it is asked for again."""
MOST_ETAGS = 65_536
"""Outcomes whose etag is kept, with or without the body: who has the newest body needs no more."""

Chosen = tuple[int, ...]
"""The places of the layers that a configuration is made of."""


@attrs.frozen
class Outcome:
    """
    What a set of layers comes to.

    :ivar layers: their names.
    """

    etag: str
    layers: tuple[str, ...]


@attrs.define
class Outcomes:
    """
    Outcomes by the layers they are made of.

    :ivar render: makes the body, always the same one of the same layers.
    :ivar name: the name of a layer.
    """

    render: Callable[[Chosen], bytes]
    name: Callable[[int], str]
    _known: dict[Chosen, Outcome] = attrs.field(factory=dict, init=False, repr=False)
    _bodies: OrderedDict[Chosen, bytes] = attrs.field(factory=OrderedDict, init=False, repr=False)
    _bytes: int = attrs.field(default=0, init=False)

    def of(self, chosen: Chosen) -> Outcome:
        """The outcome of these layers; its body is made if it was not before."""
        outcome = self._known.get(chosen)
        if outcome is None:
            if len(self._known) >= MOST_ETAGS:
                self._known.clear()
            etag = hashlib.sha256(self.body(chosen)).hexdigest()[:32]
            outcome = self._known[chosen] = Outcome(etag, tuple(self.name(number) for number in chosen))
        return outcome

    def body(self, chosen: Chosen) -> bytes:
        """The configuration of these layers, as JSON."""
        body = self._bodies.get(chosen)
        if body is not None:
            self._bodies.move_to_end(chosen)
            return body
        body = self._bodies[chosen] = self.render(chosen)
        self._bytes += len(body)
        while self._bytes > MOST_BYTES and len(self._bodies) > 1:
            self._bytes -= len(self._bodies.popitem(last=False)[1])
        return body

    def clear(self) -> None:
        """Make all of them anew."""
        self._known.clear()
        self._bodies.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)
