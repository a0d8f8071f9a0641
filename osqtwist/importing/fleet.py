"""
Fleet: queries, packs, labels and agent options, from files of ``fleetctl`` or of GitOps.

A team becomes a tag ``team:NAME``, a label of SQL a discovery query (see :mod:`osqtwist.importing.fleetlabels`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import attrs
import msgspec

from osqtwist.importing import osquery
from osqtwist.importing.draft import Draft, DraftLayer
from osqtwist.importing.fleetfiles import gather
from osqtwist.importing.fleetlabels import Labels, Reach, Scope, scope_of
from osqtwist.importing.parts import Part
from osqtwist.importing.sources import Sources

_SYSTEMS = ("darwin", "linux", "windows")
_PARENTS = ("debian", "rhel", "fedora", "suse", "arch")
_LOGGING = {"": {"snapshot": True}, "snapshot": {"snapshot": True}, "differential": {}}
_LOGGING["differential_ignore_removals"] = {"removed": False}
_VARIABLE = re.compile(r"(?<!\\)\$(?:\{[A-Za-z_]\w*\}|[A-Za-z_]\w*)")


def read(sources: Sources, draft: Draft) -> None:
    """Put everything into the draft: agent options first, then a layer for each team and set of labels."""
    _Fleet(draft, sources).take()


@attrs.define
class _Query:
    part: Part
    team: str
    name: str
    sql: str
    is_in_a_pack: bool = False


class _Fleet:
    def __init__(self, draft: Draft, sources: Sources) -> None:
        self._draft = draft
        self._found = gather(sources, draft)
        self._labels = Labels(draft)
        self._queries: dict[tuple[str, str], _Query] = {}
        self._teams: dict[str, str] = {}
        self._layers: dict[tuple[str, Scope], list[tuple[DraftLayer, str]]] = {}

    def take(self) -> None:
        for part in self._found.labels:
            self._labels.add(part)
        self._take_options()
        for team, part in self._found.queries:
            self._learn(team, part)
        for part in self._found.packs:
            self._take_pack(part)
        for query in self._queries.values():
            self._take_query(query)

    def _target(self, team: str, part: Part) -> dict[str, Any]:
        if not team:
            return {}
        if team not in self._teams:
            self._teams[team] = tag = self._draft.tag("team", team)
            part.note(f"{tag} stands for the team {team}: give it to its nodes, by their enroll secret")
        return {"tags": [self._teams[team]]}

    # -- agent options

    def _take_options(self) -> None:
        # A team's own stand for all of those of the whole Fleet.
        own = [team for team, _ in self._found.options if team]
        for team, part in sorted(self._found.options, key=lambda each: bool(each[0])):
            part.name = part.name or "agent options"
            base = self._target(team, part)
            others = [] if team else [f'not tag:"{self._draft.tag("team", other)}"' for other in dict.fromkeys(own)]
            overrides = part.part("overrides", "overrides")
            platforms = overrides.part("platforms", "overrides") if overrides else None
            systems = [name for name in platforms.value if platforms.value[name]] if platforms else []
            if overrides:
                overrides.finish()
            if config := part.part("config", "agent options"):
                terms = [*others, *(f'not platform:"{system}"' for system in systems)]
                self._take_config(config, team or "fleet", "", {**base, "where": " and ".join(terms)})
            for system in systems:
                inner = platforms.part(system, f"overrides for {system}") if platforms else None
                if inner is None:
                    continue
                if system in _PARENTS:
                    inner.note(f"Fleet meant {system} itself; the target takes systems derived from it too")
                self._take_config(
                    inner, team or "fleet", system, {**base, "platforms": [system], "where": " and ".join(others)}
                )
            part.lose("command_line_flags", "put these into the flagfile; they are left out")
            part.ignore("path")
            part.finish()

    def _take_config(self, config: Part, team: str, system: str, target: dict[str, Any]) -> None:
        if not self._draft.can_mean(target, config.place, config.name):
            return
        description = f"Agent options of {team}{f' for {system}' if system else ''}."
        layer = self._draft.layer("-".join(filter(None, (team, "options", system))), description, target)
        if found := _VARIABLE.search(msgspec.json.encode(config.value).decode()):
            config.note(f"{found[0]} is not filled in here")
        osquery.take_config(config, self._draft, layer)
        config.lose("packs", "packs of agent options are left out; give them as files of osquery")
        config.finish("osquery knows no such key; it is left out")

    # -- queries

    def _learn(self, team: str, part: Part) -> None:
        query = _Query(part, team, part.text("name").strip(), part.text("query").strip())
        if not query.name:
            part.note("it has no name; it is left out")
        elif (team, query.name) in self._queries:
            part.note("a query of this name is there already; this one is left out")
        else:
            self._queries[team, query.name] = query
        if found := _VARIABLE.search(f"{query.name} {query.sql}"):
            part.note(f"{found[0]} is not filled in here")

    def _take_query(self, query: _Query) -> None:
        part = query.part
        interval = part.number("interval") or 0
        scope = scope_of(part)
        is_logged, is_discarded = part.flag("automations_enabled"), part.flag("discard_data")
        logging = part.text("logging")
        part.ignore("description", "id", "team", "fleet", "team_id", "fleet_id", "author_id")
        part.ignore("author_name", "author_email", "created_at", "updated_at", "packs", "stats", "saved", "support")
        said = {"query": query.sql, "interval": interval, **_described(part)}
        reason = _system(part, said)
        if version := part.text("min_osquery_version"):
            said["version"] = version
        part.lose("observer_can_run", "who may ask is a matter of operators' roles here")
        part.finish()
        if query.is_in_a_pack and not interval:
            return
        if not interval:
            part.note("it has no interval, so Fleet runs it live only; ask it with osqtwist query run, it is left out")
            return
        if not is_logged and is_discarded:
            part.note("automations_enabled is false and discard_data true, so Fleet runs it nowhere; it is left out")
            return
        if not is_logged:
            part.note("Fleet kept its rows for a report only; here they go to the log sinks as all others")
        if logging not in _LOGGING:
            part.note(f"{logging[:64]!r} is no way of logging that is known here; it logs snapshots", "logging")
        said |= _LOGGING.get(logging, _LOGGING[""])
        if reason:
            part.note(reason)
            return
        for layer, pack in self._packs_of(query.team, scope, part):
            self._draft.pack_query(layer, pack, query.name, said, part)

    def _packs_of(self, team: str, scope: Scope, part: Part) -> list[tuple[DraftLayer, str]]:
        """Where the queries of a team and of a scope go: a pack in a layer, or several for different platforms."""
        if (team, scope) not in self._layers:
            base = self._target(team, part)
            name = f"{team or 'Global'}{f' ({scope})' if str(scope) else ''}"
            self._layers[team, scope] = self._scoped(name, base, scope, {}, "", part)
        return self._layers[team, scope]

    def _scoped(
        self, name: str, base: dict[str, Any], scope: Scope, about: dict[str, Any], description: str, part: Part
    ) -> list[tuple[DraftLayer, str]]:
        reaches = self._labels.reaches(scope, part)
        if not reaches:
            part.note(f"no platform has all that its labels ask ({scope}); it is left out")
        found = []
        for reach in reaches:
            target = {**base, "platforms": list(reach.platforms), "where": reach.where}
            if not self._draft.can_mean(target, part.place, part.name):
                continue
            layer = self._draft.layer(_slug(name, reach), description or f"Queries of Fleet: {name}.", target)
            discovery = {"discovery": list(reach.discovery)} if reach.discovery else {}
            if self._draft.pack(layer, name, description, {**about, **discovery}, part):
                found.append((layer, name))
        return found

    # -- packs

    def _take_pack(self, part: Part) -> None:
        name = part.text("name")
        is_off = part.flag("disabled")
        description = part.text("description")
        about: dict[str, Any] = {}
        reason = _system(part, about)
        teams: list[str] = []
        labels: list[str] = []
        if targets := part.part("targets", f"pack {name}: targets"):
            labels, teams = targets.texts("labels"), targets.texts("teams")
            targets.finish()
        queries = part.parts("queries", "query")
        part.ignore("id", "type")
        part.finish()
        if is_off or not (labels or teams) or reason:
            part.note(
                reason or f"it {'is disabled' if is_off else 'has no targets, so no host had it'}; it is left out"
            )
            self._mark(queries)
            return
        description = description or f"The pack {name} of Fleet."
        places = self._scoped(name, {}, Scope(tuple(labels)), about, description, part) if labels else []
        for team in teams:
            base = self._target(team, part)
            places += self._scoped(name, base, Scope(), about, description, part)
        if labels and teams:
            part.note("a node that both its labels and its teams mean has it once")
        for query in queries:
            self._take_pack_query(name, query, places)

    def _mark(self, queries: Sequence[Part]) -> None:
        for query in queries:
            if known := self._queries.get(("", query.text("query").strip())):
                known.is_in_a_pack = True

    def _take_pack_query(self, pack: str, part: Part, places: Sequence[tuple[DraftLayer, str]]) -> None:
        spoken = part.text("query").strip()
        name = part.text("name").strip() or spoken
        part.name = f"query {pack}/{name}"
        known = self._queries.get(("", spoken))
        if known is None:
            part.note(f"there is no query {spoken[:64]} among the files given; it is left out")
            return
        known.is_in_a_pack = True
        said: dict[str, Any] = {"query": known.sql}
        for key in ("interval", "shard"):
            if (number := part.number(key)) is not None:
                said[key] = number
        for key in ("snapshot", "removed", "denylist"):
            if (flag := part.flag(key)) is not None:
                said[key] = flag
        said |= _described(part)
        reason = _system(part, said)
        if version := part.text("version"):
            said["version"] = version
        part.ignore("id", "pack_id", "query_id", "query_name")
        part.finish()
        if reason:
            part.note(reason)
        for layer, key in () if reason else places:
            self._draft.pack_query(layer, key, name, said, part)


def _described(part: Part) -> dict[str, str]:
    text = part.text("description").strip()
    return {"description": text} if text else {}


def _system(part: Part, said: dict[str, Any]) -> str:
    """Put the platforms into a query or pack; answers with a reason if osquery runs on none of them."""
    spoken = [word for each in part.text("platform").split(",") if (word := each.strip().lower())]
    kept = [word for word in spoken if word not in ("chrome", "ios", "ipados", "android")]
    if spoken and not kept:
        return f"osquery does not run on {', '.join(spoken)}; it is left out"
    if kept != spoken:
        part.note("osquery does not run on all of these platforms; the others are kept", "platform")
    if kept and set(kept) != set(_SYSTEMS) and not {"all", "any"} & set(kept):
        said["platform"] = ",".join(kept)
    return ""


def _slug(name: str, reach: Reach) -> str:
    return "-".join([name[:50], *reach.platforms])
