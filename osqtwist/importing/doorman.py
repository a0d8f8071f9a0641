"""
Doorman: the packs one uploads to it, the configuration it gives a node, and the rows of its tables as JSON.

A pack, a query or a file path is for the nodes that share a tag with it; one without a tag is for none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from osqtwist.documents import BadDocument
from osqtwist.importing import osquery
from osqtwist.importing.draft import Draft, DraftLayer
from osqtwist.importing.parts import Part, Place, listed
from osqtwist.importing.sources import Sources
from osqtwist.node import TAG_PATTERN

_BOOKKEEPING = ("id", "tags_count", "created_at", "updated_at")
_NO_TAG = "it has no tag, so Doorman gave it to no node; it is left out"
_OF_DISCOVERY = "discovery"


def read(sources: Sources, draft: Draft) -> None:
    """Put everything into the draft: a layer for each set of tags."""
    rows: dict[str, list[Part]] = {"pack": [], "query": [], "file path": []}
    for part in _objects(sources, draft):
        _sort(part, sources, draft, rows)
    layers = _Layers(draft)
    for row in rows["pack"]:
        _take_pack(row, rows["query"], draft, layers)
    for row in rows["query"]:
        # Those of packs alone are taken with their packs.
        row.name = f"query {row.text('name')}"
        tags = [tag for tag in row.texts("tags") if tag != _OF_DISCOVERY]
        packs = _texts(row.take("packs"))
        if missing := [pack for pack in packs if all(pack != each.value.get("name") for each in rows["pack"])]:
            row.note(f"its pack {missing[0]} is not among the files given; it is left out there", "packs")
        if tags:
            draft.query(layers.of(tags, row), row.text("name"), _scheduled(row), row)
        elif not packs and not _is_in_a_pack(row, rows["pack"]):
            row.note(_NO_TAG)
    for row in rows["file path"]:
        category = row.text("category")
        row.name = f"file path {category}"
        spoken = row.take("target_paths")
        paths = [path for path in spoken.split("!!") if path] if isinstance(spoken, str) else row.texts("target_paths")
        if tags := row.texts("tags"):
            draft.entry(layers.of(tags, row), ("file_paths", category), paths, row)
        else:
            row.note(_NO_TAG)
        row.ignore(*_BOOKKEEPING)
        row.finish()


class _Layers:
    """One layer for each set of tags, made as it is needed."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._found: dict[tuple[str, ...], DraftLayer] = {}

    def of(self, tags: Sequence[str], part: Part) -> DraftLayer:
        ours = tuple(sorted({self._tag(tag, part) for tag in tags}))
        if ours not in self._found:
            description = f"What Doorman gave to nodes with the tag {' or '.join(ours)}."
            self._found[ours] = self._draft.layer("-".join(ours), description, {"tags": list(ours)})
        return self._found[ours]

    def _tag(self, tag: str, part: Part) -> str:
        if TAG_PATTERN.fullmatch(tag):
            return tag
        ours = self._draft.tag("doorman", tag)
        part.note(f"the tag {tag[:64]!r} cannot be a tag here; {ours} stands for it", "tags")
        return ours


def _objects(sources: Sources, draft: Draft) -> list[Part]:
    found: list[Part] = []
    for file in sources:
        try:
            documents = sources.documents(file)
        except BadDocument as problem:
            osquery.note_bad(draft, file, problem)
            continue
        for document in documents:
            place = Place(file, document)
            if isinstance(document.value, list):
                found += listed(document.value, place, draft.notes, "")
            elif isinstance(document.value, Mapping):
                found.append(Part(document.value, place, draft.notes))
            else:
                draft.notes.add(place, "", "it is no object; nothing of it is taken")
    return found


def _sort(part: Part, sources: Sources, draft: Draft, rows: dict[str, list[Part]]) -> None:
    value = part.value
    if "target_paths" in value:
        rows["file path"].append(part)
    elif "sql" in value or isinstance(value.get("query"), str):
        rows["query"].append(part)
    elif "name" in value and (isinstance(value.get("queries"), list) or {"queries", "tags"} <= value.keys()):
        rows["pack"].append(part)
    elif isinstance(value.get("queries"), Mapping) and "schedule" not in value:
        _take_upload(part, draft)
    elif any(isinstance(value.get(key), list) for key in ("packs", "queries", "file_paths")):
        for key, what in (("packs", "pack"), ("queries", "query"), ("file_paths", "file path")):
            rows[what] += part.parts(key, what)
        part.ignore("tags")
        part.finish()
    elif {"schedule", "packs", "options", "file_paths"} & value.keys():
        _take_node_config(part, sources, draft)
    else:
        part.note("it is nothing of Doorman's that is known here; nothing of it is taken")


def _take_node_config(part: Part, sources: Sources, draft: Draft) -> None:
    layer = draft.layer(part.place.file.stem, f"What Doorman gave a node, from {part.place.file.name}.")
    part.note("Doorman made it for one node and says no tags; the layer is for every node until you give it a target")
    osquery.take_config(part, draft, layer)
    osquery.take_packs(part, sources, draft, layer, {}, set())
    part.ignore("node_invalid")
    part.finish()


def _take_upload(part: Part, draft: Draft) -> None:
    name = part.place.file.stem
    part.name = f"pack {name}"
    tags = part.texts("tags")
    layers = _Layers(draft)
    layer = layers.of(tags, part) if tags else draft.layer(name, f"The pack {name} of Doorman.")
    if not tags:
        part.note("its tags are not in the file; the layer is for every node until you give it a target")
    osquery.take_pack(part, draft, layer, name)


def _take_pack(part: Part, queries: Sequence[Part], draft: Draft, layers: _Layers) -> None:
    name = part.text("name")
    part.name = f"pack {name}"
    about: dict[str, Any] = {}
    for key in ("platform", "version"):
        if (text := part.text(key)) and text != "all":
            about[key] = text
    if (shard := part.number("shard")) is not None:
        about["shard"] = shard
    description, tags = part.text("description"), part.texts("tags")
    members = _members(part, name, queries)
    part.ignore(*_BOOKKEEPING)
    part.finish()
    if not tags:
        part.note(_NO_TAG)
        return
    discovery = [sql for row in members if _OF_DISCOVERY in row.texts("tags") and (sql := _sql(row))]
    if discovery:
        about["discovery"] = discovery
    layer = layers.of(tags, part)
    pack = draft.pack(layer, name, description, about, part)
    for row in members if pack else ():
        if pack and _OF_DISCOVERY not in row.texts("tags"):
            row.ignore("packs")
            query = row.text("name") or row.name.rpartition("/")[2]
            row.name = f"query {name}/{query}"
            draft.pack_query(layer, pack, query, _scheduled(row), row)


def _members(part: Part, name: str, queries: Sequence[Part]) -> list[Part]:
    """The queries of a pack: rows in it, names of rows, or rows that name it."""
    spoken = part.value.get("queries")
    found: list[Part] = []
    if isinstance(spoken, Mapping):
        return [Part({"name": key, **row.value}, row.place, row.notes) for key, row in part.members("queries", "query")]
    by_name = {row.value.get("name"): row for row in queries if isinstance(row.value.get("name"), str)}
    part.take("queries")
    for number, each in enumerate(spoken if isinstance(spoken, list) else []):
        place = part.place.inside("queries", number)
        if isinstance(each, Mapping):
            found.append(Part(each, place, part.notes, f"query of {name}"))
        elif isinstance(each, str) and each in by_name:
            found.append(_again(by_name[each]))
        else:
            part.notes.add(place, part.name, "it names a query that is not among the files given; it is left out")
    for row in queries:
        if name in _texts(row.value.get("packs")) and all(row.value is not each.value for each in found):
            found.append(_again(row))
    return found


def _again(part: Part) -> Part:
    return Part(part.value, part.place, part.notes, part.name)


def _is_in_a_pack(row: Part, packs: Sequence[Part]) -> bool:
    return any(row.value.get("name") in _texts(pack.value.get("queries")) for pack in packs)


def _texts(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _sql(row: Part) -> str:
    sql = row.value.get("sql") or row.value.get("query")
    return sql.strip() if isinstance(sql, str) else ""


def _scheduled(row: Part) -> dict[str, Any]:
    row.ignore("tags", *_BOOKKEEPING)
    said = osquery.scheduled(row, "sql" if "sql" in row.value else "query")
    if said.get("platform") == "all":
        del said["platform"]
    return said
