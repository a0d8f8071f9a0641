"""
Configuration layers: osquery configuration files, and how they become one.

A layer is an osquery configuration with, perhaps, an ``osqtwist`` object beside osquery's keys that says whom it
is for.  Layers are merged in the order of their names:

- objects are merged key by key, a later layer's scalar replaces an earlier one's;
- an entry of ``schedule`` or ``packs`` replaces the earlier one of that name as a whole;
- lists are joined without repeats;
- ``null`` removes what earlier layers said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs
import msgspec

from osqtwist.documents import BadDocument, read_json, read_yaml
from osqtwist.targeting import BadTarget, NodeFacts, Target

OWN_KEY = "osqtwist"
"""The key of a layer that is for us and is never served."""

_WHOLE = {("schedule",), ("packs",)}

Severity = Literal["error", "warning"]


@attrs.frozen
class Problem:
    """
    Something wrong with a configuration.

    :ivar file: the file it is in; empty if it is in what several make together.
    :ivar where: the key, from the top, or ``line N``.
    """

    file: str
    where: str
    text: str
    severity: Severity = "error"

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.where, self.text) if part)


class BadConfiguration(Exception):
    """A configuration cannot be served."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        errors = [problem for problem in self.problems if problem.severity == "error"] or list(self.problems)
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"{errors[0]}{more}" if errors else "there is no configuration")


class LayerHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``osqtwist`` object of a layer."""

    target: Target = Target()
    description: str = ""


@attrs.frozen
class Layer:
    """
    One layer: its name, whom it is for, and what it says to osquery.

    :ivar sees_firm_tags_only: its target looks at no tags that follow from others (see :mod:`osqtwist.tagging`).
    :ivar pack_files: the files of those of its packs that have one of their own, by the name of the pack.
    """

    name: str
    target: Target
    body: Mapping[str, Any]
    description: str = ""
    sees_firm_tags_only: bool = False
    pack_files: Mapping[str, str] = {}

    def is_for(self, facts: NodeFacts) -> bool:
        """Whether a node with these facts gets it."""
        return self.target.matches(self.seen(facts))

    def seen(self, facts: NodeFacts) -> NodeFacts:
        """What of a node its target looks at."""
        return facts.with_firm_tags() if self.sees_firm_tags_only else facts


def parse_layer(file: str, text: str) -> Layer:
    """
    A layer from the text of its file; the name's ending says whether it is YAML.

    :raise BadConfiguration: it is not a layer.
    """
    body = parse_text(file, text)
    head = body.pop(OWN_KEY, {})
    try:
        found = msgspec.convert(head, LayerHead)
    except (msgspec.ValidationError, BadTarget) as problem:
        raise BadConfiguration([Problem(file, OWN_KEY, str(problem))]) from None
    target = found.target
    if not target.salt:
        # Shares of different layers fall on different nodes, unless the operator gives them the same salt.
        target = msgspec.structs.replace(target, salt=file)
    return Layer(file, target, body, found.description)


def parse_text(file: str, text: str) -> dict[str, Any]:
    """
    The object that a configuration file holds.

    :raise BadConfiguration: it holds none; the problem names the line.
    """
    try:
        if file.endswith((".yaml", ".yml")):
            documents = read_yaml(text)
            if len(documents) > 1:
                raise BadDocument("it must be one document")
            value = documents[0].value if documents else None
        else:
            value = read_json(text).value
    except BadDocument as problem:
        where = f"line {problem.line}" if problem.line else ""
        raise BadConfiguration([Problem(file, where, str(problem))]) from None
    if not isinstance(value, dict):
        raise BadConfiguration([Problem(file, "", "it must be an object")])
    return value


def merge(bodies: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What several layers make together, the later ones winning."""
    merged: dict[str, Any] = {}
    for body in bodies:
        merged = _merge_objects(merged, body, ())
    return merged


def render(body: Mapping[str, Any]) -> bytes:
    """
    Strict JSON with sorted keys: the same configuration is always the same bytes.

    The client hashes what it gets; any change of order would make it build its schedule anew (config.cpp).
    """
    return msgspec.json.encode(body, order="sorted")


def _merge_objects(earlier: Mapping[str, Any], later: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    merged = dict(earlier)
    for key, value in later.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            before = merged.get(key)
            base = before if isinstance(before, Mapping) and path not in _WHOLE else {}
            merged[key] = _merge_objects(base, value, (*path, key))
        elif isinstance(value, list) and isinstance(merged.get(key), list):
            merged[key] = _joined(merged[key], value)
        else:
            merged[key] = value
    return merged


def _joined(earlier: Sequence[Any], later: Sequence[Any]) -> list[Any]:
    return [*earlier, *(each for each in later if each not in earlier)]
