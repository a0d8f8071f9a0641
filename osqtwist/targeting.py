"""
Targets: which nodes a configuration layer or a distributed query is for.

A target is a conjunction.  Each field that is given must match; inside a field any one value is enough.  An
empty target matches every node.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import re
from collections.abc import Hashable, Iterable

import attrs
import msgspec

from osqtwist.expression import BadExpression, Expression, Vocabulary, parse
from osqtwist.verdict import verdict

_SHARES = 10_000
_WILD = re.compile(r"[*?\[]")

VOCABULARY = Vocabulary(
    frozenset({"id", "name", "cn", "host", "tag", "platform", "version", "issuer", "proof", "secret"})
)
"""What an expression may ask of a node; see :meth:`NodeFacts.values`."""


class BadTarget(ValueError):
    """A target cannot mean anything; the text says which field and why."""


@attrs.frozen
class NodeFacts:
    """
    What a target can look at, for one node.

    :ivar node_id: the opaque id of the node.
    :ivar name: the proven identity, or the host identifier of a node that enrolled with a secret.
    :ivar platforms: every platform word that fits, for instance ``{"linux", "ubuntu"}``.
    :ivar tags: all that it has now; :attr:`firm_tags` those of operators, secret and certificate alone, and
        :attr:`found_tags` those of which a tag query said so.
    :ivar secret: the name of the enroll secret that it came by.
    :ivar identity: the identity of the certificate that the node showed last, :attr:`issuer` who signed it (RFC 4514).
    """

    node_id: str
    name: str
    host_identifier: str = ""
    platforms: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    osquery_version: str = ""
    identity: str = ""
    issuer: str = ""
    secret: str = ""
    firm_tags: frozenset[str] = frozenset()
    found_tags: frozenset[str] = frozenset()

    def with_firm_tags(self) -> NodeFacts:
        """The same with no other tags."""
        return self if self.tags == self.firm_tags else attrs.evolve(self, tags=self.firm_tags)

    @property
    def kind(self) -> Hashable:
        """What the node shares with many others: nodes with the same kind have the same :meth:`Target.verdict`."""
        return (
            self.tags,
            self.firm_tags,
            self.platforms,
            self.osquery_version,
            self.issuer,
            self.secret,
            bool(self.identity),
        )

    @property
    def names(self) -> tuple[str, str, str]:
        """What :attr:`Target.nodes` looks at."""
        return self.node_id, self.name, self.host_identifier

    def name_keys(self) -> set[str]:
        """
        What to find the node under, for :attr:`Target.plain_names`: its names in lower case.

        Beyond ASCII there are letters that are the same to a pattern, but not in lower case; a node with such a name is
        found under the empty text too, and has to be looked at whatever names are sought.
        """
        keys = {name.lower() for name in self.names if name}
        if not all(name.isascii() for name in keys):
            keys.add("")
        return keys

    def values(self, key: str) -> Iterable[str]:
        """The values of a key of :data:`VOCABULARY`."""
        if key == "tag":
            return self.tags
        if key == "platform":
            return self.platforms
        if key == "proof":
            return ("certificate",) if self.identity else ("secret",)
        return (value,) if (value := getattr(self, _FIELDS[key])) else ()


_FIELDS = {
    "id": "node_id",
    "name": "name",
    "cn": "identity",
    "host": "host_identifier",
    "version": "osquery_version",
    "issuer": "issuer",
    "secret": "secret",
}


_OF_THE_KIND = frozenset({"tag", "platform", "version", "issuer", "secret", "proof"})
"""The keys whose values :attr:`NodeFacts.kind` has."""


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """
    Which nodes something is for.

    :ivar nodes: node ids, names or host identifiers; ``*``, ``?`` and ``[...]`` match as in a shell.
    :ivar tags: tags, of which the node has at least one.
    :ivar platforms: platform words (``linux``, ``darwin``, ``windows``, ``ubuntu``...), of which one fits the node.
    :ivar where: an expression over :data:`VOCABULARY` (see :mod:`osqtwist.expression`), for what the fields cannot say.
    :ivar percent: the share of nodes, 0 to 100, chosen by a hash that stays the same for a node.
    :ivar salt: shares with the same salt choose the same nodes; a larger percentage contains the smaller.
    """

    nodes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    where: str = ""
    percent: float = 100.0
    salt: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise BadTarget(f"percent is {self.percent:g}; it must be from 0 to 100")
        try:
            parsed(self.where)
        except BadExpression as problem:
            raise BadTarget(f"where is not an expression: {problem}") from None

    def matches(self, facts: NodeFacts) -> bool:
        """Whether the node with these facts is meant."""
        if self.tags and facts.tags.isdisjoint(self.tags):
            return False
        if self.platforms and facts.platforms.isdisjoint(p.lower() for p in self.platforms):
            return False
        if self.nodes and not _names_match(self.nodes, facts):
            return False
        if self.where and not parsed(self.where).matches(facts.values):
            return False
        return self.percent >= 100 or share_of(facts.node_id, self.salt) < self.percent

    def verdict(self, facts: NodeFacts) -> bool | None:
        """Whether every node of this :attr:`NodeFacts.kind` is meant, or none; ``None`` if that depends on the node."""
        if self.tags and facts.tags.isdisjoint(self.tags):
            return False
        if self.platforms and facts.platforms.isdisjoint(p.lower() for p in self.platforms):
            return False
        said = verdict(parsed(self.where), facts.values, _OF_THE_KIND) if self.where else True
        return None if said and (self.nodes or self.percent < 100) else said

    @property
    def plain_names(self) -> frozenset[str]:
        """Names in lower case, of which a node of the target has one; nothing if that cannot be said."""
        plain = self.nodes and all(name.isascii() and not _WILD.search(name) for name in self.nodes)
        return frozenset(name.lower() for name in self.nodes) if plain else frozenset()

    @property
    def is_everything(self) -> bool:
        """Whether the target leaves nobody out."""
        return not (self.nodes or self.tags or self.platforms or self.where) and self.percent >= 100


def share_of(node_id: str, salt: str) -> float:
    """The place of a node on a scale from 0 up to 100, the same for ever for the same salt."""
    digest = hashlib.sha256(f"{salt}\0{node_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % _SHARES * 100 / _SHARES


def _names_match(patterns: tuple[str, ...], facts: NodeFacts) -> bool:
    return any(name and _compiled(pattern).match(name) for pattern in patterns for name in facts.names)


def names_of(patterns: tuple[str, ...], facts: NodeFacts) -> list[tuple[str, str]]:
    """The names of a node that patterns match, each with its pattern."""
    names = dict.fromkeys(facts.names)
    return [(pattern, name) for pattern in patterns for name in names if name and _compiled(pattern).match(name)]


@functools.lru_cache(maxsize=1024)
def parsed(text: str) -> Expression:
    """The expression over :data:`VOCABULARY` that a text says."""
    return parse(text, VOCABULARY)


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern.lower()), re.IGNORECASE)
