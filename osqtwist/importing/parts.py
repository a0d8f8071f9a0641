"""Parts of a source, of which every key has to be accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from osqtwist.documents import Document, Path
from osqtwist.importing.sources import SourceFile
from osqtwist.layers import Problem

_LONGEST_NAME = 120


@attrs.frozen
class Place:
    """Where something stands: for notes."""

    file: SourceFile
    document: Document
    path: Path = ()

    @property
    def line(self) -> int:
        """From 1; 0 where it is not known, as in JSON."""
        path = self.path
        while path and path not in self.document.lines:
            path = path[:-1]
        return self.document.lines.get(path, 0)

    def inside(self, *keys: str | int) -> Place:
        """A place below this one."""
        return attrs.evolve(self, path=(*self.path, *keys))


@attrs.define
class Notes:
    """What did not come over, as warnings in the order in which it was met."""

    problems: list[Problem] = attrs.field(factory=list)

    def add(self, place: Place, name: str, text: str) -> None:
        """Note something about the thing of this name."""
        where = ": ".join(part for part in (f"line {place.line}" if place.line else "", _short(name)) if part)
        self.problems.append(Problem(place.file.name, where, text, "warning"))


class Part:
    """
    An object of a source.

    What is taken of it is accounted for; :meth:`finish` notes what was not, so no key goes lost in silence.

    :ivar name: what people call it, for notes: ``query users``.
    """

    def __init__(self, value: Mapping[str, Any], place: Place, notes: Notes, name: str = "") -> None:
        self.value = value
        self.place = place
        self.notes = notes
        self.name = name
        self._left = dict.fromkeys(value)

    def take(self, key: str) -> Any:
        """The value of a key, whatever it is; ``None`` if there is none."""
        self._left.pop(key, None)
        return self.value.get(key)

    def text(self, key: str, default: str = "") -> str:
        """Text; anything else but text is noted."""
        value = self.take(key)
        if isinstance(value, str):
            return value
        if value is not None:
            self.note(f"it is {_said(value)}; it must be text (in quotes), and is left out", key)
        return default

    def number(self, key: str) -> int | None:
        """A whole number, or one as text; anything else is noted."""
        value = self.take(key)
        if isinstance(value, str) and value.strip().isascii() and value.strip().isdecimal() and len(value) < 20:
            return int(value)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        self.note(f"it is {_said(value)}; it must be a whole number, and is left out", key)
        return None

    def flag(self, key: str) -> bool | None:
        """Truth, also as text or as 0 and 1; anything else is noted."""
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return value
        words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
        if (word := str(value).strip().lower()) in words:
            return words[word]
        self.note(f"it is {_said(value)}; it must be true or false, and is left out", key)
        return None

    def texts(self, key: str) -> list[str]:
        """Texts, of a list or one alone; whatever else is in the list is noted."""
        value = self.take(key)
        if isinstance(value, str):
            return [value] if value else []
        found = []
        for each in value if isinstance(value, list) else [] if value is None else [value]:
            if isinstance(each, str):
                found.append(each)
            else:
                self.note(f"{_said(each)} is not text, and is left out", key)
        return found

    def part(self, key: str, name: str = "") -> Part | None:
        """An object below this one; anything else is noted."""
        value = self.take(key)
        if isinstance(value, Mapping):
            return Part(value, self.place.inside(key), self.notes, name or self._of(key))
        if value:
            self.note(f"it is {_said(value)}; it must be an object, and is left out", key)
        return None

    def parts(self, key: str, what: str) -> list[Part]:
        """The objects of a list, named ``WHAT NAME`` by their ``name``; anything else is noted."""
        value = self.take(key)
        if value is None or value == "":
            return []
        if not isinstance(value, list):
            self.note(f"it is {_said(value)}; it must be a list, and is left out", key)
            return []
        return list(listed(value, self.place.inside(key), self.notes, what))

    def members(self, key: str, what: str) -> Iterator[tuple[str, Part]]:
        """The objects of an object, by their keys; anything else is noted."""
        holder = self.part(key)
        for name in holder.value if holder else ():
            if holder and (found := holder.part(name, f"{what} {name}")):
                yield name, found

    def ignore(self, *keys: str) -> None:
        """These keys are known, and say nothing about what nodes do."""
        for key in keys:
            self._left.pop(key, None)

    def lose(self, key: str, why: str, when: Callable[[Any], bool] = bool) -> None:
        """Note that a key has no counterpart, unless what it says is empty."""
        if when(self.take(key)):
            self.note(why, key)

    def note(self, text: str, key: str = "") -> None:
        """Note something about this part, or a key of it."""
        place = self.place.inside(key) if key else self.place
        self.notes.add(place, self._of(key) if key else self.name, text)

    def at(self, key: str, name: str = "") -> Part:
        """What stands under a key, for notes only: of nothing in it account has to be given."""
        return Part({}, self.place.inside(key), self.notes, name or self._of(key))

    def finish(self, why: str = "there is no counterpart; it is left out") -> None:
        """Note every key that was not taken, unless it is empty."""
        for key in list(self._left):
            self.lose(key, why)

    def _of(self, key: str) -> str:
        return f"{self.name}: {key}" if self.name else key


def listed(values: list[Any], place: Place, notes: Notes, what: str) -> Iterator[Part]:
    """The objects of a list; anything else is noted."""
    for number, each in enumerate(values):
        if isinstance(each, Mapping):
            name = each.get("name")
            yield Part(each, place.inside(number), notes, f"{what} {name}" if isinstance(name, str) else what)
        elif each is not None:
            notes.add(place.inside(number), what, f"it is {_said(each)}; it must be an object, and is left out")


def _said(value: Any) -> str:
    # Never the value: it may be a secret that stands in the wrong place.
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "something else")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "..."
