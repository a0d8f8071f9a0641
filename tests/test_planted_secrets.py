"""Secrets that are planted everywhere in a real server, and looked for wherever somebody else could see them."""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import os
import secrets
import socket
import ssl
import stat
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from bench.scene import processes
from tests.certificates import TestPKI
from tests.fuzz.of_nodes import Connections
from tests.stores import valkey
from tests.test_twistd import Server, starting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def planted(name: str) -> str:
    return f"planted-{name}-{secrets.token_hex(10)}"


@attrs.define
class Scene:
    """A server with two workers, a delivery process, and a Redis that wants a password."""

    server: Server
    folder: Path
    port: int
    planted: dict[str, str]

    def post(self, path: str, body: bytes) -> bytes:
        """What is answered to a body."""
        context = ssl.create_default_context(cafile=str(self.folder / "certs" / "ca.pem"))
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as connection,
        ):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            parts = []
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while part := connection.recv(65536):
                    parts.append(part)
        return b"".join(parts)

    def ask(self, path: str, body: Any) -> Any:
        """The JSON that is answered to JSON."""
        return json.loads(self.post(path, json.dumps(body).encode()).partition(b"\r\n\r\n")[2])

    def pids(self) -> list[int]:
        """All processes of the server."""
        return processes(self.server.process.pid)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("p")
    (folder / "certs").mkdir()
    TestPKI.mint(folder / "certs")
    found = {
        name: planted(name) for name in ("enroll-secret", "redis-password", "sink-token", "log-line", "rows", "carve")
    }
    with socket.create_server(("127.0.0.1", 0)) as probe:
        redis = probe.getsockname()[1]
    (folder / "secret").write_text(found["enroll-secret"] + "\n")
    (folder / "settings.toml").write_text(
        f'redis = "redis://:{found["redis-password"]}@127.0.0.1:{redis}/0"\n'
        '[sink.away]\nkind = "splunk"\nurl = "http://127.0.0.1:9"\n'
        f'token = "{found["sink-token"]}"\n'
    )
    os.umask(0o022)
    words = ("--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--requirepass", found["redis-password"])
    with valkey(*words, program_only=True), starting(tmp_path_factory) as start:
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", redis), 1).close()
                break
            time.sleep(0.05)
        certs = folder / "certs"
        server = start(
            *("--port", "ssl:0:interface=127.0.0.1", "--settings", "settings.toml", "--workers", "2"),
            *(
                "--cert",
                str(certs / "server.pem"),
                "--key",
                str(certs / "server.key"),
                "--client-ca",
                str(certs / "ca.pem"),
            ),
            *("--enroll-secret-path", "secret"),
            folder=folder,
        )
        yield Scene(server, folder, server.port, found)


def looked_through(scene: Scene, text: str, where: str) -> list[str]:
    return [f"{name} is in {where}" for name, secret in scene.planted.items() if secret in text]


def test_no_secret_is_where_others_can_see_it(scene: Scene) -> None:
    """Logs, metrics, process lists, environments, answers to strangers, and files that others may read."""
    server, answers = scene.server, []
    signing = (scene.folder / "state" / "signing-keys").read_text().splitlines()[-1].split()
    scene.planted["signing-key"] = signing[1]
    enroll = {"host_identifier": "h", "platform_type": "9", "host_details": {}}
    key = scene.ask("/enroll", enroll | {"enroll_secret": scene.planted["enroll-secret"]})["node_key"]
    scene.planted["node-key"] = key
    scene.planted["token"] = server.osqtwist("token", "add", "ci", "--role", "admin").stdout.strip()
    scene.planted["handed-secret"] = server.osqtwist("secret", "add", "ci").stdout.strip()
    assert all(len(secret) > 20 for secret in scene.planted.values()), scene.planted
    # All is used, rightly and wrongly.
    line, rows = scene.planted["log-line"], scene.planted["rows"]
    assert scene.ask("/log", {"node_key": key, "log_type": "result", "data": [{"name": line}]}) == {}
    answers.append(scene.post("/log", json.dumps({"node_key": key, "log_type": line, "data": [line, 1]}).encode()))
    answers.append(scene.post("/log", f'{{"node_key":"{key}","log_type":"{line}",'.encode()))
    answers.append(scene.post("/distributed/write", json.dumps({"node_key": key, "queries": {"q": rows}}).encode()))
    answers.append(scene.post("/config", json.dumps({"node_key": key + "x"}).encode()))
    answers.append(scene.post("/config", json.dumps({"node_key": [key]}).encode()))
    answers.append(
        scene.post("/enroll", json.dumps(enroll | {"enroll_secret": [scene.planted["enroll-secret"]]}).encode())
    )
    answers.append(scene.post(f"/enroll?secret={scene.planted['enroll-secret']}", json.dumps(enroll).encode()))
    answers.append(scene.post(f"/{scene.planted['enroll-secret']}", b"{}"))
    carve = base64.b64encode(scene.planted["carve"].encode()).decode()
    size = len(scene.planted["carve"])
    order = {"node_key": key, "carve_id": "c", "block_count": 1, "block_size": size, "carve_size": size}
    session = scene.ask("/carver/start", order)["session_id"]
    scene.planted["carve-session"] = session
    answers.append(
        scene.post("/carver/continue", json.dumps({"session_id": session, "block_id": 9, "data": carve}).encode())
    )
    assert scene.ask("/carver/continue", {"session_id": session, "block_id": 0, "data": carve}) == {}
    answers += [server.osqtwist("sink", "list").stdout.encode(), server.osqtwist("status").stdout.encode()]
    for words in (("token", "list"), ("secret", "list"), ("signing-key", "list"), ("audit", "list"), ("carve", "list")):
        answers.append(server.osqtwist("--json", *words).stdout.encode())
    wrong = scene.folder / "wrong-token"
    wrong.write_text(scene.planted["token"][:-1] + "x")
    answers.append(server.osqtwist("--token-file", str(wrong), "status").stderr.encode())
    server.wait_for("sink away")
    found = looked_through(scene, server.text(), "the log")
    for answer in answers:
        found += looked_through(scene, answer.decode("utf-8", "replace"), f"the answer {answer[:200]!r}")
    assert len(scene.pids()) >= 4
    for pid in scene.pids():
        for name in ("cmdline", "environ"):
            text = Path(f"/proc/{pid}/{name}").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            found += looked_through(scene, text, f"{name} of {text[:60]}")
    assert found == []
    # What has secrets in it is nobody else's to read; neither is what nodes sent.
    state = scene.folder / "state"
    open_ = [
        str(path)
        for path in [state, *state.rglob("*")]
        if stat.S_IMODE(path.lstat().st_mode) & 0o077 and not (path.is_file() and path.suffix == ".pem")
    ]
    assert [path for path in open_ if (state / path).is_dir()] == []
    seen = [
        path
        for path in open_
        if (state / path).is_file() and looked_through(scene, (state / path).read_text("utf-8", "replace"), path)
    ]
    assert seen == []


def test_metrics_have_no_secret(scene: Scene) -> None:
    """Their labels never come from a node, nor from what it shows."""
    enroll = {"enroll_secret": scene.planted["enroll-secret"], "host_identifier": scene.planted["rows"]}
    key = scene.ask("/enroll", enroll)["node_key"]
    scene.planted["node-key"] = key
    scene.ask("/config", {"node_key": key})
    time.sleep(2.5)
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(scene.folder / "state" / "admin.sock"))
        admin.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b""
        while part := admin.recv(65536):
            text += part
    said = text.decode()
    assert f'osqtwist_signing_key_requests_total{{key="{key.split(".")[1]}"}}' in said
    assert looked_through(scene, said, "the metrics") == []


def test_signing_keys_rotate_while_nodes_come_and_go(scene: Scene) -> None:
    """On every worker, without a restart: no key is refused that was given, until its signing key is retired."""
    enroll = {"enroll_secret": scene.planted["enroll-secret"], "host_identifier": "h"}
    first = scene.ask("/enroll", enroll)["node_key"]
    (row,) = scene.server.json("signing-key", "list")
    assert (row["key"], row["state"]) == (first.split(".")[1], "signs")
    scene.server.json("signing-key", "rotate")
    keys, until = [first], time.monotonic() + 13
    while time.monotonic() < until:
        keys.append(scene.ask("/enroll", enroll)["node_key"])
        for key in {keys[0], *keys[-3:]}:
            assert "schedule" in scene.ask("/config", {"node_key": key})
        time.sleep(0.2)
    assert len({key.split(".")[1] for key in keys}) == 2
    assert scene.server.osqtwist("signing-key", "retire", keys[-1].split(".")[1]).returncode == 1
    assert [each["state"] for each in scene.server.json("signing-key", "retire", row["key"])] == ["signs"]
    time.sleep(2.5)
    assert [scene.ask("/config", {"node_key": first}).get("node_invalid") for _ in range(6)] == [True] * 6
    assert "schedule" in scene.ask("/config", {"node_key": keys[-1]})
    assert "signing-key" in scene.server.osqtwist("audit", "list").stdout


@pytest.mark.parametrize(
    ("path", "cut", "is_down"),
    [("/distributed/write", 0, False), ("/distributed/write", 2, False), ("/log", 0, True), ("/config", 0, False)],
    ids=["answered", "malformed", "the store is down", "too large"],
)
def test_no_body_of_a_request_is_kept(path: str, cut: int, is_down: bool) -> None:
    """Once it is answered nothing refers to it, and nothing waits for Python's collection, which comes seldom."""
    served = Connections()
    rows = json.dumps(
        {"queries": {"none": [{"a": f"x{n}"} for n in range(40_000)]}, "log_type": "result", "data": [{}]}
    )

    def post(number: int) -> None:
        body = rows.replace("x1", f"{number}")[: len(rows) - cut].encode()
        served.server.down(is_down)
        head = f"POST {path} HTTP/1.1\r\nAuthorization: NodeKey @KEY@\r\nContent-Length: {len(body)}\r\n\r\n"
        assert served.answer(head.encode() + body).startswith(b"HTTP/1.1 ")
        served.server.down(False)

    served.begin()
    post(1)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(2, 6):
            post(number)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert after - before < len(rows) / 4
