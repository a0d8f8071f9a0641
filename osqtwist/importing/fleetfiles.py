"""
Fleet's files: documents with a ``kind``, and those of GitOps with the paths in them followed.

What comes out is the same for both: queries, packs, labels and agent options, each with the team that it is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from osqtwist.documents import BadDocument
from osqtwist.importing import osquery
from osqtwist.importing.draft import Draft
from osqtwist.importing.parts import Part, Place, listed
from osqtwist.importing.sources import SourceFile, Sources

_GITOPS = {
    *("queries", "reports", "labels", "agent_options", "policies", "controls", "software"),
    *("org_settings", "settings", "team_settings", "custom_host_vitals"),
}
_NO_TEAM = ("no team", "unassigned")
_NO_COUNTERPART = "there is no counterpart; it is left out"
_SECRETS = "enroll secrets stand in a file of their own here (--enroll-secret-path); it is left out"


@attrs.define
class FleetThings:
    """What the files hold; each with the name of its team, or nothing for all of them."""

    queries: list[tuple[str, Part]] = attrs.field(factory=list)
    packs: list[Part] = attrs.field(factory=list)
    labels: list[Part] = attrs.field(factory=list)
    options: list[tuple[str, Part]] = attrs.field(factory=list)


def gather(sources: Sources, draft: Draft) -> FleetThings:
    """Everything in the files given."""
    return _Gathering(sources, draft).gather()


class _Gathering:
    def __init__(self, sources: Sources, draft: Draft) -> None:
        self._sources = sources
        self._draft = draft
        self._found = FleetThings()
        self._met: set[str] = set()

    def gather(self) -> FleetThings:
        later: list[tuple[SourceFile, Any, Place]] = []
        for file in self._sources:
            try:
                documents = self._sources.documents(file)
            except BadDocument as problem:
                osquery.note_bad(self._draft, file, problem)
                continue
            for document in documents:
                place = Place(file, document)
                if isinstance(document.value, Mapping) and (_is_spec(document.value) or _is_gitops(document.value)):
                    self._document(Part(document.value, place, self._draft.notes))
                    self._met.add(file.path)
                else:
                    later.append((file, document.value, place))
        for file, value, place in later:
            if file.path in self._met:
                continue
            if isinstance(value, list):
                # A library file that no other one names was given for its own sake.
                for part in listed(value, place, self._draft.notes, ""):
                    self._item(part, _what_is(part), "")
            else:
                self._draft.notes.add(place, "", "it is nothing of Fleet's that is known here; nothing of it is taken")
        return self._found

    def _document(self, part: Part) -> None:
        if _is_gitops(part.value):
            self._gitops(part)
            return
        kind = part.text("kind").lower()
        part.ignore("apiVersion", "version")
        spec = part.part("spec", kind)
        part.finish()
        if spec is None:
            part.note("it has no spec; nothing of it is taken")
            return
        name = spec.value.get("name")
        spec.name = f"{kind} {name}" if isinstance(name, str) else kind
        self._spec(kind, spec)

    def _spec(self, kind: str, spec: Part) -> None:
        if kind in ("query", "report"):
            self._found.queries.append((_team_of(spec), spec))
        elif kind == "pack":
            self._found.packs.append(spec)
        elif kind == "label":
            self._found.labels.append(spec)
        elif kind == "options":
            self._found.options.append(("", spec))
        elif kind == "config":
            self._settings(spec, "")
        elif kind in ("team", "fleet"):
            team = spec.part(kind, kind) or spec.part("team", kind)
            if team:
                team.name = f"{kind} {team.value.get('name')}"
                self._settings(team, team.text("name"))
            spec.finish()
        elif kind == "enroll_secret":
            spec.note(_SECRETS)
        else:
            spec.note(_NO_COUNTERPART)

    def _settings(self, part: Part, team: str) -> None:
        if options := part.part("agent_options", "agent options"):
            self._options(options, team)
        part.lose("secrets", _SECRETS)
        part.finish(_NO_COUNTERPART)

    def _gitops(self, part: Part) -> None:
        team = part.text("name").strip()
        if team.lower() in _NO_TEAM:
            part.note(f"hosts of no team are not told apart here: what is for {team} is for every node")
            team = ""
        for key in ("queries", "reports"):
            self._items(part, key, "query", team)
        self._items(part, "labels", "label", team)
        self._items(part, "policies", "policy", team)
        if options := part.part("agent_options", "agent options"):
            self._options(options, team)
        for key in ("settings", "team_settings", "org_settings"):
            if settings := part.part(key, key):
                settings.lose("secrets", _SECRETS)
                self._mark(settings.value, part.place.file)
                settings.finish(_NO_COUNTERPART)
        for key in ("controls", "software", "custom_host_vitals"):
            self._mark(part.value.get(key), part.place.file)
            part.lose(key, _NO_COUNTERPART)
        part.finish(_NO_COUNTERPART)

    def _items(self, part: Part, key: str, what: str, team: str) -> None:
        for item in part.parts(key, what):
            files = self._files(item)
            if files is None:
                self._item(item, what, team)
            for file in files or ():
                for each in self._list_of(file, what):
                    self._item(each, what, team)

    def _item(self, part: Part, what: str, team: str) -> None:
        name = part.value.get("name")
        part.name = f"{what} {name}" if isinstance(name, str) else what
        if what == "query":
            self._found.queries.append((team or _team_of(part), part))
        elif what == "label":
            self._found.labels.append(part)
        elif what == "policy":
            part.note("policies have no counterpart; schedule its query if you want its rows")
        else:
            part.note("it is nothing of Fleet's that is known here; nothing of it is taken")

    def _options(self, part: Part, team: str) -> None:
        files = self._files(part)
        if files is None:
            self._found.options.append((team, part))
        for file in files or ():
            for document in self._read(file):
                if isinstance(document.value, Mapping):
                    inner = Part(document.value, document, self._draft.notes, "agent options")
                    self._found.options.append((team, inner.part("agent_options", "agent options") or inner))

    def _files(self, part: Part) -> list[SourceFile] | None:
        """The files that stand for a part, if it is nothing but their path."""
        path, paths = part.value.get("path"), part.value.get("paths")
        if path is None and paths is None:
            return None
        base = part.place.file
        found = [self._sources.at(base, path)] if isinstance(path, str) else []
        if isinstance(paths, str):
            found += self._sources.matching(base, paths)
        if not found or None in found:
            spoken = path if isinstance(path, str) else paths
            part.note(f"{spoken} is not among the files given (give the folder that both are in); it is left out")
        part.ignore("path", "paths")
        part.finish()
        return [file for file in found if file is not None]

    def _list_of(self, file: SourceFile, what: str) -> list[Part]:
        found: list[Part] = []
        for place in self._read(file):
            if isinstance(place.value, list):
                found += listed(place.value, place, self._draft.notes, what)
            elif isinstance(place.value, Mapping) and _is_spec(place.value):
                continue  # Taken for itself.
            else:
                self._draft.notes.add(place, "", "it is no list; nothing of it is taken")
        return found

    def _read(self, file: SourceFile) -> list[_Opened]:
        self._met.add(file.path)
        try:
            return [_Opened(file, document) for document in self._sources.documents(file)]
        except BadDocument:
            return []  # Noted when all files were gone through.

    def _mark(self, value: Any, base: SourceFile) -> None:
        """What a part names that has no counterpart has none either."""
        for each in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
            self._mark(each, base)
        path = value.get("path") if isinstance(value, Mapping) else None
        if isinstance(path, str) and (file := self._sources.at(base, path)):
            self._met.add(file.path)


class _Opened(Place):
    """A document of a file, from its top."""

    @property
    def value(self) -> Any:
        """What it says."""
        return self.document.value


def _is_spec(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("kind"), str) and "spec" in value


def _is_gitops(value: Mapping[str, Any]) -> bool:
    return "kind" not in value and bool(_GITOPS & value.keys())


def _team_of(part: Part) -> str:
    team = part.text("team") or part.text("fleet")
    return "" if team.lower() in _NO_TEAM else team


def _what_is(part: Part) -> str:
    keys = part.value.keys()
    if {"label_membership_type", "criteria", "hosts"} & keys:
        return "label"
    if {"resolution", "critical", "type", "run_script", "install_software"} & keys:
        return "policy"
    return "query" if "query" in keys else ""
