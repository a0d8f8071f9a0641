"""What operators changed, as files: what is in them, what is not, and how a folder of them is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from osqtwist.cli.export import LIST
from osqtwist.cli.main import main
from osqtwist.configfiles import KeptFiles, read_content
from osqtwist.configfolder import check_folder
from osqtwist.node import Node, Sighting
from osqtwist.operator import Actor, Role
from tests.harness import InMemoryServer

LAYER = '{"schedule": {"up": {"query": "select * from uptime", "interval": 60}}, "packs": {"p": "packs/p.conf"}}'
PACK = '{"queries": {"one": {"query": "select 1", "interval": 60}}}'
TAGS = '[[tag_rules]]\ntag = "web"\nwhere = "name:web-*"\n'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[InMemoryServer]:
    """One with nodes."""
    made = InMemoryServer(tmp_path)
    yield made
    made.stop()


def exported(server: InMemoryServer) -> dict[str, str]:
    """The files, by path."""
    code, lines = server.operate("/api/v1/export")
    files: dict[str, str] = {}
    for line in lines[:-1]:
        files[line["path"]] = files.get(line["path"], "") + line["text"]
    assert (code, lines[-1]) == (200, {"type": "end", "files": len(files)})
    return files


def test_what_operators_changed_is_in_it(server: InMemoryServer) -> None:
    """Of everything that they can change and somebody may want to see changed."""
    for host in ("web-1", "web-2", "web-3"):
        server.enroll(host)

    def change(path: str, body: Any) -> Any:
        code, answer = server.operate(f"/api/v1/{path}", body, "POST")
        assert code in (200, 201), answer
        return answer

    change("nodes/web-2/tags", {"add": ["prod", "a"]})
    change("nodes/web-3/note", {"note": "löst: ask Ann"})
    change("nodes/web-1/revoke", {"reason": "stolen"})
    change("denials", {"kind": "serial", "value": "1F", "issuer": "CN=test CA", "reason": "lost"})
    secret = change("secrets", {"name": "berlin", "tags": ["site:berlin"], "quota": 5, "expires_in": 86400})
    token = change("tokens", {"name": "ci", "role": "viewer", "groups": ["export"]})
    change("alerts/silences", {"when": "name:up", "seconds": 3600, "why": "works"})
    change("queries/saved", {"name": "uptime", "sql": "select * from uptime", "description": "how long"})
    server.turn(2)
    query = change("queries", {"sql": "select 1", "target": {"where": "tag:prod"}})
    files = exported(server)
    things = {path: yaml.safe_load(text) or {} for path, text in files.items()}
    assert sorted([each["name"], each.get("tags"), each.get("note")] for each in things["nodes.yaml"].values()) == [
        ["web-2", ["a", "prod"], None],
        ["web-3", None, "löst: ask Ann"],
    ]
    assert [each["reason"] for each in things["revocations.yaml"].values()] == ["stolen"]
    (denial,) = things["denials.yaml"].values()
    assert (denial["kind"], denial["value"], denial["created_by"]) == ("serial", "1f", "tester")
    (rules,) = things["secrets.yaml"].values()
    assert (rules["name"], rules["tags"], rules["quota"]) == ("berlin", ["site:berlin"], 5)
    assert rules["expires_at"].isoformat() == "2026-09-22T14:13:20+00:00"
    assert [each["groups"] for each in things["tokens.yaml"].values()] == [["export"]]
    assert [each["why"] for each in things["silences.yaml"].values()] == ["works"]
    assert things["queries.yaml"][query["query_id"]]["target"] == {"where": "tag:prod"}
    assert things["saved-queries.yaml"]["uptime"]["description"] == "how long"
    assert not any(text in "".join(files.values()) for text in (secret["secret"], token["token"]))
    server.turn(3600)
    server.ask("/config", {"node_key": server.enroll("web-2")})
    after = exported(server)
    assert {path for path in files if after[path] != files[path]} == {"silences.yaml"}, (
        "time alone changes nothing else"
    )


def test_only_admins_get_tokens(server: InMemoryServer) -> None:
    """Others may not list them either."""
    server.operator = Actor("vera", Role.VIEWER, "socket")
    assert "tokens.yaml" not in exported(server)
    assert "nodes.yaml" in exported(server)


def test_the_configuration_in_force_is_a_config_folder(server: InMemoryServer, tmp_path: Path) -> None:
    """With its packs and tag rules, and config check has nothing against it."""
    assert not any(path.startswith("config/") for path in exported(server))
    texts = {"00.conf": LAYER, "packs/p.conf": PACK, "tags.toml": TAGS}
    server.await_(server.parts.rollouts.submit(read_content(KeptFiles(texts)), None, "here"))
    files = exported(server)
    assert {path.removeprefix("config/"): text for path, text in files.items() if path.startswith("config/")} == texts
    assert yaml.safe_load(files["versions.yaml"])["in_force"] == 1
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert check_folder(tmp_path / "config") == []


def test_every_node_is_looked_at(server: InMemoryServer) -> None:
    """Also where many were seen at the same moment, more than fit on a page."""
    ids = [f"{number:020x}" for number in range(1203)]
    sighting = Sighting(seen_at=server.reactor.seconds())
    for node_id in ids:
        server.await_(server.stores.nodes.record(Node(node_id=node_id, name="n", proof="secret")))
        server.await_(server.stores.nodes.tag(node_id, ["t"], []))
    server.await_(server.stores.nodes.saw(dict.fromkeys(ids, sighting)))
    found = yaml.safe_load(exported(server)["nodes.yaml"])
    assert list(found) == sorted(ids)


# -- the command


class FakeServer:
    """In the place of a server; the tests of processes have a real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[dict[str, Any]] = []
        monkeypatch.setattr("osqtwist.cli.console.Operator.call", lambda _, work: work(self))

    def stream(self, *path: str, on_line: Any) -> None:
        for line in self.lines:
            on_line(line)

    def has(self, **files: str) -> None:
        named = {name.replace("__", "/").replace("_", "."): text for name, text in files.items()}
        parts = [{"path": path, "text": half} for path, text in named.items() for half in (text[:3], text[3:])]
        self.lines = [*parts, {"type": "end", "files": len(named)}]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    return FakeServer(monkeypatch)


def run(folder: Path) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["export", str(folder)])
    return done.exit_code, done.output


def test_a_second_run_changes_what_is_different(fake: FakeServer, tmp_path: Path) -> None:
    """And deletes what is gone; what a repository has beside it stays."""
    folder = tmp_path / "new" / "folder"
    fake.has(a_yaml="same: 1\n", b_yaml="was: 1\n", config__c_conf="{}")
    assert run(folder)[0] == 0
    (folder / ".git").mkdir()
    inode = (folder / "a.yaml").stat().st_ino
    fake.has(a_yaml="same: 1\n", b_yaml="is: 2\n", config__d_conf="{}")
    code, output = run(folder)
    assert (code, output.split()) == (0, ["folder", str(folder), "files", "3", "written", "2", "deleted", "1"])
    there = {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}
    assert there == {LIST, "a.yaml", "b.yaml", "config/d.conf"}
    assert ((folder / "a.yaml").stat().st_ino, (folder / "b.yaml").read_text()) == (inode, "is: 2\n")


def test_a_folder_of_other_things_is_left_alone(fake: FakeServer, tmp_path: Path) -> None:
    """Nothing is written, and the sentence says why."""
    (tmp_path / "mine.txt").write_text("x")
    fake.has(a_yaml="a")
    code, output = run(tmp_path)
    assert (code, "has other things in it" in output) == (1, True)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a\nb"])
def test_nothing_is_written_outside(fake: FakeServer, tmp_path: Path, path: str) -> None:
    """Whatever a server says."""
    fake.lines = [{"path": path, "text": "x"}, {"type": "end", "files": 1}]
    code, output = run(tmp_path / "folder")
    assert (code, "outside of the folder" in output) == (1, True)
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("end", [[], [{"type": "error", "error": "the store is away"}]])
def test_half_an_export_changes_nothing(fake: FakeServer, tmp_path: Path, end: list[dict[str, Any]]) -> None:
    """A server that breaks off does not have files deleted."""
    fake.has(a_yaml="a", b_yaml="b")
    assert run(tmp_path / "folder")[0] == 0
    fake.lines = [{"path": "a.yaml", "text": "new"}, *end]
    code, output = run(tmp_path / "folder")
    assert (code, "nothing was written" in output) == (3, True)
    assert {each.name: each.read_text() for each in (tmp_path / "folder").glob("*.yaml")} == {
        "a.yaml": "a",
        "b.yaml": "b",
    }
