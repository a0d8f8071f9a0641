"""
Zentral: packs in its file format, and what its API of osquery answers.

A machine has one configuration, by the enrollment it came in with; a configuration has packs, each for machines with
one of some tags and without others.  Here a tag ``configuration:NAME`` stands for each configuration, if there are
several.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from osqtwist.documents import BadDocument
from osqtwist.importing import osquery
from osqtwist.importing.draft import Draft, DraftLayer, slug_of
from osqtwist.importing.parts import Part, Place, listed
from osqtwist.importing.sources import Sources

_BOOKKEEPING = ("id", "slug", "created_at", "updated_at", "version")
_LISTS = {
    "queries": "query",
    "packs": "pack",
    "configurations": "configuration",
    "configuration_packs": "configuration pack",
    "file_categories": "file category",
    "atcs": "ATC",
    "tags": "tag",
}


def read(sources: Sources, draft: Draft) -> None:
    """Put everything into the draft: a layer for each configuration, and one for each set of tags in it."""
    _Zentral(draft, _Found(sources, draft)).take()


class _Found:
    """What the files hold, by what it is."""

    def __init__(self, sources: Sources, draft: Draft) -> None:
        self.rows: dict[str, list[Part]] = {what: [] for what in _LISTS.values()}
        self.files: list[Part] = []
        for file in sources:
            try:
                documents = sources.documents(file)
            except BadDocument as problem:
                osquery.note_bad(draft, file, problem)
                continue
            for document in documents:
                self._sort(document.value, Place(file, document), draft)

    def _sort(self, value: Any, place: Place, draft: Draft) -> None:
        if isinstance(value, list):
            for part in listed(value, place, draft.notes, ""):
                self._sort_row(part)
            return
        if not isinstance(value, Mapping):
            draft.notes.add(place, "", "it is no object; nothing of it is taken")
            return
        part = Part(value, place, draft.notes)
        if isinstance(value.get("results"), list) and "count" in value:
            part.lose("next", "there are more pages of this; export them too")
            for row in part.parts("results", ""):
                self._sort_row(row)
            part.ignore("count", "previous")
            part.finish()
        elif any(isinstance(value.get(key), list) for key in _LISTS):
            for key, what in _LISTS.items():
                self.rows[what] += part.parts(key, what)
            part.finish()
        else:
            self._sort_row(part)

    def _sort_row(self, part: Part) -> None:
        what = _kind_of(part.value.keys())
        if what == "pack file":
            self.files.append(part)
        elif what:
            name = part.value.get("name") or part.value.get("id", "")
            part.name = f"{what} {name}".strip()
            self.rows[what].append(part)
        else:
            part.note("it is nothing of Zentral's osquery that is known here; nothing of it is taken")


def _kind_of(keys: Iterable[str]) -> str:
    has = set(keys)
    marks = {
        "pack file": {"queries"},
        "query": {"sql"},
        "ATC": {"table_name"},
        "file category": {"access_monitoring"},
        "configuration pack": {"configuration", "pack"},
        "configuration": {"inventory"},
        "pack": {"discovery_queries"},
        "tag": {"name", "color"},
    }
    return next((what for what, needed in marks.items() if needed <= has), "")


class _Zentral:
    def __init__(self, draft: Draft, found: _Found) -> None:
        self._draft = draft
        self._found = found
        rows = found.rows
        self._packs = {_number(row, "id"): row for row in rows["pack"]}
        self._tags = {_number(row, "id"): str(row.value.get("name")) for row in rows["tag"]}
        self._queries: dict[int, list[Part]] = {}
        self._read_packs: dict[int, tuple[dict[str, Any], str]] = {}
        self._used: set[tuple[str, int]] = set()

    def take(self) -> None:
        rows = self._found.rows
        for row in rows["query"]:
            self._take_query(row)
        for row in rows["pack"]:
            self._read_packs[_number(row, "id")] = self._about(row)
        for row in rows["configuration"]:
            self._take_configuration(row, is_only=len(rows["configuration"]) == 1)
        known = {_number(row, "id") for row in rows["configuration"]}
        for row in rows["configuration pack"]:
            if _number(row, "configuration") not in known:
                row.note("its configuration is not among the files given; it is left out")
        self._take_packs_alone()
        for row in self._found.files:
            self._take_file(row)

    def _take_query(self, row: Part) -> None:
        scheduling = row.part("scheduling", row.name)
        row.lose("compliance_check_enabled", "compliance checks have no counterpart; its rows are results as any")
        row.ignore("compliance_check_id")
        tag = row.take("tag")
        if tag and not isinstance(tag, int):
            row.note("it must be a number, and is left out", "tag")
        if scheduling is None:
            row.note("it is in no pack; ask it live (osqtwist query run), it is left out")
            return
        pack = _number(scheduling, "pack")
        if pack not in self._packs:
            row.note("its pack is not among the files given; it is left out")
            return
        said = {"name": row.text("name"), "query": row.text("sql")}
        for ours, theirs in (
            ("version", "minimum_osquery_version"),
            ("description", "description"),
            ("value", "value"),
        ):
            if text := row.text(theirs):
                said[ours] = text
        if platforms := row.texts("platforms"):
            said["platform"] = ",".join(platforms)
        if isinstance(tag, int):
            where = " or ".join(f'platform:"{slug_of(platform)}"' for platform in platforms)
            interval = scheduling.value.get("interval")
            name = self._draft.tag("zentral", self._tags.get(tag, str(tag)))
            self._draft.tag_query(name, said["query"], where, interval if isinstance(interval, int) else 3600, row)
        row.ignore(*_BOOKKEEPING)
        row.finish()
        self._queries.setdefault(pack, []).append(
            Part({**said, **_schedule(scheduling)}, row.place, row.notes, row.name)
        )

    def _about(self, row: Part) -> tuple[dict[str, Any], str]:
        about: dict[str, Any] = {}
        if discovery := [sql for sql in row.texts("discovery_queries") if sql.strip()]:
            about["discovery"] = discovery
        if (shard := row.number("shard")) is not None:
            about["shard"] = shard
        _note_routing(row, row.text("name"))
        description = row.text("description")
        row.ignore(*_BOOKKEEPING)
        row.finish()
        return about, description

    def _take_configuration(self, row: Part, is_only: bool) -> None:
        name = row.text("name")
        tag = "" if is_only else self._draft.tag("configuration", name)
        if tag:
            row.note(f"a tag stands for each configuration: give {tag} to its machines, by their enroll secret")
        description = row.text("description") or f"The configuration {name} of Zentral."
        layer = self._draft.layer(name, description, {"tags": [tag]} if tag else {})
        if options := row.part("options", f"{row.name}: options"):
            self._draft.options(layer, options)
        self._draft.entry(layer, ("options", "pack_delimiter"), "/", row.at("options"))
        for key, what in (("file_categories", "file category"), ("automatic_table_constructions", "ATC")):
            numbers = row.take(key)
            for number in numbers if isinstance(numbers, list) else []:
                found = next((each for each in self._found.rows[what] if each.value.get("id") == number), None)
                if found is None or not isinstance(number, int):
                    row.note(f"the {what} {number} is not among the files given; it is left out", key)
                    continue
                self._used.add((what, number))
                if what == "ATC":
                    self._take_atc(found, layer, name, tag)
                else:
                    self._take_category(found, layer)
        if row.take("inventory") is not False:
            row.note("Zentral's own queries for its inventory have no counterpart; schedule what you need", "inventory")
        row.ignore("inventory_apps", "inventory_ec2", "inventory_interval", *_BOOKKEEPING)
        row.finish()
        for each in self._found.rows["configuration pack"]:
            if _number(each, "configuration") == _number(row, "id"):
                self._take_configuration_pack(each, name, tag)

    def _take_configuration_pack(self, row: Part, configuration: str, tag: str) -> None:
        pack = self._packs.get(_number(row, "pack"))
        row.ignore("configuration", *_BOOKKEEPING)
        if pack is None:
            row.note("its pack is not among the files given; it is left out")
            return
        terms = [f'tag:"{tag}"'] if tag else []
        included, excluded = (self._tags_of(row, key) for key in ("tags", "excluded_tags"))
        if included:
            terms.append(f"({' or '.join(included)})")
        if excluded:
            terms.append(f"not ({' or '.join(excluded)})")
        row.finish()
        target = {"where": " and ".join(terms)}
        name = str(pack.value.get("name") or "pack")
        row.name = pack.name
        if self._draft.can_mean(target, row.place, row.name):
            description = f"The pack {name} of Zentral's configuration {configuration}."
            layer = self._draft.layer(f"{configuration}-{name}", description, target)
            self._put_pack(pack, layer)

    def _tags_of(self, row: Part, key: str) -> list[str]:
        numbers = row.take(key)
        found = []
        for number in numbers if isinstance(numbers, list) else []:
            if not isinstance(number, int):
                row.note("a tag is no number; it is left out", key)
            elif number in self._tags:
                found.append(f'tag:"{self._draft.tag("zentral", self._tags[number])}"')
            else:
                found.append(f'tag:"{self._draft.tag("zentral", str(number))}"')
                row.note(f"the tag {number} is not among the files given; it has no name here", key)
        if found:
            row.note(f"{', '.join(found)} stand for Zentral's tags: give them to its machines", key)
        return found

    def _put_pack(self, pack: Part, layer: DraftLayer) -> None:
        about, description = self._read_packs[_number(pack, "id")]
        name = str(pack.value.get("slug") or slug_of(str(pack.value.get("name"))) or "pack")
        made = self._draft.pack(layer, name, description, about, pack)
        for query in self._queries.get(_number(pack, "id"), []) if made else ():
            source = Part(query.value, query.place, query.notes, query.name)
            self._draft.pack_query(layer, name, source.text("name"), osquery.scheduled(source), source)

    def _take_packs_alone(self) -> None:
        """Packs that no configuration has: nobody has them, unless no configuration was given at all."""
        rows = self._found.rows
        used = {_number(row, "pack") for row in rows["configuration pack"]}
        left = [row for row in rows["pack"] if _number(row, "id") not in used]
        if rows["configuration"]:
            for row in left:
                row.note("no configuration has it, so Zentral gave it to no machine; it is left out")
        elif left:
            layer = self._draft.layer("packs", "Packs of Zentral, for every node: their configurations were not given.")
            for row in left:
                row.note("its configurations are not among the files given; it is for every node")
                self._put_pack(row, layer)
        for what in ("file category", "ATC"):
            for row in (each for each in rows[what] if (what, _number(each, "id")) not in self._used):
                row.note("no configuration that has it is among the files given; it is left out")

    def _take_category(self, source: Part, layer: DraftLayer) -> None:
        row = Part(source.value, source.place, source.notes, source.name)
        name = row.text("slug") or slug_of(row.text("name"))
        pairs = (
            ("file_paths", "file_paths"),
            ("exclude_paths", "exclude_paths"),
            ("file_paths_query", "file_paths_queries"),
        )
        for ours, theirs in pairs:
            if texts := row.texts(theirs):
                self._draft.entry(layer, (ours, name), texts, row.at(theirs))
        if row.flag("access_monitoring"):
            layer.body.setdefault("file_accesses", []).append(name)
        row.ignore("name", "description", *_BOOKKEEPING)
        row.finish()

    def _take_atc(self, source: Part, layer: DraftLayer, configuration: str, tag: str) -> None:
        row = Part(source.value, source.place, source.notes, source.name)
        said = {"query": row.text("query"), "path": row.text("path"), "columns": row.texts("columns")}
        platforms = row.texts("platforms")
        table = row.text("table_name")
        if platforms:
            target = {"tags": [tag] if tag else [], "platforms": platforms}
            description = f"The table {table} of Zentral's configuration {configuration}."
            layer = self._draft.layer(f"{configuration}-{table}", description, target)
        self._draft.entry(layer, ("auto_table_construction", table), said, row)
        row.ignore("name", "description", *_BOOKKEEPING)
        row.finish()

    def _take_file(self, part: Part) -> None:
        name = part.place.file.stem
        part.name = f"pack {part.value.get('name') or name}"
        _note_routing(part, name)
        queries = part.value.get("queries")
        cleaned = (
            {key: _of_a_file(part, key, each) for key, each in queries.items()} if isinstance(queries, Mapping) else {}
        )
        part.ignore("queries", "event_routing_key")
        value = {key: each for key, each in part.value.items() if key != "event_routing_key"} | {"queries": cleaned}
        description = part.text("description") or f"The pack {name} of Zentral."
        layer = self._draft.layer(name, description)
        osquery.take_pack(Part(value, part.place, part.notes, part.name), self._draft, layer, name)


def _of_a_file(part: Part, name: str, value: Any) -> Any:
    """A query of a pack file, in osquery's own words."""
    if not isinstance(value, Mapping):
        return value
    query = Part(value, part.place.inside("queries", name), part.notes, f"query {name}")
    query.lose("compliance_check", "compliance checks have no counterpart; its rows are results as any")
    can_be = query.flag("can_be_denylisted")
    said = {key: each for key, each in value.items() if key not in ("compliance_check", "can_be_denylisted")}
    return said if can_be is None else {"denylist": can_be, **said}


def _number(row: Part, key: str) -> int:
    """A primary key, or one that no row has."""
    value = row.take(key)
    return value if isinstance(value, int) else -1


def _schedule(part: Part) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for key in ("interval", "shard"):
        if (number := part.number(key)) is not None:
            said[key] = number
    pairs = (("removed", "log_removed_actions"), ("snapshot", "snapshot_mode"), ("denylist", "can_be_denylisted"))
    for ours, theirs in pairs:
        if (flag := part.flag(theirs)) is not None and flag is not {
            "removed": True,
            "snapshot": False,
            "denylist": True,
        }[ours]:
            said[ours] = flag
    part.finish()
    return said


def _note_routing(part: Part, name: str) -> None:
    if key := part.text("event_routing_key"):
        pack = slug_of(name)
        part.note(
            f"what it routed by {key[:64]!r} a sink can take by the pack: when = 'pack:{pack}'", "event_routing_key"
        )
