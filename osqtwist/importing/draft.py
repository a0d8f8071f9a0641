"""The draft of a folder: layers and packs that an import makes, each entry checked before it is let in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import msgspec
import yaml

from osqtwist.confcheck import COMMAND_LINE_ONLY, check, check_size
from osqtwist.importing.parts import Notes, Part, Place
from osqtwist.layers import OWN_KEY, Layer, merge
from osqtwist.querycheck import check_queries
from osqtwist.tagging import FILE as TAG_FILE
from osqtwist.tagging import MOST_QUERIES, QUERY_PREFIX, TagQuery
from osqtwist.targeting import BadTarget, Target

_LONGEST_SLUG = 60
_WIDTH = 110
_HERE = "the flagfile says how nodes reach this server (osqtwist flags); it is left out"


@attrs.define
class DraftLayer:
    """A layer to be: :ivar places: where each entry came from, by its place in the body."""

    slug: str
    description: str
    target: dict[str, Any]
    body: dict[str, Any] = attrs.field(factory=dict)
    packs: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    pack_descriptions: dict[str, str] = attrs.field(factory=dict)
    places: dict[tuple[str, ...], Place] = attrs.field(factory=dict)


@attrs.define
class Draft:
    """Collects layers in the order in which they will be merged."""

    origin: str
    notes: Notes = attrs.field(factory=Notes)
    layers: list[DraftLayer] = attrs.field(factory=list)
    tag_queries: list[TagQuery] = attrs.field(factory=list)
    _tags: dict[tuple[str, str], str] = attrs.field(factory=dict)

    def layer(self, slug: str, description: str, target: Mapping[str, Any] | None = None) -> DraftLayer:
        """A new layer, after those there are."""
        layer = DraftLayer(slug_of(slug), description, {key: value for key, value in (target or {}).items() if value})
        self.layers.append(layer)
        return layer

    def tag(self, kind: str, name: str) -> str:
        """The tag that stands for something of another server, such as ``team:workstations``; one for each name."""
        if (kind, name) not in self._tags:
            taken = set(self._tags.values())
            self._tags[kind, name] = _unique(f"{kind}:{slug_of(name) or 'unnamed'}", taken)
        return self._tags[kind, name]

    def can_mean(self, target: Mapping[str, Any], place: Place, name: str) -> bool:
        """Whether a target can be said; if not, that is noted."""
        try:
            msgspec.convert(target, Target)
        except (BadTarget, msgspec.ValidationError) as problem:
            self.notes.add(place, name, f"whom it is for cannot be said here: {problem}; it is left out")
            return False
        return True

    def query(self, layer: DraftLayer, name: str, query: Mapping[str, Any], part: Part) -> None:
        """Put a query into the schedule of a layer."""
        if name.startswith(QUERY_PREFIX):
            part.note("tag queries have such names; it is left out")
        elif name in layer.body.get("schedule", {}):
            part.note("a query of this name is there already; this one is left out")
        elif self._fits({"schedule": {name: query}}, part):
            layer.body.setdefault("schedule", {})[name] = dict(query)
            layer.places["schedule", name] = part.place

    def pack(self, layer: DraftLayer, name: str, description: str, about: Mapping[str, Any], part: Part) -> str | None:
        """Begin a pack of a layer; answers with its name there, or nothing if it cannot be."""
        if not self._fits({"packs": {name: {**about, "queries": {}}}}, part):
            return None
        if name in layer.packs:
            part.note("a pack of this name is there already; this one is left out")
            return None
        layer.packs[name] = {**about, "queries": {}}
        layer.pack_descriptions[name] = description
        layer.places["packs", name] = part.place
        return name

    def pack_query(self, layer: DraftLayer, pack: str, name: str, query: Mapping[str, Any], part: Part) -> None:
        """Put a query into a pack."""
        queries = layer.packs[pack]["queries"]
        if name in queries:
            part.note("a query of this name is there already; this one is left out")
        elif self._fits({"packs": {"p": {"queries": {name: query}}}}, part):
            queries[name] = dict(query)
            layer.places["packs", pack, "queries", name] = part.place

    def entry(self, layer: DraftLayer, path: tuple[str, ...], value: Any, part: Part) -> None:
        """Put an entry into an object of a layer, by its path from the top: a path, a view, a decorator."""
        fragment = value
        for key in reversed(path):
            fragment = {key: fragment}
        if value is None or not self._fits(fragment, part):
            return
        holder = layer.body
        for key in path[:-1]:
            holder = holder.setdefault(key, {})
        holder[path[-1]] = value
        layer.places[path] = part.place

    def whole(self, layer: DraftLayer, key: str, value: Any, part: Part) -> None:
        """Put a whole key into a layer as it is."""
        if self._fits({key: value}, part):
            layer.body[key] = value

    def options(self, layer: DraftLayer, part: Part) -> None:
        """Put osquery's options into a layer, but for those that are for a flagfile, or for another server."""
        for name in part.value:
            value = part.take(name)
            if value is None:
                continue
            option = Part({}, part.place.inside(name), part.notes, f"option {name}")
            if name in COMMAND_LINE_ONLY:
                option.note("osquery takes it from its command line only; put it into the flagfile")
            elif name.endswith(("_endpoint", "_plugin")):
                option.note(_HERE)
            elif name == "distributed_interval":
                option.note("reads are held here, so 1 is served and live queries start at once; it is left out")
            else:
                self.entry(layer, ("options", name), value, option)

    def tag_query(self, tag: str, sql: str, where: str, interval: int, part: Part) -> bool:
        """Have nodes on which a query has rows get a tag; answers whether that can be said."""
        if any(query.tag == tag for query in self.tag_queries):
            return True
        query = TagQuery(tag, sql, interval, where, f"Imported from {self.origin}.")
        layer = query.layer()
        problems = [each for each in (*check(layer.body, ""), *check_queries([layer])) if each.severity == "error"]
        if len(self.tag_queries) >= MOST_QUERIES:
            part.note(f"there can be {MOST_QUERIES} tag queries; give {tag} to its nodes")
        elif problems:
            part.note(f"{problems[0].text}; give {tag} to its nodes instead")
        else:
            self.tag_queries.append(query)
            return True
        return False

    def settle(self) -> None:
        """Take out again what osquery would refuse of the SQL, and what is empty then."""
        for _ in range(len(self.layers) + 3):
            problems = [each for each in check_queries(self._as_layers()) if each.severity == "error"]
            if not problems:
                break
            for problem in problems:
                self._take_out(self.layers[int(problem.file)], problem.where, problem.text)
            for layer in self.layers:
                layer.body = _without_gone(layer.body)
        for layer in self.layers:
            layer.packs = {name: pack for name, pack in layer.packs.items() if pack["queries"]}
            layer.body = _without_empties(layer.body)
        self.layers = [layer for layer in self.layers if layer.body or layer.packs]

    def too_large(self) -> str:
        """What is wrong with the size of it all, if anything."""
        together = merge(layer.body for layer in self._as_layers())
        return next((str(each) for each in check_size(together, "all layers together")), "")

    def files(self) -> dict[str, str]:
        """The text of each file, by its path in the folder."""
        found: dict[str, str] = {}
        taken: set[str] = set()
        digits = max(2, len(str(9 + len(self.layers))))
        start = 10 ** (digits - 1)
        for number, layer in enumerate(self.layers, start):
            packs = {}
            for name, pack in layer.packs.items():
                # A pack alone in its layer is called as that is, which says for whom it is too.
                path = f"packs/{_unique(layer.slug if len(layer.packs) == 1 else slug_of(name), taken)}.yaml"
                found[path] = _comment(layer.pack_descriptions.get(name, "")) + as_yaml(pack)
                packs[name] = path
            head: dict[str, Any] = {"description": layer.description}
            if layer.target:
                head["target"] = layer.target
            body = {OWN_KEY: head, **layer.body} | ({"packs": packs} if packs else {})
            found[f"{number}-{layer.slug or 'layer'}.yaml"] = _comment(f"Imported from {self.origin}.") + as_yaml(body)
        if self.tag_queries and self.layers:
            found[TAG_FILE] = "\n".join(map(_toml, self.tag_queries))
        return found

    def _fits(self, fragment: Mapping[str, Any], part: Part) -> bool:
        problems = [each.text for each in check(fragment, "") if each.severity == "error"]
        problems += [each.text for each in check_size(fragment, "")]
        if problems:
            part.note(f"{problems[0]}; it is left out")
        return not problems

    def _as_layers(self) -> list[Layer]:
        return [
            Layer(str(number), msgspec.convert(layer.target, Target), {**layer.body, "packs": layer.packs})
            for number, layer in enumerate(self.layers)
        ]

    def _take_out(self, layer: DraftLayer, where: str, text: str) -> None:
        for path, place in list(layer.places.items()):
            spoken = ".".join(path)
            number = where.removeprefix(f"{spoken}.")
            # A pack that has lost a discovery query would reach more nodes than it should: it goes as a whole.
            if where not in (spoken, f"{spoken}.query") and not number.removeprefix("discovery.").isdecimal():
                continue
            holder: Any = {**layer.body, "packs": layer.packs}
            for key in path[:-1]:
                holder = holder.get(key, {})
            found = holder.get(path[-1])
            if isinstance(found, list) and number.isdecimal() and int(number) < len(found):
                # The others keep their numbers until all problems are gone through.
                found[int(number)] = _GONE
            else:
                holder.pop(path[-1], None)
                del layer.places[path]
            self.notes.add(place, _name_of(path), f"{text}; it is left out")


_GONE = object()


def _without_gone(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_gone(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_gone(each) for each in value if each is not _GONE]
    return value


def _without_empties(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    found = {key: _without_empties(each) for key, each in value.items()}
    return {key: each for key, each in found.items() if each not in ({}, [])}


def _name_of(path: tuple[str, ...]) -> str:
    match path:
        case ("packs", pack, "queries", query):
            return f"query {pack}/{query}"
        case ("packs", pack):
            return f"pack {pack}: discovery"
        case ("schedule", query):
            return f"query {query}"
    return ": ".join(path)


def slug_of(text: str) -> str:
    """A name that a file may have on any system."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._")[:_LONGEST_SLUG].strip("-._")


def _unique(slug: str, taken: set[str]) -> str:
    slug = slug or "pack"
    number, found = 1, slug
    while found in taken:
        number += 1
        found = f"{slug}-{number}"
    taken.add(found)
    return found


class _Writer(yaml.SafeDumper):
    """YAML for people: SQL of several lines as such, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(writer: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    # These are line breaks to YAML; PyYAML writes them so that they are read as others unless they are escaped.
    if any(letter in text for letter in "\r\x85\u2028\u2029"):
        style = '"'
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _write_text)


def as_yaml(value: Mapping[str, Any]) -> str:
    """YAML that is read again as the same, and by people."""
    plain = json.loads(msgspec.json.encode(value))
    return yaml.dump(plain, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=_WIDTH)


def _toml(query: TagQuery) -> str:
    keys = {"tag": query.tag, "sql": query.sql, "where": query.where, "description": query.description}
    lines = [f"{key} = {_toml_text(value)}" for key, value in keys.items() if value]
    return "\n".join(["[[tag_queries]]", *lines, f"interval = {query.interval}", ""])


def _toml_text(text: str) -> str:
    # TOML takes JSON's text, but for a letter that JSON needs not escape.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    lines: Iterable[str] = text.splitlines()
    said = ("".join(letter if letter.isprintable() else " " for letter in line).rstrip() for line in lines)
    return "".join(f"# {line}\n" for line in said if line)
