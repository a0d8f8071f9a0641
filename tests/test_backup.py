"""osqtwist backup and restore: nothing is lost, nothing is half restored, and nobody else can read it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from osqtwist.archive import Archive, ArchiveWriter, BadArchive, Contents
from tests.stores import PASSWORD, users_for_tests, valkey
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
            name = f"n{len(self.posted)}x"
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
    assert server.osqtwist("node", "note", "node-1.example.com", "kept").returncode == 0
    load = Load(server, key)
    time.sleep(1)
    before = list(load.posted)
    file = tmp_path / "b.tar"
    assert said(server, "backup", str(file)).startswith("backed up: ")
    load.stop()
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(load.posted) > len(before) > 0
    assert not (server.folder / "state" / "store" / "dump.rdb").exists()
    assert "is there already" in said(server, "backup", str(file))
    assert "in use by another osqtwist" in said(server, "restore", str(file), "--replace")
    assert server.stop() == 0
    assert "--replace puts what is there aside" in said(server, "restore", str(file))
    shutil.rmtree(server.folder / "state")
    assert said(server, "restore", str(file)).startswith("restored: ")
    again = start(folder=server.folder)
    assert "schedule" in again.ask("/config", {"node_key": key}), "it need not enroll again"
    assert again.json("node", "show", "node-1.example.com")["note"] == "kept"
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
        server = start("--port", "ssl:0", "--redis", url)
        key = enrolled(server)
        load = Load(server, key)
        time.sleep(1)
        before = list(load.posted)
        file = tmp_path / "b.tar"
        words = ["backup", str(file), "--redis", other]
        assert re.search(r"backed up: \d files and \d+ keys", said(server, *words))
        load.stop()
        restore = ["restore", str(file), "--redis", other, "--replace"]
        assert "in use by another osqtwist" in said(server, *restore)
        assert server.stop() == 0
        assert "made with --redis" in said(server, "restore", str(file), "--replace")
        store.ask("FLUSHALL")
        store.ask("SET", "somebody:else", "y")
        shutil.rmtree(server.folder / "state")
        assert said(server, *restore).startswith("restored: ")
        assert store.ask("GET", "somebody:else") == b"y"
        again = start("--port", "ssl:0", "--redis", url, folder=server.folder)
        assert "schedule" in again.ask("/config", {"node_key": key})
        assert set(before) <= stored(again)
        assert json.loads(said(again, "--json", "audit", "verify"))
        assert store.ask("ACL", "LOG") == []


def _free() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
