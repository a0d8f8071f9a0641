"""The SQL of queries: what osquery would refuse, what it reads, and that no text can hurt the one who looks at it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import sqlite3
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from osqtwist.emptydatabase import EmptyDatabase, TooComplex
from osqtwist.osqueryschema import (
    PLATFORMS,
    UnknownTable,
    columns_of,
    platforms_of,
    schema,
    suggestion,
    table_names,
)
from osqtwist.sqlcheck import Findings, UncheckedSQL, check_sql, tables_of
from osqtwist.sqlstatement import MAX_LENGTH, MAX_NESTING
from osqtwist.sqltokens import place_in, tokenize
from tests.examples import examples

GOOD = [
    "SELECT 1",
    "select pid, name from processes where on_disk = 0;",
    "SELECT 1; -- and no more",
    "SELECT 1;;",
    "VALUES (1, 2), (3, 4)",
    "SELECT p.name, l.port FROM processes p JOIN listening_ports l USING (pid) WHERE l.address = '0.0.0.0'",
    "SELECT * FROM users CROSS JOIN shell_history USING (uid)",
    'SELECT name FROM processes WHERE name = "bash"',
    "SELECT count(*) FROM file WHERE path LIKE '/etc/%'",
    "SELECT sha256 FROM file JOIN hash USING (path) WHERE file.directory = '/etc'",
    "SELECT sha256 FROM processes p JOIN hash h ON h.path = p.path",
    "SELECT sha256 FROM processes NATURAL JOIN hash",
    "SELECT * FROM file WHERE '/etc/passwd' = path",
    "SELECT * FROM file WHERE file.path IN (SELECT path FROM processes)",
    "SELECT * FROM yara WHERE path = '/bin/ls' AND sigrule = 'rule a { condition: true }'",
    "SELECT name FROM deb_packages WHERE version < '1:2.3' COLLATE VERSION_DPKG",
    "SELECT version_compare(version, '1', 'RHEL'), split(name, '-', 0), regex_match(name, 'a(b)', 1) FROM rpm_packages",
    "SELECT concat('a', NULL), concat_ws(',', 1, 2), cot(1), pi(), power(2, 3), log(2), in_cidr_block('::/8', 'x')",
    "SELECT community_id_v1('a', 'b', 1, 2, 3), community_id_v1('a', 'b', 1, 2, 3, 4), to_base64('a')",
    "SELECT carve(path) FROM file WHERE path = '/etc/passwd'",
    "SELECT json_extract(data, '$.a'), data ->> '$.b' FROM windows_events, json_each(data) WHERE json_each.value = 1",
    "SELECT json_error_position('{')",
    "SELECT environment FROM process_events",
    "SELECT rank() OVER (PARTITION BY uid ORDER BY pid) FROM processes",
    "WITH RECURSIVE u(i) AS (SELECT 1 UNION SELECT p.pid FROM processes p JOIN u ON p.parent = u.i) SELECT * FROM u",
    "EXPLAIN QUERY PLAN SELECT 1",
    "explain select 1",
    "PRAGMA table_info(processes)",
    "SELECT name FROM pragma_table_info('processes')",
    "SELECT name FROM sqlite_temp_master WHERE type = 'table'",
    "SELECT * FROM temp.processes",
    "SELECT datetime(time, 'unixepoch'), CURRENT_TIMESTAMP FROM process_events",
]
BAD = [
    ("", "there is no SQL in it"),
    (" -- only a comment", "there is no SQL in it"),
    (";", "there is no SQL in it"),
    ("EXPLAIN", "it explains nothing"),
    ("QUERY PLAN SELECT 1", "column 1: syntax error near QUERY"),
    ("SELEC 1", "column 1: syntax error near SELEC"),
    ("SELECT * FORM processes", "column 10: syntax error near FORM"),
    ("SELECT pid\nFROM processes\nWHERE (pid = 1 AND) 2", "line 3, column 19: syntax error near )"),
    ("SELECT a, b c, d e f FROM x", "column 20: syntax error near f"),
    ("SELECT pid FROM", "column 16: it ends too early"),
    ("SELECT 'abc", "column 8: this is no SQL: 'abc"),
    ("SELECT 1; SELECT 2", "column 11: one query is one statement, and here begins another"),
    ("SELECT pid FROM proceses", "no table proceses; did you mean processes"),
    ("SELECT nmae FROM processes", "column 8: there is no column nmae; did you mean name?"),
    ("SELECT p.pid,\n  p.nmae FROM processes p", "line 2, column 5: there is no column p.nmae"),
    ("SELECT q.pid FROM processes p", "column 10: there is no column q.pid"),
    ("SELECT users.* FROM processes", "column 8: users is not in the FROM"),
    ("SELECT q.* FROM processes", "column 8: q is not in the FROM"),
    ("SELECT pid FROM processes JOIN users USING (pid)", "there is no column pid"),
    (
        "SELECT regex_mach(name, 'a', 0) FROM processes",
        "column 8: osquery has no function regex_mach; did you mean regex_",
    ),
    ("SELECT pow(2, 3)", "osquery has no function pow"),
    ("SELECT name REGEXP 'a' FROM processes", "osquery has no function regexp"),
    ("SELECT split('a')", "wrong number of arguments to function split()"),
    ("SELECT pid FROM processes a, processes b", "ambiguous column name: pid"),
    ("SELECT 1 UNION SELECT 1, 2", "do not have the same number of result columns"),
    ("SELECT * FROM main.processes", "no table main.processes"),
    ("SELECT pid FROM processes WHERE pid = ?1", "column 39: osquery has no value for the variable ?1"),
    ("SELECT \0", "column 8: it holds a NUL"),
    ("SELECT '\ud800'", "it holds half a character"),
    ("SELECT 1 WHERE " + "(" * 100 + "1" + ")" * 100, f"more than {MAX_NESTING} parentheses in each other"),
    ("WITH x AS (SELECT 1) DELETE FROM users", "osquery does not allow this"),
    ("PRAGMA writable_schema = 1", "osquery does not allow this"),
    ("SELECT * FROM pragma_database_list", "osquery does not allow this"),
    ("SELECT * FROM sqlite_nothing", "no table sqlite_nothing"),
    ("SELECT load_extension('x')", "osquery has no function load_extension"),
]
WRITES = [
    "ATTACH '/etc/passwd' AS x",
    "CREATE TEMP TABLE x (a)",
    "CREATE VIEW x AS SELECT 1",
    "DROP TABLE users",
    "INSERT INTO users VALUES (1)",
    "update users set uid = 0",
    "/* */ DELETE FROM users",
    "EXPLAIN DELETE FROM users",
    "BEGIN",
    "VACUUM",
]


def texts(found: Findings) -> str:
    return "; ".join(f"{problem.severity}: {problem}" for problem in found.problems)


@pytest.mark.parametrize("sql", GOOD)
def test_what_osquery_takes_is_good(sql: str) -> None:
    """Of SQL that osquery runs nothing is said."""
    found = check_sql(sql)
    assert found.problems == ()
    assert found.is_complete


@pytest.mark.parametrize(("sql", "text"), BAD)
def test_what_osquery_refuses_is_an_error(sql: str, text: str) -> None:
    """An error says what is wrong and, where it can be known, at which line and column; no table is vouched for."""
    found = check_sql(sql)
    assert text in texts(found)
    assert found.errors
    if "no function" not in text and "no table" not in text:
        with pytest.raises(UncheckedSQL):
            tables_of(sql)


@pytest.mark.parametrize("sql", WRITES)
def test_a_query_only_reads(sql: str) -> None:
    """Statements that write, or change the node's database, are errors."""
    (problem,) = check_sql(sql, lenient=True).problems
    assert "is not for queries, which only read" in str(problem)
    assert problem.severity == "error"


def test_all_that_is_missing_is_named() -> None:
    """Tables and functions that do not exist are all named, in the order of the text."""
    found = check_sql("SELECT nope(a) FROM firsttable JOIN secondtable USING (b) WHERE nada(c) = 1")
    assert [str(problem).split(";")[0] for problem in found.errors] == [
        "column 8: osquery has no function nope",
        "column 21: osquery 5.23.0 has no table firsttable",
        "column 37: osquery 5.23.0 has no table secondtable",
        "column 65: osquery has no function nada",
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM santa_rules",
        "SELECT s.a, count(*) FROM santa_rules AS s WHERE s.b = 'x' GROUP BY s.a HAVING max(c) > 1 ORDER BY a",
        "SELECT p.pid, kind FROM processes p JOIN santa_rules USING (path)",
        "SELECT a.x, b.y FROM santa_rules a, munki_info b WHERE a.z = b.z",
        "SELECT inside FROM (SELECT * FROM santa_rules)",
    ],
)
def test_a_table_of_an_extension_is_a_warning_if_lenient(sql: str) -> None:
    """A table that nobody knows may be an extension's, with any columns; strictly it is an error."""
    found = check_sql(sql, lenient=True)
    assert found.problems == found.warnings
    assert "no table santa_rules" in texts(found)
    assert found.is_complete
    assert "santa_rules" in found.tables
    assert check_sql(sql).errors


def test_an_unknown_table_excuses_no_column_of_a_known_one() -> None:
    """Beside a table that nobody knows, a wrong column of osquery's is still an error."""
    found = check_sql("SELECT p.nmae FROM processes p JOIN santa_rules s USING (path)", lenient=True)
    assert [problem.severity for problem in found.problems] == ["error", "warning"]
    assert "p.nmae" in texts(found)


def test_what_depends_on_an_unknown_table_is_left_open() -> None:
    """What may be right for a table that nobody knows is not called wrong, and not vouched for."""
    sql = "SELECT * FROM santa_rules UNION SELECT 1, 2"
    found = check_sql(sql, lenient=True)
    assert not found.errors
    assert not found.is_complete
    with pytest.raises(UncheckedSQL):
        tables_of(sql)


def test_tables_can_be_made_known() -> None:
    """``extra_tables`` adds tables, whose columns are then checked, and columns of osquery's own tables."""
    extra = {
        "Santa_Rules": ["SHA256", "state"],
        "processes": ["brand_new"],
        "sqlite_x": ["a"],
        "odd": [],
        "wide": ["a"] * 9,
    }
    assert not check_sql("SELECT sha256, brand_new FROM santa_rules, processes", extra_tables=extra).problems
    assert not check_sql("SELECT 1 FROM odd, wide", extra_tables=extra).problems
    assert "no column nope" in texts(check_sql("SELECT nope FROM santa_rules", extra_tables=extra))


def test_views_are_seen_through() -> None:
    """A query on a view of the configuration reads the tables of the view, through views on views."""
    views = {
        "fetched": "SELECT url, result FROM curl WHERE url = 'https://example.test';",
        "outer_view": "SELECT result AS r FROM fetched",
        "broken": "SELEC 1",
        "endless": "SELECT * FROM endless",
        "users": "SELECT 1 AS nothing",
    }
    assert tables_of("SELECT r FROM outer_view", views=views) == {"curl"}
    assert not check_sql("SELECT r FROM outer_view", views=views).problems
    assert "no column nope" in texts(check_sql("SELECT nope FROM outer_view", views=views))
    assert "no table broken" in texts(check_sql("SELECT * FROM broken", views=views))
    assert check_sql("SELECT * FROM endless", views=views).errors
    assert not check_sql("SELECT uid FROM users", views=views).problems, "a view does not take a table's name"


@pytest.mark.parametrize(
    ("sql", "platforms", "text"),
    [
        ("SELECT * FROM launchd", ["linux"], "column 15: there is no table launchd on linux, only on darwin"),
        ("SELECT * FROM launchd", ["rhel", "darwin"], "no table launchd on linux, only on darwin"),
        ("SELECT * FROM registry", ["posix"], "no table registry on darwin and linux, only on windows"),
        (
            "SELECT * FROM launchd, systemd_units",
            None,
            "no platform has all tables of it: launchd is on darwin; systemd_",
        ),
        ("SELECT syscall FROM process_events", ["darwin"], "column 8: process_events has a syscall on linux only"),
        (
            "SELECT * FROM file",
            None,
            "column 15: osquery refuses to read file without a condition on path or directory",
        ),
        ("SELECT path FROM file WHERE size > 1", None, "osquery refuses to read file"),
        ("SELECT * FROM yara", None, "osquery refuses to read yara without a condition on path"),
        (
            "SELECT * FROM shell_history",
            None,
            "has only the rows of osquery's own user unless it is joined with users on",
        ),
        ("SELECT issuer FROM certificates", None, "column 8: the column issuer of certificates is deprecated"),
    ],
)
def test_what_may_be_right_is_a_warning(sql: str, platforms: list[str] | None, text: str) -> None:
    """What some nodes cannot answer, or answer with nothing, is a warning."""
    found = check_sql(sql, platforms)
    assert text in texts(found)
    assert found.warnings
    assert not found.errors


@pytest.mark.parametrize(
    ("sql", "platforms"),
    [
        ("SELECT * FROM launchd", None),
        ("SELECT * FROM launchd", ["darwin"]),
        ("SELECT * FROM launchd", ["something-new"]),
        ("SELECT cgroup_path FROM processes", ["posix"]),
        ("SELECT * FROM process_events", ["darwin"]),
        ("SELECT * FROM certificates", None),
    ],
)
def test_no_warning_without_need(sql: str, platforms: list[str] | None) -> None:
    """Platforms that are unknown, columns of a ``*``, and columns that one of the platforms has, are no warnings."""
    assert check_sql(sql, platforms).problems == ()


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT 1", set()),
        ("SELECT 1 FROM curl", {"curl"}),
        ("SELECT count(*) FROM CURL", {"curl"}),
        ("SELECT * FROM 'curl'", {"curl"}),
        ('SELECT * FROM [curl], "users", `hosts`', {"curl", "users", "etc_hosts"}),
        ("SELECT * FROM users WHERE 0 AND uid IN (SELECT bytes FROM curl)", {"users", "curl"}),
        ("SELECT (SELECT count(*) FROM carves) FROM time", {"time", "carves"}),
        ("SELECT uid FROM users WHERE EXISTS (SELECT 1 FROM curl)", {"users", "curl"}),
        ("SELECT uid FROM users ORDER BY (SELECT 1 FROM curl)", {"users", "curl"}),
        ("SELECT uid FROM users LIMIT (SELECT bytes FROM curl)", {"users", "curl"}),
        ("SELECT 1 FROM users LEFT JOIN curl ON 0", {"users", "curl"}),
        ("WITH processes AS (SELECT url FROM curl) SELECT url FROM processes", {"curl", "processes"}),
        ("WITH a AS (SELECT * FROM carves), b(x) AS NOT MATERIALIZED (SELECT 1) SELECT * FROM b", {"carves"}),
        ("SELECT 1 FROM users WHERE uid IN one AND uid IN temp.two AND 1 NOT IN ('curl')", {"users", "one", "two"}),
        ("SELECT time FROM process_events WHERE pid IN (time, 2) ORDER BY pid, time", {"process_events"}),
        ("SELECT uid FROM ((users JOIN time) JOIN (curl)), temp.carves AS c", {"users", "time", "curl", "carves"}),
        ("SELECT uid FROM users LEFT JOIN curl ON uid IS DISTINCT FROM bytes, time WHERE 1", {"users", "curl", "time"}),
        ("SELECT rank() OVER w FROM users WINDOW w AS (ORDER BY uid), v AS ()", {"users"}),
        ("SELECT uid FROM users WHERE (SELECT carve(path) FROM file WHERE path = 'x') AND 0", {"users", "file"}),
        ("SELECT 1 FROM (SELECT (SELECT 1 FROM curl) AS a, 1 AS b FROM users) WHERE b", {"users", "curl"}),
        ("SELECT 1 FROM users WHERE 0 AND EXISTS (SELECT 1 FROM some_extension)", {"users", "some_extension"}),
        ("WITH a AS (SELECT url FROM curl), b AS (SELECT * FROM a) SELECT * FROM b", {"curl"}),
        ("SELECT uid FROM users UNION ALL SELECT bytes FROM curl", {"users", "curl"}),
        ("SELECT * FROM yara WHERE path = 'curl'", {"yara_file"}),
        ("EXPLAIN SELECT * FROM curl", {"curl"}),
        ("SELECT * FROM some_extension", {"some_extension"}),
        ("SELECT curl FROM (SELECT 'curl' AS curl)", set()),
        ("SELECT name FROM sqlite_temp_master, json_each('[]')", set()),
    ],
)
def test_the_tables_that_are_read(sql: str, tables: set[str]) -> None:
    """Whatever the way to it, a table that may be read is among the tables, even if this SQLite would not read it."""
    assert tables_of(sql) == tables


def test_the_functions_that_are_called() -> None:
    """Functions are told of too: ``carve`` has effects."""
    assert check_sql("SELECT Carve(path) FROM file WHERE path = '/x'").functions == {"carve"}
    assert check_sql("SELECT 1 WHERE (SELECT carve(path) FROM file WHERE path = '/x') AND 0").functions == {"carve"}


_NAMES = st.sampled_from(["users", "curl", "processes", "carves", "time", "hosts", "certificates"])


@st.composite
def _selects(draw: st.DrawFn, depth: int = 0) -> tuple[str, set[str]]:
    """A SELECT of one column ``a``, and what it reads."""
    if depth > 3 or draw(st.booleans()):
        name = draw(_NAMES)
        return f"SELECT 1 AS a FROM {name}", {"etc_hosts" if name == "hosts" else name}
    left, reads = draw(_selects(depth + 1))
    right, more = draw(_selects(depth + 1))
    form = draw(
        st.sampled_from(
            [
                "SELECT a FROM ({0}) WHERE a IN ({1})",
                "{0} UNION {1}",
                "WITH users AS ({0}), x AS ({1}) SELECT users.a FROM users, x",
                "SELECT ({0}) + a AS a FROM ({1})",
                "SELECT l.a FROM ({0}) l LEFT JOIN ({1}) r USING (a)",
                "SELECT a, row_number() OVER (ORDER BY a) AS n FROM ({0}) WHERE EXISTS ({1}) GROUP BY a",
            ]
        )
    )
    # The name that this WITH covers is not to be read inside it, nor do two columns fit where one is asked for.
    assume(not (form.startswith(("WITH", "SELECT a, row")) and depth))
    assume("users" not in reads | more or not form.startswith("WITH"))
    return form.format(left, right), reads | more


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(_selects())
def test_no_table_is_overlooked(made: tuple[str, set[str]]) -> None:
    """Of any nesting of queries, the tables are found that were put in, and the names that a WITH takes."""
    sql, reads = made
    assert reads <= tables_of(sql) <= reads | {"users"}


# Words with which SQL can be made and broken.
_PIECES = """
    SELECT FROM WHERE WITH AS ( ) , ; . * = users processes file path uid name 'x' " ' ` [ ] 1 1e UNION JOIN ON USING
    IN EXISTS ORDER BY GROUP HAVING LIMIT RECURSIVE VALUES EXPLAIN PRAGMA table_info INSERT INTO DROP TABLE -- /* */
    ? :a @b count max carve OVER NOT NULL LIKE GLOB MATCH REGEXP COLLATE version CASE WHEN THEN END CAST main temp
    sqlite_master json_each raise ABORT INDEXED nope NATURAL LEFT DISTINCT ALL é x'12' x'1 || -> ->> ~ ! # $
"""
_WORDS = st.sampled_from([*_PIECES.split(), "\n", "\t", "\x00"])


@pytest.mark.slow
@settings(max_examples=examples(400), deadline=5_000)
@given(st.one_of(st.text(max_size=80), st.lists(_WORDS, max_size=40).map(" ".join)), st.booleans())
def test_any_text_gets_findings(sql: str, lenient: bool) -> None:
    """Whatever the text, there are findings, soon; places are inside it; and what is not vouched for has a reason."""
    found = check_sql(sql, ["linux"], lenient=lenient, views={"nope": sql})
    lines = sql.split("\n")
    for problem in found.problems:
        assert str(problem).isprintable()
        assert not problem.line or problem.column <= len(lines[problem.line - 1]) + 1
    if found.is_complete:
        assert tables_of(sql, views={"nope": sql}) == found.tables
    else:
        assert found.problems
        with pytest.raises(UncheckedSQL):
            tables_of(sql, views={"nope": sql})


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(_WORDS, max_size=8).map(" ".join))
def test_sqlite_cuts_where_we_cut(sql: str) -> None:
    """What SQLite takes has no bad token, and what it cannot cut has one."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(f"EXPLAIN SELECT 1 {sql}")
            error = ""
        except (sqlite3.Error, sqlite3.Warning, ValueError) as problem:
            error = str(problem)
    bad = [token for token in tokenize(sql) if token.kind == "bad"]
    if not error:
        assert not bad
    if error.startswith("unrecognized token"):
        assert bad


def test_tokens_are_the_text() -> None:
    """Every token is a piece of the text at its place; nothing but blanks and comments is left out."""
    sql = "SELECT a.b, 'it''s' -- x\n FROM [c d] /* y */ WHERE x'00'>=.5e3 || `e``f`"
    for token in tokenize(sql):
        assert sql[token.start : token.end] == token.text
    assert [token.name for token in tokenize(sql) if token.kind in ("text", "name")] == ["it's", "c d", "e`f"]
    assert place_in(sql, sql.index("FROM")) == (2, 2)


HOSTILE = {
    "doubling": "WITH t0 AS (SELECT 1 x)"
    + "".join(f", t{i + 1} AS (SELECT a.x FROM t{i} a, t{i} b)" for i in range(60))
    + " SELECT * FROM t60",
    "growing": "WITH t0 AS (SELECT pid x FROM processes)"
    + "".join(f", t{i + 1} AS (SELECT {'+'.join(['x'] * 10)} AS x FROM t{i})" for i in range(12))
    + " SELECT * FROM t12 WHERE x = 1",
    "unions": "SELECT 1 FROM " + ", ".join(f"(SELECT pid FROM users UNION ALL SELECT 1) a{i}" for i in range(60)),
    "joins": "SELECT 1 FROM " + ", ".join(f"users a{i}" for i in range(64)),
    "unknown": "SELECT 1 FROM " + " UNION SELECT 1 FROM ".join(f"t{i}" for i in range(400)),
    "names": "SELECT " + "a." * 30_000,
    "commas": "SELECT " + "," * 60_000,
    "open": "SELECT " + "(" * 60_000,
    "quotes": "SELECT " + '"' * 60_001,
    "endless": "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
    "huge": "SELECT hex(zeroblob(1e9)), printf('%1000000000d', 1) FROM users ORDER BY randomblob(1000000000)",
    "long": "SELECT '" + "x" * MAX_LENGTH + "'",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_sql_costs_little(kind: str) -> None:
    """No text within the limits takes longer than moments, or the memory of the machine; what is too much is said."""
    begin = time.perf_counter()
    found = check_sql(HOSTILE[kind], lenient=True)
    assert time.perf_counter() - begin < 5, "some tenths of a second on an idle machine"
    if kind in ("doubling", "growing", "long"):
        (problem,) = found.problems
        assert problem.severity == "warning"
        assert "check" in problem.text
        with pytest.raises(UncheckedSQL):
            tables_of(HOSTILE[kind])


def test_after_hostile_sql_all_is_well() -> None:
    """SQLite has its memory back after a text was too complex."""
    check_sql(HOSTILE["doubling"])
    assert check_sql("SELECT pid FROM processes").is_complete


def test_texts_may_be_looked_at_in_threads() -> None:
    """Nothing is shared: several threads may check at once."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(check_sql, GOOD * 3))
    assert all(found.is_complete for found in results)


def test_too_complex_says_so() -> None:
    """The database itself raises when SQLite runs out of memory, and is as good as before."""
    with EmptyDatabase.holding(schema(), set(), {}, {}, lambda column: True) as database:
        with pytest.raises(TooComplex):
            database.prepare(HOSTILE["doubling"])
        assert database.prepare("SELECT 1") == ""


def test_the_schema_is_whole() -> None:
    """Every table can be read with all its columns, and every function called with each number of arguments."""
    for name in table_names():
        columns = ", ".join(f'"{column}"' for column in columns_of(name, hidden=True))
        found = check_sql(f"SELECT {columns} FROM {name}")  # Quoted names that are unknown would be texts.
        assert not found.errors, texts(found)
        table = schema().find(name)
        assert table is not None
        assert found.tables == {table.name}
        assert table.platforms <= set(PLATFORMS)
        assert all(column.platforms <= table.platforms for column in table.columns)
    for name, counts in schema().functions.items():
        for count in counts:
            sql = f"SELECT {name}({', '.join('1' * max(count, 0))})"
            assert not check_sql(sql).problems, sql
    assert len(schema().tables) > 250


def test_names_for_completion() -> None:
    """Names include aliases; hidden columns come when asked for; a wrong table is told with its like."""
    assert {"processes", "yara", "yara_file"} <= set(table_names())
    assert "pid" in columns_of("Processes")
    assert "env" not in columns_of("process_events")
    assert "env" in columns_of("process_events", hidden=True)
    assert columns_of("yara") == columns_of("yara_file")
    with pytest.raises(UnknownTable, match="no table proceses; did you mean processes"):
        columns_of("proceses")
    assert suggestion("x" * 100_000, ["x"]) == ""


@pytest.mark.parametrize(
    ("words", "platforms"),
    [
        ([], None),
        (["any"], None),
        ([""], None),
        (["linux", "templeos"], None),
        (["posix"], {"linux", "darwin"}),
        (["linux,darwin"], {"linux", "darwin"}),
        (["Ubuntu", "rhel"], {"linux"}),
        (["macos"], {"darwin"}),
        (["windows"], {"windows"}),
    ],
)
def test_words_for_platforms(words: list[str], platforms: set[str] | None) -> None:
    """Words of targets and of osquery's ``platform`` mean platforms; any other word leaves it open."""
    assert platforms_of(words) == platforms
