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

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs
import msgspec
import yaml

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
    """

    name: str
    target: Target
    body: Mapping[str, Any]
    description: str = ""
    sees_firm_tags_only: bool = False

    def is_for(self, facts: NodeFacts) -> bool:
        """Whether a node with these facts gets it."""
        return self.target.matches(facts.with_firm_tags() if self.sees_firm_tags_only else facts)


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
            value = _strings(yaml.load(text, Loader=_PlainLoader))  # noqa: S506 - a SafeLoader
        else:
            value = json.loads(
                without_comments(text), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
            )
    except json.JSONDecodeError as problem:
        raise BadConfiguration([Problem(file, f"line {problem.lineno}", problem.msg)]) from None
    except yaml.MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        raise BadConfiguration([Problem(file, f"line {line}", problem.problem or "not YAML")]) from None
    except (ValueError, yaml.YAMLError) as problem:
        raise BadConfiguration([Problem(file, "", str(problem))]) from None
    except RecursionError:
        raise BadConfiguration([Problem(file, "", "nested too deeply")]) from None
    if not isinstance(value, dict):
        raise BadConfiguration([Problem(file, "", "it must be an object")])
    return value


def without_comments(text: str) -> str:
    """
    The text without osquery's comments, line for line.

    osquery drops lines that begin with ``#`` or ``//`` and joins lines that end with a backslash (config.cpp).  A
    string cannot span lines in JSON, so no such line is ever part of one.
    """
    lines = []
    for line in text.split("\n"):
        stripped = line.strip()
        lines.append("" if stripped.startswith(("#", "//")) else line)
    return "\n".join(lines).replace("\\\n", "")


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


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class _PlainLoader(yaml.SafeLoader):
    """YAML in which ``on`` and ``yes`` and dates are text, as anybody who writes SQL and versions expects."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _strings(value: Any) -> Any:
    """YAML with the keys made text, and everything JSON cannot say refused."""
    if isinstance(value, dict):
        return {str(key): _strings(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_strings(each) for each in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{type(value).__name__} cannot stand in a configuration")
