"""
Documents: JSON with osquery's comments, and YAML, read within bounds whoever wrote them.

YAML here is the part of it that JSON can say.  ``on``, ``yes`` and dates are text, as anybody who writes SQL and
versions expects; keys are text; aliases count as often as they stand, so that a small text never becomes a large value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import yaml

MAX_VALUES = 200_000
"""Values that one document may hold, each alias counted in full."""
MAX_DEPTH = 64
_LONGEST_NUMBER = 64

Path = tuple[str | int, ...]


class BadDocument(ValueError):
    """
    A text is not what it should be; one sentence why.

    :ivar line: where, from 1; 0 if that is not known.
    """

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


@attrs.frozen
class Document:
    """
    A value, and where it came from.

    :ivar lines: the line of each value by its path from the top; empty for JSON.
    """

    value: Any
    lines: Mapping[Path, int] = {}


def read_json(text: str) -> Document:
    """
    What JSON with osquery's comments says.

    :raise BadDocument: it is none, has a key twice, or a number or text that JSON cannot say.
    """
    try:
        value = json.loads(
            without_comments(text),
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        _Bounds().check(value)
    except json.JSONDecodeError as problem:
        raise BadDocument(problem.msg, problem.lineno) from None
    except RecursionError:
        raise BadDocument("nested too deeply") from None
    except BadDocument:
        raise
    except ValueError as problem:
        raise BadDocument(str(problem)) from None
    return Document(value)


def read_yaml(text: str) -> list[Document]:
    """
    What each document of a YAML stream says.

    :raise BadDocument: one of them is none, or says what JSON cannot.
    """
    try:
        return [_Builder().document(node) for node in yaml.compose_all(text, _PlainLoader)]
    except yaml.MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        raise BadDocument(problem.problem or "not YAML", line) from None
    except RecursionError:
        raise BadDocument("nested too deeply") from None
    except yaml.YAMLError as problem:
        raise BadDocument(str(problem).splitlines()[0]) from None


def without_comments(text: str) -> str:
    """
    The text without osquery's comments; lines keep their numbers.

    osquery first joins lines that end with a backslash to the next, then drops those that begin with ``#`` or ``//``
    (config.cpp).  A string cannot span lines in JSON, so no such line is ever part of one.
    """
    lines = []
    joined, parts = "", 0
    for line in text.split("\n"):
        joined += line.removesuffix("\\")
        parts += 1
        if not line.endswith("\\"):
            lines.append("" if joined.strip().startswith(("#", "//")) else joined)
            lines += [""] * (parts - 1)
            joined, parts = "", 0
    if parts:
        # Nothing follows the last backslash, so it joins nothing.
        lines.append(joined + "\\")
    return "\n".join(lines)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:_LONGEST_NUMBER]} is too large a number")
    return number


@attrs.define
class _Bounds:
    """Counts values as they come."""

    left: int = MAX_VALUES

    def take(self, depth: int, line: int = 0) -> None:
        self.left -= 1
        if self.left < 0:
            raise BadDocument(f"it holds more than {MAX_VALUES} values", line)
        if depth > MAX_DEPTH:
            raise BadDocument("nested too deeply", line)

    def check(self, value: Any, depth: int = 0) -> None:
        self.take(depth)
        if isinstance(value, dict):
            for key, each in value.items():
                _check_text(key, 0)
                self.check(each, depth + 1)
        elif isinstance(value, list):
            for each in value:
                self.check(each, depth + 1)
        elif isinstance(value, str):
            _check_text(value, 0)
        elif isinstance(value, int):
            _check_number(value, 0)


def _check_text(text: str, line: int) -> None:
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadDocument("half of a surrogate pair is no text", line)


def _check_number(number: int, line: int) -> None:
    if not -(2**63) <= number < 2**64:
        raise BadDocument("a whole number has at most 64 bits", line)


class _PlainLoader(yaml.SafeLoader):
    """YAML of which only the nodes are made here, never an object."""


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
_CORE = "tag:yaml.org,2002:"


class _Builder:
    """Makes a value of nodes, and notes the lines."""

    def __init__(self) -> None:
        self._bounds = _Bounds()
        self._lines: dict[Path, int] = {}
        self._scalars: Any = yaml.constructor.SafeConstructor()

    def document(self, node: yaml.Node) -> Document:
        return Document(self._value(node, (), 0), self._lines)

    def _value(self, node: yaml.Node, path: Path, depth: int) -> Any:
        line = node.start_mark.line + 1
        self._bounds.take(depth, line)
        self._lines[path] = line
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_CORE}map":
            return self._object(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_CORE}seq":
            return [self._value(each, (*path, number), depth + 1) for number, each in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line)
        raise BadDocument(f"{node.tag.removeprefix(_CORE)[:64]} cannot stand in a configuration", line)

    def _object(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == f"{_CORE}merge":
                for each in self._merged(value, path, depth):
                    for name, inherited in each.items():
                        merged.setdefault(name, inherited)
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise BadDocument("a key must be text", line)
            _check_text(key.value, line)
            if key.value in own:
                raise BadDocument(f"the key {key.value[:64]!r} stands twice in one object", line)
            own[key.value] = self._value(value, (*path, key.value), depth + 1)
            self._lines[*path, key.value] = line
        return merged | own

    def _merged(self, node: yaml.Node, path: Path, depth: int) -> Iterator[dict[str, Any]]:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in parts:
            found = self._value(part, path, depth + 1)
            if not isinstance(found, dict):
                raise BadDocument("<< must be followed by objects", node.start_mark.line + 1)
            yield found

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix(_CORE)
        if kind == "str":
            _check_text(text, line)
            return text
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in ("int", "float") and len(text) > _LONGEST_NUMBER:
            raise BadDocument("a number is too long", line)
        try:
            if kind == "int":
                number = int(self._scalars.construct_yaml_int(node))
                _check_number(number, line)
                return number
            if kind == "float":
                return _finite(repr(self._scalars.construct_yaml_float(node)))
        except (ValueError, IndexError) as problem:
            raise BadDocument(str(problem), line) from None
        if kind == "value":
            return text
        raise BadDocument(f"{kind[:64]} cannot stand in a configuration", line)
