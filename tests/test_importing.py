"""What an import makes of osquery's, Fleet's, Doorman's and Zentral's files, and that it drops nothing in silence."""

from __future__ import annotations

import contextlib
import copy
import json
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osqtwist.cli import importing as command
from osqtwist.cli.main import main
from osqtwist.configfolder import check_folder, read_folder
from osqtwist.configuration import NodeConfiguration
from osqtwist.importing import READERS, draft_of
from osqtwist.importing.draft import Draft, as_yaml
from osqtwist.importing.sources import SourceFile, Sources
from osqtwist.layers import parse_text
from osqtwist.tagging import parse_tagging
from osqtwist.targeting import NodeFacts
from tests.examples import examples


def imported(kind: str, files: dict[str, Any]) -> Draft:
    """The draft of some files; what is no text yet becomes JSON."""
    found = {}
    for name, said in files.items():
        text = textwrap.dedent(said) if isinstance(said, str) else json.dumps(said)
        found[f"/in/{name}"] = SourceFile(f"/in/{name}", name, text)
    return draft_of(kind, Sources(found))


def notes(draft: Draft) -> list[str]:
    return [str(problem) for problem in draft.notes.problems]


def written(draft: Draft, folder: Path) -> Path:
    for name, text in draft.files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


def outcome(draft: Draft, *tags: str, name: str = "n", platform: str = "linux") -> dict[str, Any]:
    """What a node gets of what was imported, without the server's own options."""
    facts = NodeFacts("1", name, platforms=frozenset({platform}), tags=frozenset(tags))
    with TemporaryDirectory() as folder:
        layers, _ = read_folder(written(draft, Path(folder)))
    found: dict[str, Any] = json.loads(NodeConfiguration(layers, {}).config_for(facts, None).body)
    return {key: value for key, value in found.items() if value}


# -- osquery

CONF = r"""
    // A comment, \
    and it goes on.
    {
      "options": {"custom_a": "x", "config_plugin": "filesystem", "distributed_interval": 30,
                  "enroll_tls_endpoint": "/x"},
      # Another.
      "schedule": {"info": {"query": "SELECT version \
    FROM osquery_info;", "interval": "60", "blacklist": 0, "snapshot": "true"}},
      "decorators": {"load": ["SELECT uuid FROM system_info;"],
                     "interval": {"3600": "SELECT total_seconds FROM uptime"}},
      "packs": {"own": {"discovery": ["SELECT 1 FROM users"], "queries": {"q": {"query": "SELECT 1", "interval": 5}}},
                "far": "/etc/osquery/packs/far.conf", "gone": "/etc/osquery/packs/gone.conf"},
      "file_paths": {"etc": ["/etc/%%"]}, "file_accesses": ["etc"],
      "views": {"v": "SELECT 1 AS a"}
    }
"""
FAR = {"platform": "linux", "shard": 50, "queries": {"f": {"query": "SELECT a FROM v", "interval": 10, "value": "why"}}}


def test_osquery_configurations_and_their_packs() -> None:
    """Comments, lines that go on, packs in files that were given; what is for a flagfile is not taken, and noted."""
    draft = imported("osquery", {"osquery.conf": CONF, "packs/far.conf": FAR, "packs/alone.conf": FAR | {"shard": 5}})
    found = outcome(draft)
    assert found["schedule"] == {
        "info": {
            "query": "SELECT version FROM osquery_info;",
            "interval": 60,
            "denylist": False,
            "snapshot": True,
        }
    }
    assert found["packs"]["own"]["discovery"] == ["SELECT 1 FROM users"]
    assert found["packs"]["far"] == FAR
    assert found["packs"]["alone"]["shard"] == 5
    assert found["options"] == {"custom_a": "x"}
    assert found["decorators"]["interval"] == {"3600": ["SELECT total_seconds FROM uptime"]}
    assert (found["file_paths"], found["file_accesses"]) == ({"etc": ["/etc/%%"]}, ["etc"])
    assert [note.removeprefix("osquery.conf: ")[:66] for note in notes(draft)] == [
        "option config_plugin: osquery takes it from its command line only;",
        "option distributed_interval: reads are held here, so 1 is served a",
        "option enroll_tls_endpoint: osquery takes it from its command line",
        "packs: gone: the pack's file /etc/osquery/packs/gone.conf is not a",
    ]


def test_osquery_packs_by_a_pattern() -> None:
    """As osquery takes "*": each file is a pack of its own name."""
    files = {"a.conf": {"packs": {"*": "/etc/osquery/packs/p*.conf"}}, "packs/p1.conf": FAR, "packs/p2.conf": FAR}
    draft = imported("osquery", files | {"packs/q.conf": {"queries": {}}})
    assert set(outcome(draft)["packs"]) == {"p1", "p2"}


def test_what_osquery_would_refuse_is_left_out_with_a_note() -> None:
    """By itself, not with all that stands beside it."""
    good = {"query": "SELECT 1", "interval": 60}
    schedule = {
        "good": good,
        "never": good | {"interval": 0},
        "often": good | {"interval": "often"},
        "wrong.one": good | {"query": "SELECT nmae FROM users"},
        "query.kept": good,
        "empty": {"interval": 60},
        "more": good | {"extra": 1},
    }
    packs = {
        "main": {"queries": {"q": good}},
        "wide": {"discovery": ["SELEC 1"], "queries": {"q": good}},
        "odd": {"mystery": 1, "queries": {"q": good, "bad": {"query": "SELEC"}, "none": 5}},
    }
    conf = {"schedule": schedule, "packs": packs, "decorators": {"load": ["SELEC", "SELECT 1"]}, "zzz": 1}
    draft = imported("osquery", {"a.conf": conf})
    found = outcome(draft)
    # An interval that is no number is left out, and osquery's own default takes its place.
    assert (set(found["schedule"]), set(found["packs"])) == ({"good", "often", "more"}, {"odd"})
    assert set(found["packs"]["odd"]["queries"]) == {"q"}
    assert found["decorators"] == {"load": ["SELECT 1"]}
    said = "\n".join(notes(draft))
    for words in (
        "query never: it is 0",
        "query often: interval: it is text; it must be a whole number",
        "query wrong.one: column 8: there is no column nmae",
        "query query.kept: osquery keeps data",
        "query empty: it must be SQL",
        "query more: extra: osquery knows no such key of a query",
        "pack main: a pack named main",
        "pack wide: discovery: ",
        "pack odd: mystery: ",
        "query odd/bad: ",
        "none: it is a number; it must be an object",
        "decorators: load: ",
        "a.conf: zzz: osquery knows no such key",
    ):
        assert words in said, f"{words} is not in\n{said}"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.conf", '{\n"a": 1,\n', "a.conf: line 3: it cannot be read: "),
        ("a.conf", "5", "a.conf: it is no"),
        ("a.yaml", "a: !!python/name:os.system", "a.yaml: line 1: it cannot be read: "),
        ("a.yaml", "a: &a [*a]", "nested too deeply"),
    ],
)
@pytest.mark.parametrize("kind", READERS)
def test_what_cannot_be_read_is_noted(kind: str, name: str, text: str, words: str) -> None:
    """And the other files are taken none the less."""
    draft = imported(kind, {name: text})
    assert words in notes(draft)[0].replace("it is nothing", "it is no")


# -- Fleet

FLEET = {
    "default.yml": """
        org_settings:
          secrets:
            - secret: hunter2
          server_settings: {server_url: https://fleet.example.com}
        agent_options:
          path: ./lib/options.yml
        labels:
          - paths: ./lib/labels/*.yml
        queries:
          - path: ./lib/queries.yml
          - name: somewhere
            query: SELECT model FROM usb_devices;
            interval: 300
            platform: darwin,linux,chrome
            min_osquery_version: "5.4.0"
            logging: differential
            automations_enabled: true
            labels_include_any: [Old Macs, Debians]
        policies:
          - name: FileVault
            query: SELECT 1
        controls:
          scripts:
            - path: ./lib/script.yml
        """,
    "lib/options.yml": """
        config:
          options: {logger_tls_endpoint: /api/osquery/log, pack_delimiter: /, custom_a: 1}
        overrides:
          platforms:
            ubuntu: {options: {custom_a: 2}}
        command_line_flags: {verbose: true}
        """,
    "lib/script.yml": "x: 1",
    "lib/queries.yml": """
        - name: usb
          query: |
            SELECT model
            FROM usb_devices;
          interval: 60
          platform: darwin
          automations_enabled: true
        - name: live
          query: SELECT 1
        - name: nowhere
          query: SELECT 1
          interval: 60
          discard_data: true
        - name: report
          query: SELECT 1
          interval: 60
        - name: phones
          query: SELECT 1
          interval: 60
          platform: ios
          automations_enabled: true
        """,
    "lib/labels/all.yml": """
        - name: Old Macs
          query: SELECT 1 FROM os_version WHERE major <= 14 -- old
          platform: darwin
        - name: Debians
          query: SELECT 1 FROM deb_packages;
        - name: Canaries
          label_membership_type: manual
          hosts: [c1.example.com]
        - name: Sales
          label_membership_type: host_vitals
          criteria: {vital: department, value: Sales}
        """,
    "fleets/web.yml": """
        name: Web Servers
        settings:
          secrets: [{secret: geheim}]
        reports:
          - name: quiet
            query: SELECT 1 FROM time
            interval: 90
            automations_enabled: true
            logging: differential_ignore_removals
          - name: canary
            query: SELECT 1
            interval: 90
            automations_enabled: true
            labels_include_all: [Canaries]
            labels_exclude_any: [Old Macs]
        agent_options:
          config: {options: {custom_a: 3}}
        """,
}


def test_fleets_queries() -> None:
    """Interval, platform, version and way of logging; those that Fleet ran nowhere are noted, and no secret is told."""
    draft = imported("fleet", FLEET)
    pack = outcome(draft)["packs"]["Global"]
    usb = {"query": "SELECT model\nFROM usb_devices;", "interval": 60, "platform": "darwin", "snapshot": True}
    assert pack == {"queries": {"usb": usb, "report": {"query": "SELECT 1", "interval": 60, "snapshot": True}}}
    quiet = outcome(draft, "team:web-servers")["packs"]["Web Servers"]["queries"]["quiet"]
    assert quiet == {"query": "SELECT 1 FROM time", "interval": 90, "removed": False}
    said = "\n".join(notes(draft))
    for words in (
        "default.yml: line 15: query somewhere: platform: osquery does not run on all of these",
        "default.yml: line 21: policy FileVault: policies have no counterpart",
        "default.yml: line 3: org_settings: secrets: enroll secrets stand",
        "default.yml: line 5: org_settings: server_settings: there is no counterpart",
        "default.yml: line 23: controls: there is no counterpart",
        "lib/options.yml: line 3: option logger_tls_endpoint: the flagfile says",
        "lib/options.yml: line 7: agent options: command_line_flags: put these into the flagfile",
        "lib/queries.yml: line 9: query live: it has no interval",
        "lib/queries.yml: line 11: query nowhere: automations_enabled is false and discard_data true",
        "lib/queries.yml: line 15: query report: Fleet kept its rows for a report only",
        "lib/queries.yml: line 18: query phones: osquery does not run on ios",
        "lib/labels/all.yml: line 7: label Canaries: its hosts are matched by their names",
        "lib/labels/all.yml: line 12: label Sales: criteria: ",
        "team:web-servers stands for the team Web Servers",
    ):
        assert words in said, f"{words} is not in\n{said}"
    everything = said + "".join(draft.files().values())
    assert not any(secret in everything for secret in ("hunter2", "geheim"))
    assert "script.yml" not in said


def test_fleets_options_take_each_others_place() -> None:
    """Those of a team, and those of a platform, stand for all others; nothing of these is left."""
    draft = imported("fleet", FLEET)
    assert outcome(draft)["options"] == {"pack_delimiter": "/", "custom_a": 1}
    assert outcome(draft, platform="ubuntu")["options"] == {"custom_a": 2}
    assert outcome(draft, "team:web-servers", platform="ubuntu")["options"] == {"custom_a": 3}


def test_fleets_labels_of_sql_are_discovery_queries() -> None:
    """Any of several: only what a platform can answer is asked there, since a table that is missing fails it all."""
    draft = imported("fleet", FLEET)
    name = "Global (Old Macs or Debians)"
    assert outcome(draft, platform="darwin")["packs"][name]["discovery"] == [
        "SELECT 1 FROM os_version WHERE major <= 14 -- old"
    ]
    linux = outcome(draft)["packs"][name]
    assert linux["discovery"] == ["SELECT 1 FROM deb_packages"]
    assert linux["queries"]["somewhere"] == {
        "query": "SELECT model FROM usb_devices;",
        "interval": 300,
        "platform": "darwin,linux",
        "version": "5.4.0",
    }
    assert name not in outcome(draft, platform="windows")["packs"]


def test_fleets_labels_of_hosts_and_none_of_some() -> None:
    """Names are a target; that a label must not fit is asked only where it can fit."""
    draft = imported("fleet", FLEET)
    name = "Web Servers (Canaries, not Old Macs)"
    assert name not in outcome(draft, "team:web-servers")["packs"]
    assert name not in outcome(draft, name="c1.example.com")["packs"]
    found = outcome(draft, "team:web-servers", name="c1.example.com")["packs"][name]
    assert "discovery" not in found
    (discovery,) = outcome(draft, "team:web-servers", name="c1.example.com", platform="darwin")["packs"][name][
        "discovery"
    ]
    assert discovery == "SELECT 1 WHERE NOT EXISTS (\nSELECT 1 FROM os_version WHERE major <= 14 -- old\n)"


def query(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "query": "SELECT 1", "interval": 60, "automations_enabled": True} | more


@pytest.mark.parametrize(
    ("labels", "discovery", "tags", "platform"),
    [
        ({"labels_include_any": ["All Hosts"]}, [], (), "linux"),
        ({"labels_include_any": ["macOS", "Ubuntu Linux"]}, [], (), "ubuntu"),
        (
            {"labels_include_any": ["A", "B"]},
            ["SELECT 1 WHERE EXISTS (\nSELECT 2\n) OR EXISTS (\nSELECT 3\n)"],
            (),
            "linux",
        ),
        ({"labels_include_all": ["A", "B"]}, ["SELECT 2", "SELECT 3"], (), "linux"),
        ({"labels_include_any": ["A", "macOS"]}, [], ("label:a",), "linux"),
        ({"labels_include_all": ["A", "macOS"]}, ["SELECT 2"], (), "darwin"),
        ({"labels_include_any": ["unheard"]}, [], ("label:unheard",), "linux"),
        ({"labels_exclude_any": ["unheard"]}, [], (), "linux"),
        ({"labels_include_any": ["Broken"]}, [], ("label:broken",), "linux"),
    ],
)
def test_how_fleets_labels_are_said(labels: Any, discovery: list[str], tags: tuple[str, ...], platform: str) -> None:
    """SQL in discovery, systems in the target, all others as tags that operators give."""
    found = {"A": "SELECT 2;", "B": "SELECT 3", "Broken": "SELEC"}
    known = [{"name": name, "query": sql, "label_membership_type": "dynamic"} for name, sql in found.items()]
    draft = imported("fleet", {"default.json": {"labels": known, "queries": [query("q", **labels)]}})
    (pack,) = outcome(draft, *tags, platform=platform)["packs"].values()
    assert (pack.get("discovery", []), set(pack["queries"])) == (discovery, {"q"})
    if tags:
        assert "packs" not in outcome(draft, platform=platform)
        assert any(f"give {tags[0]} to its nodes" in note for note in notes(draft)) is not (
            "tags.toml" in draft.files()
        )


def test_a_label_of_sql_beside_others_is_a_tag_that_a_query_gives() -> None:
    """Asked only where it can be answered, and whatever letters it has."""
    sql = "SELECT 1 FROM deb_packages WHERE name = '\x7f\"\\\n' -- last"
    known = [{"name": "Debian", "query": sql + ";", "label_membership_type": "dynamic"}]
    queries = [
        query("q", labels_include_any=["Debian", "macOS"]),
        query("r", labels_include_any=["Debian", "MS Windows"]),
    ]
    draft = imported("fleet", {"default.json": {"labels": known, "queries": queries}})
    (tagged,) = parse_tagging(draft.files()["tags.toml"]).queries
    assert (tagged.tag, tagged.sql, tagged.where) == ("label:debian", sql, "platform:linux")
    assert not notes(draft)


def test_names_of_tag_queries_are_kept() -> None:
    """No query that is imported takes one."""
    draft = imported("osquery", {"a.conf": {"schedule": {"osqtwist_tag:x": {"query": "SELECT 1", "interval": 60}}}})
    assert draft.files() == {}
    assert "tag queries have such names" in notes(draft)[0]


def test_fleets_older_documents() -> None:
    """kind query, pack, label, team, options: packs take their SQL from queries, and are for any of their labels."""
    draft = imported(
        "fleet",
        {
            "fleet.yml": """
                apiVersion: v1
                kind: pack
                spec:
                  name: monitoring
                  description: What it costs
                  targets: {labels: [MS Windows, All Linux]}
                  queries:
                    - {query: info, name: info snapshot, interval: 60, snapshot: true, shard: 5, version: 4.0.0}
                    - {query: info, interval: 90, removed: false, denylist: false, platform: linux}
                    - {query: missing, interval: 60}
                ---
                apiVersion: v1
                kind: pack
                spec: {name: off, disabled: true, targets: {labels: [macOS]}, queries: [{query: lonely, interval: 5}]}
                ---
                kind: query
                spec: {name: info, query: SELECT * FROM osquery_info}
                ---
                kind: query
                spec: {name: lonely, query: SELECT 1}
                ---
                kind: team
                spec:
                  team: {name: T, agent_options: {config: {options: {custom_a: 1}}}, secrets: [{secret: hunter2}]}
                ---
                kind: options
                spec: {config: {options: {custom_a: 2}}, overrides: {platforms: {debian: {options: {custom_a: 3}}}}}
                ---
                kind: enroll_secret
                spec: {secrets: [{secret: hunter2}]}
                """
        },
    )
    pack = outcome(draft, platform="linux")["packs"]["monitoring"]["queries"]
    sql = "SELECT * FROM osquery_info"
    snapshot = {"query": sql, "interval": 60, "snapshot": True, "shard": 5, "version": "4.0.0"}
    again = {"query": sql, "interval": 90, "removed": False, "denylist": False, "platform": "linux"}
    assert pack == {"info snapshot": snapshot, "info": again}
    assert "packs" not in outcome(draft, platform="darwin")
    assert [outcome(draft, *tags)["options"]["custom_a"] for tags in ((), ("team:t",))] == [2, 1]
    said = "\n".join(notes(draft))
    for words in (
        "fleet.yml: line 11: query monitoring/missing: there is no query missing",
        "fleet.yml: line 15: pack off: it is disabled",
        "enroll secrets stand",
        "Fleet meant debian itself",
    ):
        assert words in said, f"{words} is not in\n{said}"
    assert "hunter2" not in said
    assert "query info" not in said, "a query of a pack needs no interval of its own"


def test_fleets_files_that_were_not_given() -> None:
    """Nothing is read that the operator did not name, and a file of a library that was is taken for itself."""
    draft = imported(
        "fleet", {"teams/a.yml": "name: A\nqueries:\n  - path: ../../etc/passwd.yml\n  - paths: ../l/*.yml"}
    )
    said = "\n".join(notes(draft))
    assert "teams/a.yml: line 3: query: ../../etc/passwd.yml is not among the files given" in said
    assert "../l/*.yml is not among" in said
    alone = imported(
        "fleet", {"q.yml": "- {name: q, query: SELECT 1, interval: 60}\n- {name: p, resolution: x}\n- {x: 1}"}
    )
    assert set(outcome(alone)["packs"]["Global"]["queries"]) == {"q"}
    assert ["policies" in note or "nothing of Fleet's" in note for note in notes(alone)].count(True) == 2


def test_fleets_teams_that_look_alike_stay_apart() -> None:
    """Each has a tag of its own."""
    teams = {f"{number}.json": {"name": name, "queries": [query(name)]} for number, name in enumerate(["A b", "a-B"])}
    draft = imported("fleet", teams)
    assert [list(outcome(draft, tag)["packs"]) for tag in ("team:a-b", "team:a-b-2")] == [["A b"], ["a-B"]]


def test_variables_are_not_filled_in() -> None:
    """The environment is not looked at; that is said."""
    draft = imported(
        "fleet", {"a.json": {"queries": [query("q", query="SELECT '$HOME'"), query("r", query="SELECT '$.a'")]}}
    )
    assert ["$HOME is not filled in" in note for note in notes(draft)] == [True]


# -- Doorman


def test_doormans_rows() -> None:
    """What has no tag was for nobody; the tag discovery makes a query one of discovery; !! parts paths."""
    rows = {
        "packs": [
            {
                "id": 1,
                "name": "p",
                "platform": "all",
                "version": None,
                "shard": 10,
                "tags": ["web", "db"],
                "queries": ["a", "is it one", "gone"],
            },
            {"name": "untagged", "tags": [], "queries": ["a"]},
        ],
        "queries": [
            {"name": "a", "sql": "SELECT 1", "interval": 60, "platform": "all", "removed": False, "tags": []},
            {"name": "is it one", "sql": "SELECT 2", "interval": 60, "tags": ["discovery"]},
            {"name": "alone", "sql": "SELECT 3", "interval": 60, "tags": ["web", "not a tag"], "shard": None},
            {"name": "nobody", "sql": "SELECT 4", "interval": 60, "tags": []},
        ],
        "file_paths": [{"category": "etc", "target_paths": "/etc/a!!/etc/b", "tags": ["web"]}],
        "rules": [{"name": "alert"}],
    }
    draft = imported("doorman", {"dump.json": rows})
    assert outcome(draft, "db") == {
        "packs": {
            "p": {
                "shard": 10,
                "discovery": ["SELECT 2"],
                "queries": {"a": {"query": "SELECT 1", "interval": 60, "removed": False}},
            }
        }
    }
    assert outcome(draft, "doorman:not-a-tag")["schedule"] == {"alone": {"query": "SELECT 3", "interval": 60}}
    assert outcome(draft, "web")["file_paths"] == {"etc": ["/etc/a", "/etc/b"]}
    assert outcome(draft) == {}
    said = "\n".join(notes(draft))
    for words in (
        "dump.json: rules: there is no counterpart",
        "pack p: it names a query that is not among the files",
        "pack untagged: it has no tag",
        "query nobody: it has no tag",
        "'not a tag' cannot be a tag here; doorman:not-a-tag stands",
    ):
        assert words in said, f"{words} is not in\n{said}"


def test_doormans_packs_and_node_configurations() -> None:
    """As one uploads them, and as a node gets them: both say no tags, which is noted."""
    pack = {"queries": {"q": {"query": "SELECT 1", "interval": 60, "version": None, "value": None}}}
    draft = imported("doorman", {"hygiene.json": pack, "tagged.json": pack | {"tags": ["t"]}})
    assert set(outcome(draft)["packs"]) == {"hygiene"}
    assert set(outcome(draft, "t")["packs"]) == {"hygiene", "tagged"}
    assert [note[:57] for note in notes(draft)] == ["hygiene.json: pack hygiene: its tags are not in the file;"]
    node = {"options": {"custom_a": 1}, "file_paths": {"a": ["/a"]}, "schedule": pack["queries"], "packs": {"p": pack}}
    found = outcome(imported("doorman", {"config.json": node | {"node_invalid": False}}))
    assert set(found) == {"options", "file_paths", "schedule", "packs"}


# -- Zentral

ZENTRAL = {
    "configurations.json": [
        {
            "id": 1,
            "name": "Macs",
            "inventory": True,
            "options": {"custom_a": 1, "config_refresh": 9},
            "file_categories": [7],
            "automatic_table_constructions": [8],
            "inventory_interval": 600,
        },
        {"id": 2, "name": "Others", "inventory": False, "options": {}},
    ],
    "packs.json": {
        "count": 2,
        "next": None,
        "previous": None,
        "results": [
            {
                "id": 3,
                "name": "First Pack",
                "slug": "first-pack",
                "discovery_queries": ["SELECT 1 FROM users"],
                "shard": 50,
                "event_routing_key": "hot",
            },
            {"id": 4, "name": "Unused", "slug": "unused", "discovery_queries": []},
        ],
    },
    "queries.json": [
        {
            "id": 5,
            "name": "info",
            "sql": "SELECT * FROM osquery_info",
            "platforms": ["darwin", "linux"],
            "tag": 11,
            "minimum_osquery_version": "5.1.0",
            "compliance_check_enabled": True,
            "version": 3,
            "scheduling": {
                "pack": 3,
                "interval": 60,
                "log_removed_actions": False,
                "snapshot_mode": True,
                "can_be_denylisted": False,
            },
        },
        {"id": 6, "name": "loose", "sql": "SELECT 1", "platforms": [], "scheduling": None},
    ],
    "configuration_packs.json": [{"id": 9, "configuration": 1, "pack": 3, "tags": [11, 12], "excluded_tags": [13]}],
    "tags.json": [
        {"id": number, "name": name, "color": "0"} for number, name in ((11, "Web"), (12, "Db"), (13, "Old"))
    ],
    "categories.json": [
        {
            "id": 7,
            "name": "Etc",
            "slug": "etc",
            "file_paths": ["/etc/%%"],
            "exclude_paths": [],
            "file_paths_queries": [],
            "access_monitoring": True,
        }
    ],
    "atcs.json": [
        {
            "id": 8,
            "name": "Rules",
            "table_name": "rules",
            "query": "SELECT * FROM r",
            "path": "/r.db",
            "columns": ["a"],
            "platforms": ["darwin"],
        }
    ],
}


def test_zentrals_api() -> None:
    """A tag stands for each configuration; packs are for some tags and not others; ATCs for their platforms."""
    draft = imported("zentral", ZENTRAL)
    found = outcome(draft, "configuration:macs", "zentral:db", platform="darwin")
    assert found["packs"]["first-pack"] == {
        "discovery": ["SELECT 1 FROM users"],
        "shard": 50,
        "queries": {
            "info": {
                "query": "SELECT * FROM osquery_info",
                "interval": 60,
                "version": "5.1.0",
                "platform": "darwin,linux",
                "removed": False,
                "snapshot": True,
                "denylist": False,
            }
        },
    }
    assert found["options"] == {"custom_a": 1, "pack_delimiter": "/"}
    assert (found["file_paths"], found["file_accesses"]) == ({"etc": ["/etc/%%"]}, ["etc"])
    assert found["auto_table_construction"] == {
        "rules": {"query": "SELECT * FROM r", "path": "/r.db", "columns": ["a"]}
    }
    assert "auto_table_construction" not in outcome(draft, "configuration:macs")
    for tags in ([], ["configuration:macs"], ["zentral:web"], ["configuration:macs", "zentral:web", "zentral:old"]):
        assert "packs" not in outcome(draft, *tags), tags
    assert outcome(draft, "configuration:others")["options"] == {"pack_delimiter": "/"}
    (tagged,) = parse_tagging(draft.files()["tags.toml"]).queries
    assert (tagged.tag, tagged.sql, tagged.interval) == ("zentral:web", "SELECT * FROM osquery_info", 60)
    assert tagged.where == 'platform:"darwin" or platform:"linux"'
    said = "\n".join(notes(draft))
    for words in (
        "query info: compliance_check_enabled: compliance checks have no counterpart",
        "query loose: it is in no pack",
        "pack First Pack: event_routing_key: what it routed by 'hot'",
        "pack Unused: no configuration has it",
        "configuration Macs: inventory: Zentral's own queries",
        "option config_refresh: osquery takes it from its command line only",
        "configuration Macs: a tag stands for each configuration: give configuration:macs",
    ):
        assert words in said, f"{words} is not in\n{said}"


def test_zentrals_pack_files() -> None:
    """In any of the formats that it takes."""
    files = {
        "a.conf": '# comment\n{"queries": {"q": {"query": "SELECT 1", "interval": 60, "denylist": false}}}',
        "b.yaml": "event_routing_key: hot\nqueries:\n  q: {query: SELECT 1, interval: 60, can_be_denylisted: false}\n",
    }
    draft = imported("zentral", files)
    packs = outcome(draft)["packs"]
    assert packs["a"]["queries"] == packs["b"]["queries"]
    (note,) = notes(draft)
    assert note.startswith("b.yaml: line 1: pack b: event_routing_key: what it routed by 'hot'")
    one = {key: ZENTRAL[key] for key in ("packs.json", "queries.json")}
    assert set(outcome(imported("zentral", one))["packs"]) == {"first-pack"}


LETTERS = st.text(st.characters(exclude_categories=["Cs"])) | st.text(
    "\r\n\t \x85\u2028\ufeff\x00#-:|>'\"%&*!?{}[],\\ab0.=<~"
)


@given(LETTERS, LETTERS)
def test_whatever_letters_there_are_they_stay(name: str, sql: str) -> None:
    """Names and SQL are read again as they were, line breaks of all kinds and YAML's own signs among them."""
    value = {name: {"query": sql, "also": [sql, name]}}
    assert parse_text("a.yaml", as_yaml(value)) == value


# -- files


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.yml", ["a.yml"]),
        ("./lib/*.yml", ["lib/b.yml"]),
        ("lib/**/*.yml", ["lib/b.yml", "lib/x/c.yml", "lib/x/y/d.yml"]),
        ("../in/l?b/[a-c].yml", ["lib/b.yml"]),
        ("**", ["a.yml", "lib/b.yml", "lib/x/c.yml", "lib/x/y/d.yml"]),
        ("../*/a.yml", ["a.yml"]),
        ("/etc/*", []),
    ],
)
def test_patterns_of_paths(pattern: str, names: list[str]) -> None:
    """Relative to the file that says them, and only among the files given."""
    files = [SourceFile(f"/in/{name}", name, "") for name in ("a.yml", "lib/b.yml", "lib/x/c.yml", "lib/x/y/d.yml")]
    sources = Sources({file.path: file for file in files})
    assert [file.name for file in sources.matching(files[0], pattern)] == names


def test_a_pattern_takes_no_longer_than_it_must() -> None:
    """Many stars against long names, in a folder of many files."""
    files = [SourceFile(f"/{'a' * 200}/{number}{'a' * 200}.yml", "", "") for number in range(500)]
    sources = Sources({file.path: file for file in files})
    began = time.process_time()
    assert sources.named("/" + "*a" * 100 + "b/**/" + "*a" * 100 + "b") == []
    assert time.process_time() - began < 10


# -- whatever is given

GIVEN: dict[str, dict[str, Any]] = {
    "osquery": {
        "far.json": FAR,
        "a.json": {
            "schedule": {"q": {"query": "SELECT 1", "interval": 60}},
            "packs": {"p": {"queries": {"r": {"query": "SELECT 1"}}}},
            "options": {"custom_a": 1},
            "decorators": {"load": ["SELECT 1"], "interval": {"60": ["SELECT 1"]}},
            "file_paths": {"a": ["b"]},
            "views": {"v": "SELECT 1"},
        },
    },
    "fleet": {name.replace(".yml", ".yaml"): text for name, text in FLEET.items()},
    "doorman": {
        "a.json": {
            "packs": [
                {"name": "p", "tags": ["t"], "queries": [{"name": "q", "sql": "SELECT 1", "interval": 60, "tags": []}]}
            ],
            "queries": [{"name": "a", "sql": "SELECT 1", "interval": 60, "tags": ["t"]}],
            "file_paths": [{"category": "c", "target_paths": "a", "tags": ["t"]}],
        }
    },
    "zentral": ZENTRAL,
}


def objects_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        yield path
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from objects_in(each, (*path, key))


def value_of(said: Any) -> Any:
    return yaml.safe_load(textwrap.dedent(said)) if isinstance(said, str) else copy.deepcopy(said)


CASES = [
    (kind, name, path)
    for kind, files in GIVEN.items()
    for name, said in files.items()
    for path in objects_in(value_of(said))
    # Of what is left out as a whole nothing more is said.
    if not {"policies", "controls", "secrets", "server_settings", "criteria", "command_line_flags"} & set(path)
    and name not in ("lib/script.yaml", "tags.json")
    and (name, path) != ("queries.json", (1,))
]


@pytest.mark.parametrize(("kind", "name", "path"), CASES, ids=str)
def test_no_key_is_dropped_in_silence(kind: str, name: str, path: tuple[Any, ...]) -> None:
    """A key that nobody knows, put into any object, is noted with its name, or it is in what is written."""
    files = {each.replace(".yml", ".yaml"): value_of(said) for each, said in GIVEN[kind].items()}
    holder = files[name]
    for key in path:
        holder = holder[key]
    holder["zzz_new"] = "SELECT 1"
    as_text = {each: json.dumps(said).replace(".yml", ".yaml") for each, said in files.items()}
    draft = imported(kind, as_text)
    assert "zzz_new" in "\n".join([*notes(draft), *draft.files().values()])


WORDS = st.sampled_from(
    # As text: one of them a line would be a page.
    """
    name query queries schedule packs options interval platform shard discovery spec kind labels hosts
    path agent_options config overrides platforms tags sql scheduling pack id configuration inventory
    discovery_queries table_name file_paths decorators load targets label_membership_type
    labels_include_any labels_exclude_any team target_paths category results count color
    access_monitoring columns auto_table_construction event_routing_key logging *
    """.split()  # noqa: SIM905
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 70),
    st.floats(0, 9),
    st.sampled_from(
        [
            "SELECT 1",
            "SELECT x FROM users",
            "SELEC",
            "pack",
            "query",
            "label",
            "team",
            "q",
            "a.yaml",
            "darwin",
            "",
            "\x00\x1b[2J",
            "main",
            "query.x",
            "\U0001f4bb",
            "y" * 300,
            "*",
            "dynamic",
            "manual",
        ]
    ),
)
THINGS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | LEAVES.map(str), inner, max_size=5),
    max_leaves=25,
)


def served_without_error(draft: Draft) -> bool:
    with TemporaryDirectory() as folder:
        if not draft.files():
            return True
        return [str(each) for each in check_folder(written(draft, Path(folder))) if each.severity == "error"] == []


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=examples(40), deadline=None, suppress_health_check=SLOW)
@given(st.sampled_from(sorted(READERS)), st.lists(THINGS, min_size=1, max_size=3))
def test_whatever_is_given_what_is_written_can_be_served(kind: str, things: list[Any]) -> None:
    """Nothing makes an import fail, and osqtwist config check finds no error in what it writes."""
    files = {f"{letter}.yaml": json.dumps(thing) for letter, thing in zip("abc", things, strict=False)}
    assert served_without_error(imported(kind, files))


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places_in(each, (*path, key))


PLACES = [
    (kind, name, path) for kind, files in GIVEN.items() for name in files for path in places_in(value_of(files[name]))
]


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None, suppress_health_check=SLOW)
@given(st.sampled_from(sorted(READERS)), st.data())
def test_whatever_is_wrong_what_is_written_can_be_served(kind: str, data: st.DataObject) -> None:
    """The same, of files that are right but for a few values."""
    files = {name.replace(".yml", ".yaml"): value_of(said) for name, said in GIVEN[kind].items()}
    places = st.sampled_from([(name, path) for each, name, path in PLACES if each == kind])
    for name, path in data.draw(st.lists(places, min_size=1, max_size=4)):
        holder: Any = files[name]
        # What was replaced before may have taken the place away.
        with contextlib.suppress(LookupError, TypeError):
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = data.draw(THINGS)
    texts = {name: json.dumps(said).replace(".yml", ".yaml") for name, said in files.items()}
    assert served_without_error(imported(kind, texts))


# -- the command


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture
def given_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "a.conf").write_text('{"schedule": {"q": {"query": "SELECT 1", "interval": 60}}}')
    return folder


def test_a_whole_import_is_0(given_folder: Path, tmp_path: Path) -> None:
    """And its folder is good."""
    into = tmp_path / "into"
    done = run("config", "import", "--from", "osquery", "--into", into, given_folder)
    assert (done.exit_code, sorted(path.name for path in into.iterdir())) == (0, ["10-a.yaml"])
    assert "1 files; no warnings" in done.output
    assert run("config", "check", into).exit_code == 0


def test_warnings_are_4(given_folder: Path, tmp_path: Path) -> None:
    """On standard error for people, all of it as one value for programs."""
    (given_folder / "b.conf").write_text('{"schedule": {"r": {"query": "SELECT 1", "interval": 60}}, "zzz": 1}')
    (given_folder / "c.conf").write_bytes(b"\xff")
    done = run("--json", "config", "import", "--from", "osquery", "--into", tmp_path / "into", given_folder)
    assert done.exit_code == 4
    found = json.loads(done.stdout)
    assert found["files"] == ["10-a.yaml", "11-b.yaml"]
    assert [(each["where"], each["text"][:12]) for each in found["warnings"]] == [
        ("", "it is not UT"),
        ("zzz", "osquery know"),
    ]


def test_nothing_is_written_over(given_folder: Path, tmp_path: Path) -> None:
    """Not even a link, unless --force says so; and then nothing is followed."""
    into = tmp_path / "into"
    into.mkdir()
    (into / "10-a.yaml").symlink_to(tmp_path / "elsewhere")
    done = run("config", "import", "--from", "osquery", "--into", into, given_folder)
    assert (done.exit_code, "10-a.yaml is there already; nothing was written" in done.output) == (1, True)
    assert run("config", "import", "--from", "osquery", "--into", into, "--force", given_folder).exit_code == 0
    assert not (tmp_path / "elsewhere").exists()
    assert (into / "10-a.yaml").is_file()


def test_nothing_to_import_is_1(tmp_path: Path) -> None:
    """Nothing is written."""
    (tmp_path / "a.conf").write_text("{}")
    done = run("config", "import", "--from", "zentral", "--into", tmp_path / "into", tmp_path / "a.conf")
    assert (done.exit_code, (tmp_path / "into").exists()) == (1, False)
    assert "nothing of zentral's was found" in done.output


@pytest.mark.slow
def test_what_is_too_much_is_refused(given_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too large a file, too many, and more than a node can take."""
    words = ["config", "import", "--from", "osquery", "--into", tmp_path / "into", given_folder]
    body = {"query": f"SELECT '{'x' * 60_000}'", "interval": 60}
    (given_folder / "b.conf").write_text(json.dumps({"schedule": {f"q{number}": body for number in range(20)}}))
    done = run(*words)
    assert (done.exit_code, "bytes long" in done.output, (tmp_path / "into").exists()) == (1, True, False)
    # Limits that a test can reach; the code they are in is as it is.
    monkeypatch.setattr(command, "MAX_FILES", 1)
    assert "more than 1 files" in run(*words).output
    monkeypatch.setattr(command, "MAX_FILE_BYTES", 2**20)
    monkeypatch.setattr(command, "MAX_FILES", 9)
    assert "too large" in run(*words).output


def test_links_out_of_the_folder_are_not_followed(given_folder: Path, tmp_path: Path) -> None:
    """Only what is below the folder that was named is read."""
    (tmp_path / "secret.conf").write_text('{"schedule": {"secret": {"query": "SELECT 1", "interval": 60}}}')
    (given_folder / "link.conf").symlink_to(tmp_path / "secret.conf")
    (given_folder / ".hidden.conf").write_text("{")
    into = tmp_path / "into"
    assert run("config", "import", "--from", "osquery", "--into", into, given_folder).exit_code == 0
    assert "secret" not in (into / "10-a.yaml").read_text()
