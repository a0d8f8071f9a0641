"""osqtwist backup and restore: nothing is lost, nothing is half restored, and nobody else can read it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import shutil
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from osqtwist import __version__
from osqtwist.archive import Archive, ArchiveWriter, BadArchive, Contents
from osqtwist.backup import back_up, restore
from osqtwist.nodekey import new_signing_key, render_signing_keys
from osqtwist.settings import Settings
from osqtwist.statefolder import StateFolder, UnusableState
from tests.stores import PASSWORD, users_for_tests, valkey
from tests.test_delivery_process import until
from tests.test_proxy_processes import look
from tests.test_revocation_processes import operate
from tests.test_twistd import Server, Start, start

__all__ = ["start"]


def contents(files: dict[str, str], **more: Any) -> Contents:
    facts: dict[str, Any] = {"format": 1, "version": "x", "made_at": 1.0, "host": "h", "prefix": "p:", "stores": {}}
    return Contents(**facts | {"files": files} | more)


def made(path: Path, **more: Any) -> Path:
    with ArchiveWriter(path) as archive:
        archive.add_bytes("signing-keys", b"secret" * 1000)
        archive.add_bytes("carves/a.tar", b"carve")
        archive.finish(contents(archive.files, **more))
    return path


def test_an_archive_is_its_owners_alone_and_whole(tmp_path: Path) -> None:
    """It appears when it is finished, and gives back what went in."""
    path = made(tmp_path / "b.tar")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["b.tar"]
    archive = Archive.read(path)
    assert archive.names("carves") == ["carves/a.tar"]
    archive.extract("signing-keys", tmp_path / "out" / "keys")
    assert (tmp_path / "out" / "keys").read_bytes() == b"secret" * 1000
    assert (tmp_path / "out" / "keys").stat().st_mode & 0o777 == 0o600


def test_an_archive_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """No half file, under whichever name."""
    with pytest.raises(RuntimeError), ArchiveWriter(tmp_path / "b.tar") as archive:
        archive.add_bytes("signing-keys", b"x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_as_it_was_made_is_refused(tmp_path: Path) -> None:
    """One byte, a piece that is missing, another format, names that lead elsewhere."""
    path = made(tmp_path / "b.tar")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"secret", b"sEcret", 1))
    with pytest.raises(BadArchive, match="signing-keys is not what was backed up"):
        Archive.read(path)
    for size in (0, 100, 3000, len(data) // 2):
        path.write_bytes(data[:size])
        with pytest.raises(BadArchive, match=r"not a backup|cut short"):
            Archive.read(path)
    with pytest.raises(BadArchive, match="of format 2; this osqtwist reads format 1"):
        Archive.read(made(tmp_path / "c.tar", format=2))
    for name in ("../x", "/etc/passwd", "carves/../../x", "store/.x", "other"):
        with ArchiveWriter(tmp_path / "d.tar") as archive:
            archive.add_bytes(name, b"x")
            archive.finish(contents(archive.files))
        with pytest.raises(BadArchive, match="which no backup does"):
            Archive.read(tmp_path / "d.tar")
    with tarfile.open(tmp_path / "e.tar", "w") as tar:
        link = tarfile.TarInfo("signing-keys")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(link)
    with pytest.raises(BadArchive, match="is not a file"):
        Archive.read(tmp_path / "e.tar")


def a_backup(path: Path, **more: Any) -> Path:
    """Such as a server with a private Valkey makes."""
    with ArchiveWriter(path) as archive:
        archive.add_bytes("signing-keys", render_signing_keys([new_signing_key()]).encode())
        archive.add_bytes("store/dump.rdb", b"REDIS")
        facts: dict[str, Any] = {"version": __version__, "prefix": "osqtwist:", "stores": {"private": "store/dump.rdb"}}
        archive.finish(contents(archive.files, **facts | more))
    return path


def test_what_a_private_store_begins_with(tmp_path: Path) -> None:
    """The snapshot becomes the base of its append-only file; all of it is its owner's alone."""
    state = tmp_path / "state"
    done = restore(Settings(state=str(state)), a_backup(tmp_path / "b.tar"), replace=False)
    assert (done.files, done.notes) == (2, ())
    parts = state / "store" / "appendonlydir"
    assert {each.name for each in parts.iterdir()} == {"appendonly.aof.1.base.rdb", "appendonly.aof.manifest"}
    assert (state / "signing-keys").stat().st_mode & 0o777 == 0o600
    (state / "store" / "more").write_text("x")
    with pytest.raises(UnusableState, match="holds signing-keys already; --replace puts what is there aside"):
        restore(Settings(state=str(state)), tmp_path / "b.tar", replace=False)
    done = restore(Settings(state=str(state)), tmp_path / "b.tar", replace=True)
    (aside,) = [each for each in tmp_path.iterdir() if each.name.startswith("state.before-")]
    assert str(aside) in done.notes[0]
    assert (aside / "store" / "more").exists()
    assert not (state / "store" / "more").exists()


@pytest.mark.parametrize(
    ("facts", "settings", "words"),
    [
        ({"version": "0.0.9"}, {}, "made by osqtwist 0.0.9, and this is .*--any-version"),
        ({}, {"redis": "redis://127.0.0.1:1/0"}, "made with the private Valkey, and --redis is given"),
        ({"stores": {"redis://127.0.0.1:1": "keys/0.jsonl.gz"}}, {}, "made with --redis, which is not"),
        (
            {"stores": {"redis://127.0.0.1:2": "keys/0.jsonl.gz"}},
            {"redis": "redis://127.0.0.1:1"},
            "holds data of redis://127.0.0.1:2, which the settings do not name",
        ),
        ({"prefix": "other:"}, {}, "keys that begin with other:; --redis-prefix is osqtwist:"),
    ],
)
def test_a_backup_that_does_not_fit_changes_nothing(
    tmp_path: Path, facts: dict[str, Any], settings: dict[str, str], words: str
) -> None:
    """One sentence says why."""
    path = a_backup(tmp_path / "b.tar", **facts)
    with pytest.raises(BadArchive, match=words):
        restore(Settings(state=str(tmp_path / "state"), **settings), path, replace=True)
    assert not (tmp_path / "state").exists()


def test_a_server_that_runs_is_left_alone(tmp_path: Path) -> None:
    """It has the lock of its folder."""
    state = StateFolder(tmp_path / "state")
    state.prepare()
    with state.lock(), pytest.raises(UnusableState, match="in use by another osqtwist"):
        restore(Settings(state=str(state.path)), a_backup(tmp_path / "b.tar"), replace=True)
    assert not (state.path / "signing-keys").exists()


def test_what_cannot_be_backed_up_is_named(tmp_path: Path) -> None:
    """No state, a file that is there already, a folder that is not."""
    settings = Settings(state=str(tmp_path / "state"))
    with pytest.raises(UnusableState, match="holds no signing keys"):
        back_up(settings, tmp_path / "b.tar", with_carves=False)
    restore(settings, a_backup(tmp_path / "b.tar"), replace=False)
    with pytest.raises(BadArchive, match=r"b\.tar is there already"):
        back_up(settings, tmp_path / "b.tar", with_carves=False)
    with pytest.raises(BadArchive, match=r"nowhere.*No such file"):
        back_up(settings, tmp_path / "nowhere" / "b.tar", with_carves=False)
    back_up(settings, tmp_path / "c.tar", with_carves=True)
    assert Archive.read(tmp_path / "c.tar").contents.stores == {"private": "store/appendonlydir"}


class Load:
    """Nodes that post all the while."""

    def __init__(self, server: Server, key: str) -> None:
        self.server, self.key = server, key
        self.posted: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            name = f"n{len(self.posted) + 1}x"
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.server.ask("/log", self.line(name)) == {}:
                    self.posted.append(name)

    def line(self, name: str) -> dict[str, Any]:
        return {"node_key": self.key, "log_type": "result", "data": [{"name": name}]}

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)


def stored(server: Server) -> set[str]:
    out = server.osqtwist("--json", "log", "tail", "--no-follow").stdout
    return set(re.findall(r"n\d+x", out))


def enrolled(server: Server) -> str:
    return str(server.ask("/enroll", {"enroll_secret": "", "host_identifier": "h"})["node_key"])


def said(server: Server, *words: str) -> str:
    done = server.osqtwist(*words, timeout=60)
    return (done.stdout + done.stderr).strip()


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_server_is_wiped_and_goes_on(start: Start, tmp_path: Path) -> None:
    """Backed up under load, wiped, restored: nodes keep their keys, lines are there, and the audit trail is whole."""
    server = start()
    key = enrolled(server)
    operate(server, "nodes/node-1.example.com/note", {"note": "kept"})
    load = Load(server, key)
    time.sleep(1)
    before = list(load.posted)
    file = tmp_path / "b.tar"
    assert said(server, "backup", str(file)).startswith("backed up: ")
    load.stop()
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(load.posted) > len(before) > 0
    assert not (server.folder / "state" / "store" / "dump.rdb").exists()
    assert "in use by another osqtwist" in said(server, "restore", str(file), "--replace")
    assert server.stop() == 0
    shutil.rmtree(server.folder / "state")
    assert said(server, "restore", str(file)).startswith("restored: ")
    again = start(folder=server.folder)
    assert "schedule" in again.ask("/config", {"node_key": key}), "it need not enroll again"
    assert look(again, "nodes/node-1.example.com")["note"] == "kept"
    assert set(before) <= stored(again)
    assert again.osqtwist("audit", "verify").returncode == 0
    assert again.ask("/log", load.line("n99999x")) == {}
    assert again.stop() == 0
    # Stopped, its files are taken as they are; and what was there goes aside.
    second = tmp_path / "c.tar"
    assert said(again, "backup", str(second), "--carves").startswith("backed up: ")
    restored = said(again, "restore", str(second), "--replace")
    assert "what was in" in restored, restored
    last = start(folder=server.folder)
    assert "n99999x" in stored(last)
    assert "schedule" in last.ask("/config", {"node_key": key})


ALERT = """
[alert.n]
when = "name:n0x"
"""


def everything(server: Server, key: str, config: Path) -> None:
    """Each thing that a server does with its store, once."""

    def node(path: str, **body: Any) -> Any:
        return server.ask(path, {"node_key": key} | body)

    def told(path: str, said: Any) -> Any:
        answer = operate(server, path, said)
        assert answer.get("status", 200) < 400, answer
        return answer

    query = operate(server, "queries", {"sql": "select 1 as one"})["query_id"]
    assert query in node("/distributed/read")["queries"]
    node("/distributed/write", queries={query: [{"one": "1"}]}, statuses={query: 0})
    until(lambda: look(server, f"queries/{query}")["answered"] == 1)
    block = base64.b64encode(b"carve").decode()
    session = node("/carver/start", block_count=1, block_size=5, carve_size=5, carve_id="g", request_id=query)
    node("/carver/continue", block_id=0, session_id=session["session_id"], data=block, request_id=query)
    assert node("/log", log_type="result", data=[{"name": "n0x"}]) == {}
    assert node("/log", log_type="result", data=["no line"]) == {}
    told("nodes/node-1.example.com/tags", {"add": ["prod"]})
    secret = told("secrets", {"name": "lab", "quota": 5})
    server.ask("/enroll", {"enroll_secret": secret["secret"], "host_identifier": "other"}, node=None)
    told("secrets/lab/revoke", {})
    denial = told("denials", {"kind": "identity", "value": "x"})["denial_id"]
    told(f"denials/{denial}/remove", {})
    told("nodes/other/revoke", {})
    told("nodes/other/restore", {})
    told("nodes/other/forget", {})
    told("tokens", {"name": "ci", "role": "viewer"})
    told("alerts/silences", {"rule": "n", "seconds": 1})
    until(lambda: '"lines"' in json.dumps(look(server, "sinks")))
    told("sinks/lines/pause", {})
    told("sinks/lines/resume", {})
    server.wait_for("version 1: in force")
    (config / "base.conf").write_text('{"schedule": {"b": {"query": "select 2", "interval": 60}}}')
    until(lambda: "b" in node("/config")["schedule"])
    told("rollouts/finish", {})
    for path in (
        "nodes",
        "audit",
        "carves",
        "logs?follow=0&from=start",
        "logs/dead",
        "sinks",
        "alerts",
        "status",
        "clones",
    ):
        look_at(server, path)


def look_at(server: Server, path: str) -> None:
    """Anything; it need not be JSON."""
    words = ["curl", "-sf", "--unix-socket", str(server.folder / "state" / "admin.sock"), f"http://x/api/v1/{path}"]
    subprocess.run(words, timeout=20, capture_output=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_with_a_redis_of_ones_own(start: Start, tmp_path: Path) -> None:
    """The server under the least rights, the backup under its own; nothing is asked that is not allowed."""
    with valkey() as store:
        rights = store.folder / "users.acl"
        rights.write_text(users_for_tests("osqtwist:*"))
        store.ask("ACL", "LOAD")
        port = 0
        store.ask("CONFIG", "SET", "port", str(port := _free()))
        url, other = (f"redis://{user}:for%20tests@127.0.0.1:{port}/0" for user in ("osqtwist", "osqtwist-backup"))
        assert PASSWORD == "for tests"
        store.ask("SET", "somebody:else", "x")
        config, settings = tmp_path / "config", tmp_path / "o.toml"
        config.mkdir()
        (config / "rollout.toml").write_text('steps = [100]\nwait = "1h"\n')
        (config / "base.conf").write_text('{"schedule": {"a": {"query": "select 1", "interval": 60}}}')
        settings.write_text(f'[sink.lines]\nkind = "file"\npath = "{tmp_path}/lines"\n[events]\n{ALERT}')
        words = ["--port", "ssl:0", "--redis", url, "--config", str(config), "--settings", str(settings)]
        server = start(*words)
        key = enrolled(server)
        everything(server, key, config)
        until(lambda: "n0x" in (tmp_path / "lines").read_text())
        load = Load(server, key)
        time.sleep(1)
        before = list(load.posted)
        file = tmp_path / "b.tar"
        assert re.search(r"backed up: \d files and \d+ keys", said(server, "backup", str(file), "--redis", other))
        load.stop()
        words_of_restore = ["restore", str(file), "--redis", other, "--replace"]
        assert "in use by another osqtwist" in said(server, *words_of_restore)
        assert server.stop() == 0
        assert "made with --redis" in said(server, "restore", str(file), "--replace")
        store.ask("FLUSHALL")
        store.ask("SET", "somebody:else", "y")
        shutil.rmtree(server.folder / "state")
        assert said(server, *words_of_restore).startswith("restored: ")
        assert store.ask("GET", "somebody:else") == b"y"
        again = start(*words, folder=server.folder)
        assert "schedule" in again.ask("/config", {"node_key": key})
        assert set(before) <= stored(again)
        assert json.loads(said(again, "--json", "audit", "verify"))
        assert store.ask("ACL", "LOG") == []


def _free() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
