"""
How two configurations differ, in osquery's terms: layers, whom they are for, queries, packs, options.

Two folders are compared layer by layer, by name; what one node gets of each is compared as if it were one layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import attrs
import msgspec

from osqtwist.layers import Layer, merge
from osqtwist.tagging import FILE, Tagging
from osqtwist.targeting import NodeFacts

Way = Literal[
    "added", "removed", "changed"
]  # Objects whose entries are one thing each, however deep: what is compared by name.
_BY_ENTRY = (
    "schedule",
    "options",
    "views",
    "auto_table_construction",
    "file_paths",
    "file_paths_query",
    "exclude_paths",
)


@attrs.frozen
class Nothing:
    """Stands for what is not there; a ``None`` is a null that a layer says."""


NOTHING = Nothing()


class ChangeRow(TypedDict):
    """One thing that differs; what was not there, or is not there any more, is left out."""

    way: Way
    layer: str
    what: str
    name: str
    before: NotRequired[Any]
    after: NotRequired[Any]


@attrs.frozen
class Change:
    """
    One thing that differs.

    :ivar layer: the layer it is in; empty for what one node gets.
    :ivar what: ``layer``, ``tag``, ``tag rules``, ``target``, ``description``, ``query``, ``pack``, ``discovery``,
        ``option``, or ``key``.
    :ivar name: of the thing; a query of a pack is ``PACK/QUERY``.
    :ivar before: what it was; :attr:`after` what it is.
    """

    layer: str
    what: str
    name: str
    before: Any = NOTHING
    after: Any = NOTHING

    @property
    def way(self) -> Way:
        """Whether it came, went or changed."""
        if self.before == NOTHING:
            return "added"
        return "removed" if self.after == NOTHING else "changed"

    def as_row(self) -> ChangeRow:
        """Ready to be JSON; what was not there, or is not there any more, is left out."""
        row: ChangeRow = {"way": self.way, "layer": self.layer, "what": self.what, "name": self.name}
        if self.before != NOTHING:
            row["before"] = self.before
        if self.after != NOTHING:
            row["after"] = self.after
        return row


def compare_layers(before: Sequence[Layer], after: Sequence[Layer]) -> list[Change]:
    """What differs between two folders; nothing does if they are served alike to every node."""
    old, new = ({layer.name: layer for layer in layers} for layers in (before, after))
    changes: list[Change] = []
    for name in sorted({*old, *new}):
        if name not in old or name not in new:
            whole = [_whole(layers[name]) if name in layers else NOTHING for layers in (old, new)]
            changes.append(Change(name, "layer", name, *whole))
            continue
        changes += _of_layer(name, old[name], new[name])
    return changes


def compare_bodies(before: Mapping[str, Any], after: Mapping[str, Any], layer: str = "") -> list[Change]:
    """What differs between two configurations as osquery gets them."""
    return [Change(layer, what, name, old, new) for what, name, old, new in _bodies(before, after)]


@attrs.frozen
class Folder:
    """What a folder says: its layers, and how tags follow from something."""

    layers: Sequence[Layer]
    tagging: Tagging = Tagging()

    def all_layers(self) -> list[Layer]:
        """With those of tag queries."""
        return [*self.layers, *self.tagging.layers()]

    def rules(self) -> dict[str, Any]:
        """The tag rules, by their tags."""
        found: dict[str, Any] = {}
        for rule in self.tagging.rules:
            found.setdefault(rule.tag, []).append(_plain(rule))
        return found


def compare_folders(before: Folder, after: Folder) -> list[Change]:
    """What differs between two folders, layer by layer, and between their tag rules."""
    changes = compare_layers(before.all_layers(), after.all_layers())
    rules = _entries(before.rules(), after.rules())
    return [*changes, *(Change(FILE, "tag rules", tag, one, other) for tag, one, other in rules)]


def compare_outcomes(before: Folder, after: Folder, facts: NodeFacts, defaults: Mapping[str, Any]) -> list[Change]:
    """
    What differs for one node: which tags and layers it has, and what they make together.

    :param facts: with its firm tags and those that tag queries found.
    :param defaults: what the server puts before the first layer.
    """
    changes = []
    seen = [folder.tagging.applied(facts) for folder in (before, after)]
    chosen = [
        [layer for layer in folder.all_layers() if layer.is_for(each)]
        for folder, each in zip((before, after), seen, strict=True)
    ]
    for what, (old, new) in (
        ("tag", [each.tags for each in seen]),
        ("layer", [{layer.name for layer in layers} for layers in chosen]),
    ):
        changes += [Change("", what, name, "it has it") for name in sorted(old - new)]
        changes += [Change("", what, name, after="it has it") for name in sorted(new - old)]
    was, becomes = (merge([defaults, *(layer.body for layer in layers)]) for layers in chosen)
    return changes + compare_bodies(was, becomes)


def _of_layer(name: str, old: Layer, new: Layer) -> Iterator[Change]:
    if old.target != new.target:
        yield Change(name, "target", "", _plain(old.target), _plain(new.target))
    if old.description != new.description:
        yield Change(name, "description", "", old.description, new.description)
    yield from compare_bodies(old.body, new.body, name)


_Difference = tuple[str, str, Any, Any]


def _bodies(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[_Difference]:
    whats = {"schedule": "query", "options": "option"}
    for key in sorted({*before, *after}):
        old, new = before.get(key, NOTHING), after.get(key, NOTHING)
        if same(old, new):
            continue
        if key == "packs" and _are_objects(old, new):
            for name, one, other in _entries(_object(old), _object(new)):
                yield from _packs(name, one, other)
        elif key in _BY_ENTRY and _are_objects(old, new):
            what = whats.get(key, "key")
            for name, one, other in _entries(_object(old), _object(new)):
                yield what, name if key in whats else f"{key}.{name}", one, other
        else:
            yield "key", key, old, new


def _packs(name: str, before: Any, after: Any) -> Iterator[_Difference]:
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        yield "pack", name, before, after
        return
    for key in sorted({*before, *after}):
        old, new = before.get(key, NOTHING), after.get(key, NOTHING)
        if same(old, new):
            continue
        if key == "queries" and _are_objects(old, new):
            for query, one, other in _entries(_object(old), _object(new)):
                yield "query", f"{name}/{query}", one, other
        else:
            what = "discovery" if key == "discovery" else "pack"
            yield what, name if key == "discovery" else f"{name}.{key}", old, new


def _entries(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*before, *after}):
        one, other = before.get(name, NOTHING), after.get(name, NOTHING)
        if not same(one, other):
            yield name, one, other


def same(one: Any, other: Any) -> bool:
    """Whether two values are one in JSON: ``1`` is not ``true``, though Python thinks so, and ``1.0`` is not ``1``."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def _are_objects(*values: Any) -> bool:
    """Whether all that differs is told by the entries: an empty object that came or went has none."""
    return all(value == NOTHING or isinstance(value, Mapping) for value in values) and any(map(_object, values))


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _whole(layer: Layer) -> dict[str, Any]:
    return {"target": _plain(layer.target), "description": layer.description, **layer.body}


def words(change: Change) -> Iterable[str]:
    """A change as lines for people: a heading, and for what changed the parts that did."""
    sign = {"added": "+", "removed": "-", "changed": "~"}[change.way]
    yield f"{sign} {change.what}{' ' if change.name else ''}{change.name}"
    old, new = change.before, change.after
    if change.way != "changed":
        if change.what not in ("layer", "tag"):
            yield f"    {sign} {_text(new if old == NOTHING else old)}"
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for key, one, other in _entries(old, new):
            yield f"    {key}:"
            yield from _pair(one, other)
    else:
        yield from _pair(old, new)


def _pair(old: Any, new: Any) -> Iterator[str]:
    # Where only blanks differ, they have to be seen.
    say = _text if NOTHING in (old, new) or _text(old) != _text(new) else _exactly
    if old != NOTHING:
        yield f"      - {say(old)}"
    if new != NOTHING:
        yield f"      + {say(new)}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return " ".join(value.split()) or '""'
    return _exactly(value)


def _exactly(value: Any) -> str:
    return msgspec.json.encode(value).decode()
