"""Targets: what operators and other servers write: expressions, SQL, configurations, settings."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Sequence

import yaml

from osqtwist.alertrule import BadAlertRule, read_rules
from osqtwist.canaryhealth import troubles
from osqtwist.configfiles import KeptFiles, is_layer, pack_path, read_content, unpacked
from osqtwist.denial import BadDenial, checked_value
from osqtwist.enrollsecret import parse_enroll_secrets
from osqtwist.expression import BadExpression, parse
from osqtwist.importing import READERS, draft_of
from osqtwist.importing.sources import SourceFile, Sources
from osqtwist.layers import BadConfiguration
from osqtwist.logbatch import LogBatch
from osqtwist.nodekey import parse_signing_keys
from osqtwist.query import QueryResult
from osqtwist.querycheck import check_queries
from osqtwist.resultexport import columns_of, csv_head, csv_lines
from osqtwist.rolloutplan import parse_plan
from osqtwist.routing import BadRoute, Route, RouteSettings
from osqtwist.settings import BadSetting, gather
from osqtwist.sinkinterfaces import BadSinkSetting
from osqtwist.sinksettings import read_sinks
from osqtwist.sqlcheck import UncheckedSQL, check_sql, tables_of
from osqtwist.sqltokens import tokenize
from osqtwist.storage.redis_url import BadRedisURL, parse_redis_url
from osqtwist.tagging import parse_tagging
from osqtwist.targeting import VOCABULARY, BadTarget, NodeFacts
from osqtwist.targeting import Target as NodeTarget
from osqtwist.wire import MalformedRequest, parse_log, rows_of
from tests.fuzz.target import Broken, Target, text_of

_FACTS = NodeFacts(
    "a" * 20,
    "node-1.example",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    frozenset({"linux"}),
    frozenset({"prod"}),
)


def _expression(data: bytes) -> None:
    text = text_of(data)
    try:
        found = parse(text, VOCABULARY)
    except BadExpression:
        return
    matched = found.matches(_FACTS.values)
    again = parse(str(found), VOCABULARY) if len(str(found)) <= 4096 else found
    if again.matches(_FACTS.values) != matched:
        raise Broken(f"written out it means something else: {found}")


def _target(data: bytes) -> None:
    kind, _, text = text_of(data).partition("\n")
    try:
        names = tuple(text.split("\n"))
        target = NodeTarget(where=text) if kind == "where" else NodeTarget(nodes=names, salt=kind)
    except BadTarget:
        return
    verdict = target.verdict(_FACTS)
    if verdict is not None and verdict != target.matches(_FACTS):
        raise Broken("the verdict of the kind is another than of the node")


def _sql(data: bytes) -> None:
    text = text_of(data)
    end = 0
    for token in tokenize(text):
        if token.start < end or text[token.start : token.end] != token.text:
            raise Broken("tokens overlap")
        end = token.end
    found = check_sql(text, ["linux"], lenient=True)
    try:
        if not tables_of(text) <= found.tables:
            raise Broken("the same text reads other tables")
    except UncheckedSQL:
        return


def _content(name: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        try:
            content = read_content(KeptFiles({name: text, "packs/p.conf": text, "tags.toml": ""}))
            check_queries(content.layers)
            if unpacked(content.packed()).digest != content.digest:
                raise Broken("what is kept of it is not what it was")
        except BadConfiguration as bad:
            if not bad.problems:
                raise Broken("refused without a reason") from None

    return read


def _toml(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for parser in (parse_tagging, parse_plan):
        try:
            parser(text)
        except BadConfiguration:
            continue


def _settings(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        options = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return
    try:
        found = gather(options, {})
        read_sinks(found.sink)
        read_rules(found.alert)
    except (BadSetting, BadSinkSetting, BadAlertRule):
        return


def _environment(data: bytes) -> None:
    pairs = (line.partition("=") for line in text_of(data).split("\n"))
    try:
        gather({}, {f"OSQTWIST_{name}": value for name, _, value in pairs if "\0" not in value and name != "SETTINGS"})
    except BadSetting:
        return


def _importer(kind: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        files = {f"/in/{name}": SourceFile(f"/in/{name}", name, text) for name in ("a.json", "b.yml")}
        made = draft_of(kind, Sources(files)).files()
        for name in made:
            if name.startswith("/") or ".." in name.split("/") or "\0" in name:
                raise Broken(f"a file would be written to {name!r}")
        layers = {name for name in made if is_layer(name)}
        for name in layers | ({"tags.toml"} & set(made)):
            if name.endswith((".yaml", ".yml")):
                yaml.safe_load(made[name])
        kept = {pack_path(name): text for name, text in made.items()}
        try:
            read_content(KeptFiles(kept))
        except BadConfiguration as bad:
            raise Broken(f"what was imported cannot be served: {bad.problems[0]}") from None

    return read


def _redis_url(data: bytes) -> None:
    text = text_of(data)
    # As it is, and as a password that begins and ends with a word that must not be seen again.
    for url in (text, f"redis://u:Hidden9{text}Hidden9@127.0.0.1:6379/0", f"sentinel://:Hidden9{text}Hidden9@h:1/m"):
        try:
            place = parse_redis_url(url)
        except BadRedisURL as problem:
            said = str(problem)
        else:
            said = f"{place} {place.name} {place!r}"
        if "Hidden9" in said and "Hidden9" not in text:
            raise Broken(f"a password is repeated: {said}")


def _small(data: bytes) -> None:
    kind, _, text = text_of(data).partition("\n")
    try:
        match kind:
            case "secrets":
                parse_enroll_secrets(text)
            case "keys":
                parse_signing_keys(text)
            case "serial" | "fingerprint" | "identity":
                checked_value(kind, text, "")
            case "when":
                Route(RouteSettings(when=text))
    except (ValueError, BadDenial, BadRoute):
        return


def _export(data: bytes) -> None:
    """Rows of a node, as a file for a spreadsheet."""
    body = b'{"queries":{"q":' + data + b"}}"
    from osqtwist import wire

    try:
        rows = rows_of(wire.parse(wire.WriteRequest, body), "q")
        wire.count_rows(rows)
    except MalformedRequest:
        return
    result = QueryResult(
        query_id="q",
        node_id="n",
        node_name="=node",
        received_at=0.0,
        status=0,
        message="",
        rows=rows,
        row_count=1,
        stats={},
    )
    columns = columns_of([result])
    text = csv_head(columns) + csv_lines(result, columns)
    import csv

    for line in csv.reader(text.splitlines(keepends=True)):
        for cell in line:
            if re.match(r"[=+@\t\r\uFF1D\uFF0B\uFF20]", cell) and not re.fullmatch(r"[+-]?[\d.]+([eE][+-]?\d+)?", cell):
                raise Broken(f"a cell that a spreadsheet would compute: {cell!r}")


def _line_of_node(data: bytes) -> None:
    """A log post, on its way to sinks and alert rules, and into the health of canaries."""
    try:
        request = parse_log(b'{"log_type":"result","data":[' + data + b"]}")
    except MalformedRequest:
        return
    from osqtwist.wire import sort_lines

    good, count, dead = sort_lines(request, 4096)
    troubles(request.data)
    batch = LogBatch(
        node_id="n", node_name="n", log_type="result", data=good, count=count, digest="d", received_at=0.0, dead=dead
    )
    for route in _ROUTES:
        events, unusable = route.events(batch)
        if len(events) + len(unusable) > 100 * max(1, count) + len(data):
            raise Broken("more events than there can be")
        for event in events:
            json.loads(event.document)


_ROUTES = [
    Route(RouteSettings(when="name:a* or column.x>3 or decoration.host:b*", rename_decorations={"host": "h"})),
    Route(RouteSettings(drop_decorations=("h*",), fields=())),
]


def _always(function: Callable[[bytes], None]) -> Callable[[], Callable[[bytes], None]]:
    return lambda: function


_QUERY = {"query": "select pid from processes where name = 'a'", "interval": 60}
_CONFIGURATION = {
    "osqtwist": {"target": {"tags": ["prod"], "percent": 5, "where": "cn:a*"}, "description": "d"},
    "options": {"distributed_interval": 1},
    "schedule": {"a": _QUERY},
    "packs": {"p": "packs/p.conf", "q": {"queries": {"b": _QUERY}, "discovery": ["select 1"], "shard": 10}},
    "decorators": {"load": ["select uuid from system_info"], "interval": {"3600": ["select 1"]}},
    "file_paths": {"etc": ["/etc/%%"]},
    "views": {"v": "select 1 as a"},
    "auto_table_construction": {"t": {"query": "select a from b", "path": "/x", "columns": ["a"]}},
}
_JSON = json.dumps(_CONFIGURATION).encode()
_YAML = yaml.safe_dump(_CONFIGURATION).encode()
_TOML = b"""
[[tag_rules]]
tag = "prod"
where = "cn:a*"
[[tag_queries]]
tag = "laptop"
query = "select 1 from battery"
interval = 600
"""
_PLAN = b'steps = [1, 10, 100]\nwait = "10m"\ntarget = "tag:canary"\n[stop]\nmissing_after = "5m"\n'
_SETTINGS = b"""
port = ["ssl:8443"]
workers = 2
redis = "redis://:x@127.0.0.1:6379/0"
[[identity]]
source = "san.uri"
pattern = "spiffe://(.+)"
[deadlines]
body = 5
[sink.file]
kind = "file"
path = "/tmp/x"
when = "name:a*"
[alert.a]
when = "name:a"
sink = "file"
[operators]
socket = "admin"
[events]
offline_after = 60
"""
_IMPORTS: dict[str, list[bytes]] = {
    "osquery": [_JSON, b'{"queries":{"a":{"query":"select 1","interval":"60"}},"platform":"linux"}'],
    "fleet": [
        b"apiVersion: v1\nkind: query\nspec:\n  name: a\n  query: select 1\n  interval: 60\n  platform: linux\n---\n"
        b"apiVersion: v1\nkind: label\nspec:\n  name: l\n  query: select 1\n",
        b"queries:\n- name: a\n  query: select 1\n  labels_include_any: [l]\nlabels:\n- name: l\n  query: select 1\n"
        b"agent_options:\n  config:\n    options: {}\n",
    ],
    "doorman": [b'[{"name":"p","queries":[{"name":"q","sql":"select 1","interval":60}],"tags":["a"]}]', _JSON],
    "zentral": [
        b'{"name":"p","slug":"p","queries":{"a":{"query":"select 1","interval":60}},"discovery":["select 1"]}',
        b'{"model":"osquery.query","pk":1,"fields":{"name":"a","sql":"select 1"}}',
    ],
}
_WORDS_OF_EXPRESSIONS = (
    b"tag:",
    b"platform:",
    b"name:",
    b" and ",
    b" or ",
    b"not ",
    b"(",
    b")",
    b'"',
    b"*",
    b"[a-",
    b"?",
)
_WORDS_OF_SQL = (
    b"select ",
    b" from ",
    b" where ",
    b" join ",
    b"with recursive ",
    b" as (",
    b"union all ",
    b"group by ",
    b"'",
    b'"',
    b"/*",
    b"--",
    b"pragma ",
    b"explain ",
    b"processes",
    b"carves",
    b"attach ",
    b"randomblob(1e9)",
)
_WORDS_OF_FILES = (
    b"osqtwist",
    b"schedule",
    b"packs",
    b"query",
    b"interval",
    b"options",
    b"decorators",
    b"null",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/object",
    b"---\n",
    b"1e999",
    b"[[",
    b"\\ud800",
)

_SEEDS_OF_SQL: Sequence[bytes] = (
    b"select pid, p.name from processes p join users using (uid) where p.pid > 1 -- x",
    b"with recursive c(x) as (select 1 union all select x+1 from c) select x from c limit 5",
    b"select * from file where path like '/etc/%' and size in (select 1) order by 1 desc",
)

TARGETS = [
    Target(
        "expression",
        "the language of targets",
        _always(_expression),
        lambda: [b"tag:prod and (platform:linux or not cn:build-*)", b'name:"a \\" b" or host:*a*a*a*b', b"cn:[!a-z]?"],
        _WORDS_OF_EXPRESSIONS,
    ),
    Target(
        "targeting",
        "targets with patterns, against a node",
        _always(_target),
        lambda: [b"nodes\n*a*a*a*a*a*a*a*a*b\nnode-[!a-z]*", b"where\nnot (tag:prod)"],
        _WORDS_OF_EXPRESSIONS,
    ),
    Target("sql", "SQL of queries", _always(_sql), lambda: _SEEDS_OF_SQL, _WORDS_OF_SQL),
    Target("config_json", "layers and packs in JSON", lambda: _content("a.conf"), lambda: [_JSON], _WORDS_OF_FILES),
    Target("config_yaml", "layers and packs in YAML", lambda: _content("a.yaml"), lambda: [_YAML], _WORDS_OF_FILES),
    Target("tags_and_plan", "tags.toml and rollout.toml", _always(_toml), lambda: [_TOML, _PLAN], _WORDS_OF_FILES),
    *(
        Target(
            f"import_{kind}",
            f"files of {kind}",
            lambda kind=kind: _importer(kind),  # type: ignore[misc]
            lambda kind=kind: _IMPORTS[kind],  # type: ignore[misc]
            _WORDS_OF_FILES,
        )
        for kind in READERS
    ),
    Target("settings", "the settings file, with sinks and alert rules", _always(_settings), lambda: [_SETTINGS]),
    Target("environment", "settings in the environment", _always(_environment), lambda: [b"PORT=ssl:1\nWORKERS=auto"]),
    Target(
        "redis_url",
        "the URL of a Redis server",
        _always(_redis_url),
        lambda: [
            b"redis://u:secret@127.0.0.1:6379/0",
            b"rediss://:secret@h/1?ca=a&cert=b",
            b"sentinel://:secret@a:1,b:2/m/3",
            b"unix:/run/x.sock?db=2",
        ],
        (b"redis://", b"@", b":", b"/", b"?", b"#", b"[::1]", b"%2F"),
    ),
    Target(
        "small_files",
        "enroll secrets, signing keys, denials, routing expressions",
        _always(_small),
        lambda: [
            b"secrets\nabc tag\n# x",
            b"keys\nabcdef " + b"00" * 32,
            b"serial\n0x1F:2e",
            b"identity\na*",
            b"when\na:b",
        ],
    ),
    Target(
        "result_export",
        "rows of a node, as CSV",
        _always(_export),
        lambda: [b'[{"a":"=1+1","b":"-3"},{"=c":"@x"}]', b"[]"],
        (b'"=', b'"+', b'"-', b'"@', b'"\\t', b"{}", b"[[", b"1e5"),
    ),
    Target(
        "log_routing",
        "a log line, to sinks and to the health of canaries",
        _always(_line_of_node),
        lambda: [
            b'{"name":"a","columns":{"x":"4"},"decorations":{"host":"b"},"action":"added"}',
            b'{"name":"a","diffResults":{"added":[{"x":"1"}],"removed":[]},"decorations":{"h":"1"}}',
            b'{"severity":"2","message":"Error executing scheduled query a: no","unixTime":"1"}',
        ],
        (b'"diffResults"', b'"columns"', b'"decorations"', b'"snapshot"', b"\\u006f", b"\n", b"1e999"),
    ),
]
