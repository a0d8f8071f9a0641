"""The SQL of configuration layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from osqtwist.announcement import SAMPLE_CONFIG
from osqtwist.configfolder import check_folder, read_folder
from osqtwist.layers import Layer
from osqtwist.querycheck import check_queries
from osqtwist.targeting import Target

BAD = "select nme from processes"


def found(body: dict[str, Any], *platforms: str) -> list[tuple[str, str]]:
    layer = Layer("00.conf", Target(platforms=platforms), body, "")
    return [(each.where, each.severity) for each in check_queries([layer])]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"schedule": {"a": {"query": BAD, "interval": 60}, "gone": None}}, "schedule.a.query"),
        ({"packs": {"p": {"queries": {"a": {"query": BAD, "interval": 60}}}}}, "packs.p.queries.a.query"),
        ({"packs": {"p": {"queries": {}, "discovery": ["select 1", BAD]}, "q": None}}, "packs.p.discovery.1"),
        ({"decorators": {"load": ["select 1", BAD]}}, "decorators.load.1"),
        ({"decorators": {"interval": {"60": [BAD]}}}, "decorators.interval.60.0"),
        ({"views": {"v": BAD, "w": ""}}, "views.v"),
        ({"file_paths_query": {"home": [BAD]}}, "file_paths_query.home.0"),
    ],
)
def test_sql_is_checked_wherever_it_stands(body: dict[str, Any], where: str) -> None:
    """An error names the key from the top."""
    assert found(body) == [(where, "error")]


def test_a_table_that_an_extension_may_add_is_a_warning() -> None:
    """Tables and views that any layer makes are known."""
    query = {"schedule": {"a": {"query": "select * from made", "interval": 60}}}
    assert found(query) == [("schedule.a.query", "warning")]
    assert found(query | {"views": {"made": "select 1 as x"}}) == []
    made = {"auto_table_construction": {"made": {"query": "select a from b", "path": "/x", "columns": ["a"]}}}
    assert found(query | made) == []


def test_a_query_is_for_the_platforms_of_its_layer_its_pack_and_its_own() -> None:
    """registry is a table of Windows: elsewhere it is missing, and what runs nowhere is not looked at."""

    def scheduled(platform: str) -> dict[str, Any]:
        sql = "select path from registry where key = 'HKEY_LOCAL_MACHINE'"
        return {"schedule": {"a": {"query": sql, "interval": 60, "platform": platform}}}

    assert found(scheduled("windows")) == []
    assert set(found(scheduled("linux"))) == {("schedule.a.query", "warning")}
    assert set(found(scheduled(""), "darwin")) == {("schedule.a.query", "warning")}
    assert found(scheduled("windows"), "darwin") == []


def test_the_command_finds_errors_that_a_server_would_serve(tmp_path: Path) -> None:
    """A query with a bad column fails alone, on the node: no reason to serve nobody anything."""
    (tmp_path / "00.conf").write_text('{"schedule": {"a": {"query": "select nme from processes", "interval": 60}}}')
    (problem,) = check_folder(tmp_path)
    assert "00.conf: schedule.a.query" in str(problem)
    assert "nme" in str(problem)
    assert problem.severity == "error"
    assert read_folder(tmp_path)[1] == []


def test_the_packaged_sample_is_clean() -> None:
    """Not even a warning."""
    assert check_folder(SAMPLE_CONFIG) == []
