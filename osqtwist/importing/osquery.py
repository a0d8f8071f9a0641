"""osquery's own: configuration files and packs, as for its filesystem plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from osqtwist.documents import BadDocument, Document
from osqtwist.importing.draft import Draft, DraftLayer
from osqtwist.importing.parts import Part, Place
from osqtwist.importing.sources import SourceFile, Sources

_OBJECTS_OF_LISTS = ("file_paths", "exclude_paths", "file_paths_query")
_OBJECTS = (
    "views",
    "auto_table_construction",
    "yara",
    "events",
    "prometheus_targets",
    "feature_vectors",
    "kafka_topics",
)


def read(sources: Sources, draft: Draft) -> None:
    """Put every configuration and pack into the draft: a layer for each configuration, in the order of their paths."""
    found = parts_of(sources, draft)
    configs = [part for part in found if is_config(part)]
    packs = {part.place.file.path: part for part in found if not is_config(part)}
    used: set[str] = set()
    for part in configs:
        layer = draft.layer(part.place.file.stem, f"From {part.place.file.name}.")
        take_config(part, draft, layer)
        take_packs(part, sources, draft, layer, packs, used)
        part.finish("osquery knows no such key; it is left out")
    left = [part for path, part in packs.items() if path not in used]
    if left:
        layer = draft.layer("packs", "Packs that no configuration names.")
        for part in left:
            take_pack(part, draft, layer, part.place.file.stem)


def parts_of(sources: Sources, draft: Draft) -> list[Part]:
    """The object of each file; what cannot be read is noted."""
    found = []
    for file in sources:
        try:
            documents = sources.documents(file)
        except BadDocument as problem:
            note_bad(draft, file, problem)
            continue
        for document in documents:
            place = Place(file, document)
            if isinstance(document.value, Mapping):
                found.append(Part(document.value, place, draft.notes))
            else:
                draft.notes.add(place, "", "it is no object; nothing of it is taken")
    return found


def note_bad(draft: Draft, file: SourceFile, problem: BadDocument) -> None:
    """Note that a file is none that can be read."""
    where = f"line {problem.line}" if problem.line else ""
    draft.notes.add(Place(file, Document(None)), where, f"it cannot be read: {problem}; nothing of it is taken")


def is_config(part: Part) -> bool:
    """Whether an object is a configuration; otherwise it is a pack."""
    return "queries" not in part.value or bool({"schedule", "packs"} & part.value.keys())


def take_config(part: Part, draft: Draft, layer: DraftLayer) -> None:
    """Put all of a configuration but its packs into a layer."""
    if options := part.part("options", "options"):
        draft.options(layer, options)
    for name, query in part.members("schedule", "query"):
        draft.query(layer, name, scheduled(query), query)
    _take_decorators(part, draft, layer)
    for key in _OBJECTS_OF_LISTS:
        holder = part.part(key)
        for name in holder.value if holder else ():
            if holder and (texts := holder.texts(name)):
                draft.entry(layer, (key, name), texts, holder.at(name))
    for key in _OBJECTS:
        holder = part.part(key)
        for name in holder.value if holder else ():
            if holder:
                draft.entry(layer, (key, name), holder.take(name), holder.at(name))
    if accesses := part.texts("file_accesses"):
        draft.whole(layer, "file_accesses", accesses, part)
    part.lose("logger", "the logger is the server's; it is left out")


def take_pack(part: Part, draft: Draft, layer: DraftLayer, name: str) -> None:
    """Put a pack into a layer."""
    part.name = part.name or f"pack {name}"
    about: dict[str, Any] = {}
    for key in ("platform", "version", "oncall"):
        if text := part.text(key):
            about[key] = text
    if (shard := part.number("shard")) is not None:
        about["shard"] = shard
    if discovery := [sql for sql in part.texts("discovery") if sql.strip()]:
        about["discovery"] = discovery
    description = part.text("description")
    queries = list(part.members("queries", "query"))
    part.ignore("name")
    part.finish("osquery knows no such key of a pack; it is left out")
    pack = draft.pack(layer, name, description, about, part)
    for query_name, query in queries:
        query.name = f"query {name}/{query_name}"
        if pack:
            draft.pack_query(layer, pack, query_name, scheduled(query), query)


def scheduled(part: Part, sql: str = "query") -> dict[str, Any]:
    """A query as osquery says it, without its name; that it has no SQL is for the draft to note."""
    said: dict[str, Any] = {"query": part.text(sql).strip()}
    for key in ("interval", "shard", "startup_priority"):
        if (number := part.number(key)) is not None:
            said[key] = number
    for key in ("snapshot", "removed", "denylist"):
        if (flag := part.flag(key)) is not None:
            said[key] = flag
    old = part.flag("blacklist")
    if old is not None and "denylist" not in said:
        said["denylist"] = old
    for key in ("platform", "version", "description", "value"):
        if text := part.text(key).strip():
            said[key] = text
    part.ignore("name")
    part.finish("osquery knows no such key of a query; it is left out")
    return said


def _take_decorators(part: Part, draft: Draft, layer: DraftLayer) -> None:
    decorators = part.part("decorators", "decorators")
    if decorators is None:
        return
    for key in ("load", "always"):
        if texts := decorators.texts(key):
            draft.entry(layer, ("decorators", key), texts, decorators.at(key))
    interval = decorators.part("interval", "decorators: interval")
    for seconds in interval.value if interval else ():
        if interval and (texts := interval.texts(seconds)):
            draft.entry(layer, ("decorators", "interval", seconds), texts, interval.at(seconds))
    decorators.finish("osquery knows no such decorators; they are left out")


def take_packs(
    part: Part, sources: Sources, draft: Draft, layer: DraftLayer, packs: Mapping[str, Part], used: set[str]
) -> None:
    """Put the packs of a configuration into a layer: those in it, and those in files that were given."""
    holder = part.part("packs")
    for name in holder.value if holder else ():
        if holder is None:
            continue
        value = holder.take(name)
        if isinstance(value, Mapping) and name == "*":
            for inner, pack in Part({"*": value}, holder.place, holder.notes).members("*", "pack"):
                take_pack(pack, draft, layer, inner)
        elif isinstance(value, Mapping):
            take_pack(Part(value, holder.place.inside(name), holder.notes, f"pack {name}"), draft, layer, name)
        elif isinstance(value, str):
            files = [file for file in sources.named(value) if file.path in packs]
            if not files or (len(files) > 1 and name != "*"):
                what = "is not among the files given" if not files else "may be more than one of the files given"
                holder.note(f"the pack's file {value} {what}; the pack is left out", name)
                continue
            for file in files:
                used.add(file.path)
                source = packs[file.path]
                fresh = Part(source.value, source.place, source.notes, source.name)
                take_pack(fresh, draft, layer, file.stem if name == "*" else name)
        elif value is not None:
            holder.note("it must be an object, or the path of a file; it is left out", name)
