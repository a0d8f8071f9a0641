"""The manual of sinks says what there is, its examples work, and so does the example package."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
import pytest_twisted
from twisted.internet import reactor

from osqtwist.routing import RouteSettings
from osqtwist.sinks.kinds import OUR_KINDS, kind_named
from osqtwist.sinksettings import read_sinks
from tests.examplepackages import EXAMPLES, example
from tests.sinkcontract import CONTRACT, Promise, name_of
from tests.test_delivery_process import post, until
from tests.test_twistd import Start, start

__all__ = ["start"]

ROOT = Path(__file__).parent.parent
EXAMPLE = EXAMPLES / "sqlite-sink"
MANUAL = (ROOT / "docs" / "sinks.md").read_text()
WALK = (ROOT / "docs" / "writing-a-sink.md").read_text()


def section(title: str) -> str:
    return MANUAL.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> dict[str, str]:
    """Key and default of each row of a table."""
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.M))


def shown(field: Any) -> str:
    default = field.default
    if default is msgspec.NODEFAULT:
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else ""
    if isinstance(default, bool):
        return f"`{default}`".lower()
    if default is None or default in ("", (), {}):
        return ""
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


@pytest.mark.parametrize("kind", OUR_KINDS)
def test_every_key_of_every_kind_is_in_the_manual(kind: str) -> None:
    """With its default, in order, and no key that there is not."""
    fields = msgspec.structs.fields(kind_named(kind).settings)
    assert rows(section(kind)) == {field.name: shown(field) for field in fields}


def test_every_routing_key_is_in_the_manual() -> None:
    """The same for the keys of every sink."""
    found = rows(section("Which lines, and what is in them"))
    assert list(found) == [field.name for field in msgspec.structs.fields(RouteSettings)]


@pytest.mark.parametrize("kind", OUR_KINDS)
def test_every_example_makes_a_sink(kind: str, tmp_path: Path) -> None:
    """With files that are there in the place of those it names."""
    (text,) = re.findall(r"```toml\n(.*?)```", section(kind), re.S)
    there = tmp_path / "there"
    there.write_text("x")
    text = re.sub(r'"/(?:etc|var)/[^"]*"', json.dumps(str(there)), text)
    for plan in read_sinks(tomllib.loads(text)["sink"]):
        assert plan.kind.kind == kind
        plan.make(reactor)


# -- the example package


@pytest.fixture
def module() -> Any:
    return example("sqlite-sink")


@attrs.define
class SQLiteFile:
    """See :class:`tests.sinkcontract.Destination`."""

    module: Any
    path: Path

    def make(self) -> Any:
        return self.module.SQLiteKind().make(reactor, "lines", self.module.SQLiteSettings(path=str(self.path)))

    async def received(self) -> Sequence[bytes]:
        with contextlib.closing(sqlite3.connect(self.path)) as database:
            return [row[0].encode() for row in database.execute("select line from lines order by rowid")]

    async def take_away(self) -> None:
        self.path.parent.rename(self.path.parent.with_name("away"))

    async def give_back(self) -> None:
        self.path.parent.with_name("away").rename(self.path.parent)


@pytest.mark.parametrize("promise", CONTRACT, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_the_example_keeps_the_contract(promise: Promise, module: Any, tmp_path: Path) -> None:
    """As every sink does."""
    folder = tmp_path / "there"
    folder.mkdir()
    await promise(SQLiteFile(module, folder / "lines.sqlite"))


def test_the_walk_through_shows_the_example() -> None:
    """Its blocks are the files."""
    for name in ("osqtwist_sqlite.py", "twisted/plugins/osqtwist_sqlite_plugin.py"):
        assert f"```python\n{(EXAMPLE / name).read_text()}```" in WALK


@pytest.mark.slow
def test_a_server_delivers_to_the_example(start: Start, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Found by twisted.plugin, named in a settings file, and every line in it once."""
    folder = tmp_path_factory.mktemp("s")
    package = shutil.copytree(EXAMPLE, folder / "package")
    path = folder / "lines.sqlite"
    (folder / "settings.toml").write_text(f'[sink.lines]\nkind = "sqlite"\npath = "{path}"\n')
    words = ["--port", "ssl:0", "--settings", str(folder / "settings.toml")]
    server = start(*words, folder=folder, env={"PYTHONPATH": str(package)})
    post(server, 0)

    def numbers() -> list[int]:
        with contextlib.closing(sqlite3.connect(path)) as database:
            return [json.loads(row[0])["number"] for row in database.execute("select line from lines")]

    until(lambda: path.exists() and path.stat().st_size and sorted(numbers()) == list(range(5)))
