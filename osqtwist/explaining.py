"""
Why a target is, or is not, for a node; and which layer each part of a configuration came from.

What is said here always agrees with :meth:`osqtwist.targeting.Target.matches`, and what it names suffices: with these
parts as they are, the outcome would be the same whatever the others were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import attrs

from osqtwist.expression import And, Expression, Lookup, Not, Or
from osqtwist.layers import Layer
from osqtwist.node import Node
from osqtwist.tagging import Tagging
from osqtwist.targeting import NodeFacts, Target, names_of, parsed, share_of

Origin = Callable[[str, str], str]
"""Where a node has a value of a key of the vocabulary from, in words such as ``its certificate``; empty if unsaid."""

_MOST_VALUES = 10
_LONGEST_VALUE = 128
_SOURCES = {
    "operator": "operators",
    "secret": "its enroll secret",
    "certificate": "its certificate",
    "query": "a tag query",
    "rule": "a tag rule",
}
_FACTS = {"cn": "certificate name", "host": "host identifier", "version": "osquery version"}


@attrs.frozen
class Finding:
    """
    One part of a target that decided.

    :ivar part: as it stands in the target: ``tags``, ``where: tag:prod``; empty for a target that has no part.
    :ivar because: what of the node made it match or not, in words.
    """

    part: str
    matches: bool
    because: str

    def __str__(self) -> str:
        return f"{self.part}: {self.because}" if self.part else self.because


@attrs.frozen
class Explanation:
    """Whether something is for a node, and the parts that decided: all of them if it is, those that fail if not."""

    matches: bool
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.findings))


@attrs.frozen
class Term:
    """A term of an expression, and whether it matches."""

    expression: Expression
    matches: bool


def explain(target: Target, facts: NodeFacts, origin: Origin = lambda key, value: "") -> Explanation:
    """Why a target does or does not match a node."""
    found = [
        finding for part in (_tags, _platforms, _nodes, _where, _percent) for finding in part(target, facts, origin)
    ]
    if failing := tuple(finding for finding in found if not finding.matches):
        return Explanation(False, failing)
    return Explanation(True, tuple(found) or (Finding("", True, "it is for every node"),))


def deciding(expression: Expression, lookup: Lookup) -> tuple[bool, tuple[Term, ...]]:
    """Whether an expression matches, and the terms that suffice for that: of ``or`` the first part that matches."""
    if isinstance(expression, Not):
        matches, terms = deciding(expression.part, lookup)
        return not matches, terms
    if isinstance(expression, And | Or):
        # One part decides an `or` that matches and an `and` that does not; otherwise it takes them all.
        decider = isinstance(expression, Or)
        needed: dict[Term, None] = {}
        for part in expression.parts:
            matches, terms = deciding(part, lookup)
            if matches is decider:
                return decider, terms
            needed.update(dict.fromkeys(terms))
        return not decider, tuple(needed)
    matches = expression.matches(lookup)
    return matches, (Term(expression, matches),) if expression.keys else ()


def origin_of(node: Node, tagging: Tagging) -> Origin:
    """Says where a node has a value from: of its tags all that gave it."""
    of_tags = tagging.sources(node)

    def origin(key: str, value: str) -> str:
        if key == "tag":
            return " and ".join(_SOURCES[source] for source in of_tags.get(value, ()))
        if key in ("cn", "issuer") or (key == "name" and node.proof == "certificate"):
            return _SOURCES["certificate"]
        return "its own word" if key in ("name", "host", "platform", "version") else ""

    return origin


class LayerReason(TypedDict):
    """Whether a layer is part of a node's configuration, and what of its target decided that."""

    layer: str
    description: str
    applies: bool
    because: list[str]


class QueryOrigin(TypedDict):
    """Where a query of a configuration came from; `replaces` are layers that said it too, and were overruled."""

    query: str
    pack: str
    layer: str
    file: str
    replaces: list[str]


class OptionOrigin(TypedDict):
    """Where an option came from; `layer` is empty for the server's own."""

    option: str
    layer: str
    replaces: list[str]


class Origins(TypedDict):
    """Where each query and option came from."""

    queries: list[QueryOrigin]
    options: list[OptionOrigin]


class VersionReason(TypedDict):
    """Which version of the configuration a node has, and why that one."""

    version: int
    digest: str
    canary: bool
    because: str


class ConfigReasons(Origins):
    """Why a node's configuration is what it is; `version` where versions are rolled out."""

    layers: list[LayerReason]
    version: NotRequired[VersionReason]


@attrs.frozen
class LayerStory:
    """A layer, and why it is or is not part of a node's configuration."""

    layer: Layer
    why: Explanation

    def as_row(self) -> LayerReason:
        """Ready to be JSON."""
        return {
            "layer": self.layer.name,
            "description": self.layer.description,
            "applies": self.why.matches,
            "because": [str(finding) for finding in self.why.findings],
        }


def explain_layers(layers: Iterable[Layer], facts: NodeFacts, origin: Origin) -> list[LayerStory]:
    """Of each layer, in the order in which they are merged."""
    return [LayerStory(layer, explain(layer.target, layer.seen(facts), origin)) for layer in layers]


def sources(layers: Sequence[Layer], defaults: Mapping[str, Any]) -> Origins:
    """
    Where each query and option of what layers make together came from, ready to be JSON.

    :param layers: those that apply, in the order in which they are merged.
    :param defaults: options that the server adds.
    """
    options = _entries(layers, "options")
    own: list[OptionOrigin] = [
        {"option": name, "layer": "", "replaces": []} for name in defaults if not _is_said(layers, name)
    ]
    scheduled: list[QueryOrigin] = [
        {"query": name, "pack": "", "layer": found[-1].name, "file": found[-1].name, "replaces": _names(found[:-1])}
        for name, found in _entries(layers, "schedule").items()
    ]
    packed: list[QueryOrigin] = [
        {
            "query": query,
            "pack": pack,
            "layer": found[-1].name,
            "file": found[-1].pack_files.get(pack, found[-1].name),
            "replaces": _names(found[:-1]),
        }
        for pack, found in _entries(layers, "packs").items()
        for query in _queries_of(found[-1].body["packs"][pack])
    ]
    said: list[OptionOrigin] = [
        {"option": name, "layer": each[-1].name, "replaces": _names(each[:-1])} for name, each in options.items()
    ]
    return {"queries": scheduled + packed, "options": sorted([*own, *said], key=lambda row: row["option"])}


def _tags(target: Target, facts: NodeFacts, origin: Origin) -> Iterable[Finding]:
    if target.tags:
        has = [tag for tag in target.tags if tag in facts.tags]
        yield Finding("tags", bool(has), _having("tag", has, sorted(facts.tags), origin))


def _platforms(target: Target, facts: NodeFacts, origin: Origin) -> Iterable[Finding]:
    if target.platforms:
        has = [word for each in target.platforms if (word := each.lower()) in facts.platforms]
        yield Finding("platforms", bool(has), _having("platform", has, sorted(facts.platforms), origin))


def _nodes(target: Target, facts: NodeFacts, origin: Origin) -> Iterable[Finding]:
    if target.nodes:
        pairs = names_of(target.nodes, facts)
        if pairs:
            yield Finding("nodes", True, _listed([f"{_shown(name)} is {pattern}" for pattern, name in pairs]))
        else:
            names = [name for name in (facts.node_id, facts.name, facts.host_identifier) if name]
            yield Finding("nodes", False, f"its names are {_listed([_shown(name) for name in dict.fromkeys(names)])}")


def _where(target: Target, facts: NodeFacts, origin: Origin) -> Iterable[Finding]:
    if target.where:
        matches, terms = deciding(parsed(target.where), facts.values)
        said = [_term(term, facts, origin) for term in terms]
        yield Finding(f"where: {target.where}", matches, "; ".join(dict.fromkeys(said)) or "it is for every node")


def _percent(target: Target, facts: NodeFacts, origin: Origin) -> Iterable[Finding]:
    if target.percent < 100:
        place = share_of(facts.node_id, target.salt)
        is_in = place < target.percent
        verdict = "is below" if is_in else "is not below"
        text = f"its place {place:g} of 100 {verdict} {target.percent:g} (salt {_shown(target.salt)})"
        yield Finding("percent", is_in, text)


def _term(term: Term, facts: NodeFacts, origin: Origin) -> str:
    (key,) = term.expression.keys
    values = sorted(facts.values(key))
    has = [value for value in values if term.expression.matches(lambda asked, value=value: (value,))]  # type: ignore[misc]
    return _having(key, has, values, origin)


def _having(key: str, has: Sequence[str], values: Sequence[str], origin: Origin) -> str:
    what = _FACTS.get(key, key)
    if has:
        return f"{what} " + _listed([_with_origin(key, value, origin) for value in has])
    if not values:
        return f"it has no {what}"
    return f"its {what} is {_listed([_shown(value) for value in values])}"


def _with_origin(key: str, value: str, origin: Origin) -> str:
    came = origin(key, value)
    return f"{_shown(value)} (from {came})" if came else _shown(value)


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _MOST_VALUES
    return ", ".join(texts[:_MOST_VALUES]) + (f" and {more} more" if more > 0 else "")


def _shown(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def _entries(layers: Sequence[Layer], key: str) -> dict[str, list[Layer]]:
    """Each entry of an object that is left in the end, with the layers that say it, the one that counts last."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        value = layer.body.get(key)
        if key in layer.body and not isinstance(value, Mapping):
            found.clear()
            continue
        for name, entry in (value or {}).items():
            if entry is None:
                found.pop(name, None)
            else:
                found.setdefault(name, []).append(layer)
    return found


def _is_said(layers: Sequence[Layer], option: str) -> bool:
    """Whether layers speak of an option, be it to remove it."""
    for layer in layers:
        options = layer.body.get("options", {})
        if not isinstance(options, Mapping) or option in options:
            return True
    return False


def _queries_of(pack: Any) -> Iterable[str]:
    queries = pack.get("queries") if isinstance(pack, Mapping) else None
    return (name for name, query in queries.items() if query is not None) if isinstance(queries, Mapping) else ()


def _names(layers: Iterable[Layer]) -> list[str]:
    return [layer.name for layer in layers]
