"""The real thing: twistd, its plug-in, real processes, real signals, and a fleet of simulated nodes."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.certificates import TestPKI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

BIN = Path(sys.executable).parent


@attrs.define
class Server:
    """A twistd process in a folder of its own."""

    folder: Path
    process: subprocess.Popen[str]
    log: Path
    port: int = 0

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def wait_for(self, pattern: str, seconds: float = 20.0) -> re.Match[str]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.text()):
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"no {pattern!r} in:\n{self.text()}")

    def osqtwist(self, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "osqtwist"), *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def json(self, *words: str) -> Any:
        done = self.osqtwist("--json", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def ask(self, path: str, body: Any, node: str | None = "node", timeout: float = 20) -> Any:
        context = ssl.create_default_context(cafile=str(self.folder / "certs" / "ca.pem"))
        if node:
            context.load_cert_chain(self.folder / "certs" / f"{node}.pem", self.folder / "certs" / f"{node}.key")
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=timeout, context=context)
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
            return json.loads(connection.getresponse().read())

    def stop(self) -> int:
        """End it by SIGTERM; twistd, once it has stopped in order, ends itself by that signal."""
        self.process.send_signal(signal.SIGTERM)
        return 0 if self.process.wait(30) in (0, -signal.SIGTERM) else 1


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts servers, and ends those that still run."""
    with starting(tmp_path_factory) as begin:
        yield begin


@contextlib.contextmanager
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The same, for as long as a context lasts."""
    running: list[Server] = []

    def begin(*words: str, folder: Path | None = None, wait: bool = True, env: dict[str, str] | None = None) -> Server:
        # A short folder: the path of a socket has about a hundred letters at most.
        folder = folder or tmp_path_factory.mktemp("s")
        log = folder / f"twistd-{len(running)}.out"
        with log.open("w") as out:
            process = subprocess.Popen(
                [str(BIN / "twistd"), "-n", "--pidfile=", "osqtwist", *(words or ("--port", "ssl:0"))],
                cwd=folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | (env or {}),
                # A shell that runs the tests in its background has them ignore it, and children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            )
        server = Server(folder, process, log)
        running.append(server)
        if wait:
            server.wait_for(r"serves operators")
            server.port = int(re.findall(r"serves nodes on .* port (\d+)\)", server.text())[-1])
        return server

    try:
        yield begin
    finally:
        for server in running:
            if server.process.poll() is None:
                server.stop()


def refused(server: Server) -> str:
    """The one sentence of a server that did not start."""
    assert server.process.wait(30) == 1
    text = server.text()
    assert "Traceback" not in text, text
    (sentence,) = [line for line in text.splitlines() if line.startswith("osqtwist: ")]
    return sentence


# -- the quick start


def test_quick_start(start: Start) -> None:
    """From nothing to rows of a live query, log lines with the proven identity, and a clean end."""
    server = start()
    assert "DEVELOPMENT" in server.text()
    assert (server.folder / "certs" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert (server.folder / "state" / "enroll-secret").stat().st_mode & 0o777 == 0o600
    simulation = subprocess.Popen(
        [str(BIN / "osqtwist"), "simulate", "--nodes", "5", "--server", f"localhost:{server.port}", "--duration", "16"],
        cwd=server.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.json("status")["parked_reads"] < 5:
        time.sleep(0.2)
    done = server.osqtwist("query", "run", "select 1 as one, hostname from system_info")
    rows = done.stdout.splitlines()
    assert rows[0] == "node\tone\thostname"
    assert sorted(row.split("\t") for row in rows[1:]) == [
        [f"node-{number:05d}.sim", "1", f"node-{number:05d}.sim"] for number in range(1, 6)
    ]
    assert "5 of 5 nodes answered" in done.stderr
    bad = server.osqtwist("query", "run", "select * from nonsense", "--node", "node-00001.sim")
    assert bad.returncode == 1
    assert "no such table" in bad.stderr
    out, _ = simulation.communicate(timeout=40)
    summary = json.loads(out)
    assert summary["failures"] == {}
    assert summary["enrollments"] == 5
    assert summary["schedule_wipes"] == summary["invalidated"] == 0
    assert 0 < summary["lines_acknowledged"] <= summary["lines_generated"]
    tail = server.osqtwist("log", "tail", "--no-follow")
    assert tail.returncode == 0
    assert "node-00003.sim (certificate) result" in tail.stdout
    lines = [json.loads(line) for line in server.osqtwist("--json", "log", "tail", "--no-follow").stdout.splitlines()]
    assert len(lines) == summary["lines_acknowledged"]
    assert {line["identity"] for line in lines} == {f"node-{number:05d}.sim" for number in range(1, 6)}
    nodes = server.json("node", "list")
    assert len(nodes) == 5
    assert server.json("node", "show", "node-00001.sim")["proof"] == "certificate"
    assert server.stop() == 0
    assert "Unhandled" not in server.text()
    assert "Traceback" not in server.text()


def test_nodes_without_certificates_enroll_with_the_secret(start: Start) -> None:
    """--client-auth optional serves both; the secret comes from the state folder."""
    server = start()
    words = ["simulate", "--nodes", "2", "--no-certs", "--server", f"localhost:{server.port}", "--duration", "3"]
    done = server.osqtwist(*words)
    assert done.returncode == 0, done.stderr
    assert {node["proof"] for node in server.json("node", "list")} == {"secret"}


def test_as_many_connections_as_the_system_allows(start: Start) -> None:
    """A soft limit of open files is raised to the hard one, for workers too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server = start("--port", "ssl:0", "--workers", "2")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    pids = [server.process.pid, *(row["pid"] for row in server.json("worker", "list"))]
    assert len(pids) == 3
    for pid in pids:
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_restart_keeps_everything_and_makes_nothing_new(start: Start) -> None:
    """Certificates, secret, signing keys and data are those of before; keys stay good."""
    first = start()
    key = first.ask("/enroll", {"enroll_secret": "", "host_identifier": "h"})["node_key"]
    first.ask("/log", {"node_key": key, "log_type": "result", "data": [{"a": 1}]})
    secret = (first.folder / "state" / "enroll-secret").read_text()
    certificate = (first.folder / "certs" / "server.pem").read_bytes()
    first.stop()
    second = start(folder=first.folder)
    assert second.ask("/config", {"node_key": key})["schedule"]
    assert second.json("status")["log_buffer"]["batches"] == 1
    assert (first.folder / "state" / "enroll-secret").read_text() == secret
    assert (first.folder / "certs" / "server.pem").read_bytes() == certificate


def test_sigterm_answers_held_reads(start: Start) -> None:
    """A held read gets {} at once, not a broken connection; the private Valkey ends too."""
    server = start()
    server.ask("/config", {"node_key": ""})
    code = (
        "import json,sys; from tests.test_twistd import *\n"
        f"s = Server(Path({str(server.folder)!r}), None, None, {server.port})\n"
        "print(json.dumps(s.ask('/distributed/read', {'node_key': ''})))"
    )
    reading = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and not server.json("status")["parked_reads"]:
        time.sleep(0.1)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 6
    out, _ = reading.communicate(timeout=20)
    assert json.loads(out) == {}
    assert not (server.folder / "state" / "store" / "valkey.sock").exists()


def test_kill_9_loses_nothing_that_was_acknowledged(start: Start) -> None:
    """The server dies; its Valkey is stopped and started by the next, with all there was."""
    first = start()
    for number in range(50):
        assert first.ask("/log", {"node_key": "", "log_type": "result", "data": [{"n": number}]}) == {}
    first.process.kill()
    first.process.wait(10)
    second = start(folder=first.folder)
    lines = second.osqtwist("--json", "log", "tail", "--no-follow").stdout.splitlines()
    assert [json.loads(line)["line"]["n"] for line in lines] == list(range(50))


def test_why_a_node_has_its_config(start: Start, tmp_path: Path) -> None:
    """The config on standard output, why it is that on standard error; and what another folder would change for it."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "00.conf").write_text('{"schedule": {"q": {"query": "SELECT 1", "interval": 60}}}')
        (tmp_path / folder / "10.conf").write_text('{"osqtwist": {"target": {"where": "tag:prod"}}}')
    (tmp_path / "two" / "20.conf").write_text(
        '{"osqtwist": {"target": {"where": "proof:certificate"}}, "options": {"custom_a": 2}}'
    )
    server = start("--port", "ssl:0", "--config", str(tmp_path / "one"))
    server.ask("/config", {"node_key": ""})
    node = "node-1.example.com"
    shown = server.osqtwist("config", "show", node)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["schedule"]["q"]["interval"] == 60
    told = shown.stderr.splitlines()
    assert told[:2] == ["# 00.conf: applies: it is for every node", "# 10.conf: not: where: tag:prod: it has no tag"]
    why = server.osqtwist("config", "show", node, "--why").stdout
    assert re.search(r"^q +00\.conf +00\.conf +-", why, re.M), why
    assert re.search(r"^logger_tls_period +\(the server's default\)", why, re.M), why
    assert {row["layer"] for row in server.json("config", "show", node, "--why")["layers"]} == {"00.conf", "10.conf"}
    folders = [str(tmp_path / folder) for folder in ("one", "two")]
    done = server.osqtwist("config", "diff", *folders, "--node", node)
    assert (done.returncode, done.stdout.splitlines()) == (1, ["+ layer 20.conf", "+ option custom_a", "    + 2"])


def test_sighup_and_changes_are_read(start: Start, tmp_path: Path) -> None:
    """A new layer, a bad one, a new secret: the good is served, the bad only named."""
    (tmp_path / "00.conf").write_text('{"options": {"custom_a": 1}}')
    secrets = tmp_path / "secrets"
    secrets.write_text("one\n")
    server = start("--port", "ssl:0", "--config", str(tmp_path), "--enroll-secret-path", str(secrets))
    (tmp_path / "10.conf").write_text('{"options": {"custom_b": 2}}')
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("SIGHUP")
    server.wait_for("2 layers")
    assert server.ask("/config", {"node_key": ""})["options"]["custom_b"] == 2
    (tmp_path / "10.conf").write_text('{"options": {"custom_b": 2}')
    server.wait_for(r"10\.conf: line 1")
    assert server.ask("/config", {"node_key": ""})["options"]["custom_b"] == 2
    secrets.write_text("two new-tag\nthree\n")
    server.wait_for("2 enroll secrets in force")
    answer = server.ask("/enroll", {"enroll_secret": "two", "host_identifier": "h"}, node=None)
    assert answer["node_key"]
    assert "node_key" not in server.ask("/enroll", {"enroll_secret": "one", "host_identifier": "h"}, node=None)
    assert server.json("node", "show", "h")["tags"] == ["new-tag"]


def test_carves_from_start_to_get(start: Start, tmp_path: Path) -> None:
    """A simulated node carves; list shows it; get writes the bytes and checks them."""
    server = start()
    simulation = subprocess.Popen(
        [str(BIN / "osqtwist"), "simulate", "--nodes", "1", "--server", f"localhost:{server.port}", "--duration", "8"],
        cwd=server.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and server.json("status")["parked_reads"] < 1:
        time.sleep(0.1)
    server.osqtwist("query", "run", "select * from carves where carve=1 and path='/etc/hosts'")
    carves: list[Any] = []
    while time.monotonic() < deadline and not (carves and carves[0]["sha256"]):
        carves = server.json("carve", "list")
        time.sleep(0.1)
    done = server.osqtwist("carve", "get", carves[0]["carve"], "-o", "out.tar")
    assert done.returncode == 0, done.stderr
    assert (server.folder / "out.tar").read_bytes() == b"node-00001.sim" * 5000
    assert server.osqtwist("carve", "get", "nonsense").returncode == 1
    simulation.wait(30)


# -- what an operator does wrong


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--hold", "13"], ["--hold is 13", "0 to 12"]),
        (["--nonsense"], ["--nonsense"]),
        (["stray"], ["'stray'"]),
        (["--port", "ssl:x"], ["--port ssl:x", "port number"]),
        (["--port", "tcp:8080"], ["--port tcp:8080"]),
        (["--port", "systemd:name=web"], ["systemd", "no socket"]),
        (["--config", "/nowhere"], ["--config", "/nowhere", "No such file"]),
        (["--settings", "/nowhere.toml"], ["--settings /nowhere.toml"]),
        (["--enroll-secret-path", "/nowhere"], ["--enroll-secret-path /nowhere", "No such file"]),
        (["--redis", "redis://127.0.0.1:1/0"], ["--redis redis://127.0.0.1:1", "refused"]),
        (["--redis", "redis://u:topsecret@127.0.0.1:1/0"], ["--redis redis://127.0.0.1:1"]),
        (["--redis", "http://x"], ["--redis must begin with"]),
        (["--cert", "/nowhere.pem"], ["--cert is given, but --key is not"]),
        (["--cert", "/nowhere.pem", "--key", "/n", "--client-auth", "none"], ["--cert /nowhere.pem", "No such file"]),
        (["--state", "/proc/nowhere"], ["--state /proc/nowhere"]),
        (["--workers", "65"], ["--workers is 65"]),
        (["--workers", "some"], ["--workers is 'some'", "a whole number or auto"]),
    ],
)
def test_a_bad_start_is_one_sentence(start: Start, words: list[str], expected: list[str]) -> None:
    """It names what is at fault; the exit status is 1, there is no traceback, and no secret in it."""
    sentence = refused(start(*words, wait=False))
    for word in expected:
        assert word in sentence
    assert "topsecret" not in sentence


def test_a_port_in_use_is_one_sentence(start: Start) -> None:
    """Before anything else is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        sentence = refused(start("--port", f"ssl:{number}:interface=127.0.0.1", wait=False))
    assert f"ssl:{number}" in sentence
    assert "in use" in sentence


def test_certificates_that_do_not_fit_are_one_sentence(start: Start, tmp_path: Path) -> None:
    """Mismatch and expiry."""
    pki = TestPKI.mint(tmp_path)
    paths = {name: str(tmp_path / name) for name in ("server.pem", "server.key", "good.key", "ca.pem")}
    common = ["--cert", paths["server.pem"], "--client-ca", paths["ca.pem"]]
    assert "not the key of" in refused(start(*common, "--key", paths["good.key"], wait=False))
    pki.write("server", pki.nodes["expired"])
    assert "expired on" in refused(start(*common, "--key", paths["server.key"], wait=False))


def test_two_servers_cannot_share_a_state_folder(start: Start) -> None:
    """The second one says so and leaves the first alone."""
    first = start()
    sentence = refused(start("--port", "ssl:0", folder=first.folder, wait=False))
    assert f"--state {first.folder}/state is in use" in sentence
    assert first.json("status")["nodes"] == 0


def test_with_everything_given_nothing_is_made(start: Start, tmp_path: Path) -> None:
    """--cert, --key, --client-ca, --redis and --config: no certificates, no secret, no Valkey, no sample."""
    from tests.stores import valkey

    TestPKI.mint(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.conf").write_text("{}")
    with valkey() as store:
        words = ["--port", "ssl:0", "--cert", str(tmp_path / "server.pem"), "--key", str(tmp_path / "server.key")]
        words += ["--client-ca", str(tmp_path / "ca.pem"), "--redis", f"unix:{store.place.path}"]
        server = start(*words, "--config", str(tmp_path / "conf"), "--client-auth", "required")
        assert not (server.folder / "certs").exists()
        assert not (server.folder / "state" / "enroll-secret").exists()
        assert not list((server.folder / "state" / "store").iterdir())
        assert "DEVELOPMENT" not in server.text()
        flags = server.osqtwist("flags").stdout
        assert f"--tls_hostname=localhost:{server.port}" in flags
        assert "--disable_enrollment=true" in flags
        assert server.stop() == 0
        assert store.process is not None and store.process.poll() is None


# -- twistd's own ways


def test_settings_file_and_environment(start: Start, tmp_path: Path) -> None:
    """The same names everywhere; two ports."""
    (tmp_path / "o.toml").write_text('port = ["ssl:0:interface=127.0.0.1", "ssl:0:interface=127.0.0.1"]\nhold = 1\n')
    server = start("--settings", str(tmp_path / "o.toml"), env={"OSQTWIST_HOLD": "0"})
    assert len(re.findall("serves nodes on", server.text())) == 2
    began = time.monotonic()
    assert server.ask("/distributed/read", {"node_key": ""}) == {}
    assert time.monotonic() - began < 0.8


def test_daemon_mode_with_pidfile_and_logfile(tmp_path_factory: pytest.TempPathFactory) -> None:
    """twistd forks, the command returns, the server serves, and ends by its pid file."""
    folder = tmp_path_factory.mktemp("d")
    words = ["--pidfile=s.pid", "--logfile=s.log", "osqtwist", "--port", "ssl:0"]
    done = subprocess.run([str(BIN / "twistd"), *words], cwd=folder, timeout=60, check=False)
    assert done.returncode == 0
    pid = 0
    try:
        deadline = time.monotonic() + 20
        log = folder / "s.log"
        while time.monotonic() < deadline and not (log.exists() and "serves operators" in log.read_text()):
            time.sleep(0.1)
        pid = int((folder / "s.pid").read_text())
        status = subprocess.run(
            [str(BIN / "osqtwist"), "status"], cwd=folder, capture_output=True, text=True, timeout=30, check=False
        )
        assert status.returncode == 0, status.stderr
    finally:
        if pid:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and (folder / "s.pid").exists():
                time.sleep(0.1)
    assert not (folder / "s.pid").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_uid_and_gid(tmp_path_factory: pytest.TempPathFactory, start: Start) -> None:
    """Started as root with --uid: it binds as root, runs as the user, and all it made is the user's."""
    folder = Path("/tmp") / f"osqtw-uid-{os.getpid()}"
    folder.mkdir(mode=0o755)
    log = folder / "out"
    try:
        with log.open("w") as out:
            process = subprocess.Popen(
                [
                    str(BIN / "twistd"),
                    "-n",
                    "--pidfile=",
                    "--uid=65534",
                    "--gid=65534",
                    "osqtwist",
                    "--port",
                    "ssl:443",
                ],
                cwd=folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        server = Server(folder, process, log, 443)
        server.wait_for("serves operators")
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"Uid:\t65534\t65534", status)
        for path in (folder / "state").rglob("*"):
            if not path.is_symlink():
                assert path.stat().st_uid == 65534, path
        assert server.ask("/config", {"node_key": ""})["options"]
        assert server.stop() == 0
    finally:
        # An orderly end first: kill -9 would leave its Valkey behind.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait(10)
        subprocess.run(["rm", "-rf", str(folder)], check=False)


def test_metrics_and_health(start: Start) -> None:
    """Over the admin socket, for Prometheus and for a probe."""
    server = start()
    server.ask("/config", {"node_key": ""})
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as raw:
        raw.connect(str(server.folder / "state" / "admin.sock"))
        raw.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b""
        while part := raw.recv(65536):
            text += part
    assert b'osqtwist_requests_total{outcome="answered",route="config"} 1.0' in text
    assert b"osqtwist_store_up 1.0" in text
    done = subprocess.run(
        ["curl", "-sS", "--unix-socket", "state/admin.sock", "http://admin/healthz"],
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert json.loads(done.stdout) == {"status": "ok"}


def test_no_server_is_exit_status_3(tmp_path: Path) -> None:
    """The command says where nobody answers."""
    done = subprocess.run(
        [str(BIN / "osqtwist"), "status"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 3
    assert "state/admin.sock" in done.stderr


def test_operators_come_in_over_tls(start: Start, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a certificate of their own CA that says a role, or with a token; nobody else, and no node."""
    folder = tmp_path_factory.mktemp("o")
    run = functools.partial(subprocess.run, cwd=folder, check=True, capture_output=True, text=True)
    run([str(BIN / "osqtwist"), "pki", "init", "ops", "--name", "operators CA"])
    for name, role in (("alice", "admin"), ("vera", "viewer")):
        run([str(BIN / "osqtwist"), "pki", "operator", name, "--role", role, "--dir", "ops"])
    words = ["--port", "ssl:0", "--admin-port", "ssl:0:interface=127.0.0.1", "--admin-ca", "ops/ca.pem"]
    server = start(*words, folder=folder)
    number = int(server.wait_for(r"serves operators on .* port (\d+)\) too")[1])
    there = ["--server", f"https://localhost:{number}", "--server-ca", "certs/ca.pem"]

    def as_(name: str) -> list[str]:
        return [*there, "--cert", f"ops/operators/{name}.pem", "--key", f"ops/operators/{name}.key"]

    assert server.json(*as_("alice"), "whoami")["role"] == "admin"
    assert server.json(*as_("vera"), "status")["nodes"] == 0
    refused = server.osqtwist(*as_("vera"), "node", "revoke", "x")
    assert (refused.returncode, "vera is viewer; this needs the role operator" in refused.stderr) == (1, True)
    nobody = server.osqtwist(*there, "status")
    assert (nobody.returncode, "come with a certificate or a token" in nobody.stderr) == (1, True)
    node = server.osqtwist(*there, "--cert", "certs/node.pem", "--key", "certs/node.key", "status")
    assert (node.returncode, "handshake" in node.stderr) == (3, True), node.stderr
    stranger = server.osqtwist("--server", f"https://localhost:{number}", "status")
    assert (stranger.returncode, "certificate verify failed" in stranger.stderr) == (3, True)
    token = server.osqtwist(*as_("alice"), "token", "add", "grafana", "--group", "metrics").stdout
    (folder / "token").write_text(token)
    limited = server.osqtwist(*there, "--token-file", "token", "status")
    assert (limited.returncode, "good for metrics only" in limited.stderr) == (1, True)
    context = ssl.create_default_context(cafile=str(folder / "certs" / "ca.pem"))
    connection = http.client.HTTPSConnection("localhost", number, timeout=20, context=context)
    with contextlib.closing(connection):
        for _ in range(2):
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token.strip()}"})
            assert b"osqtwist_nodes" in connection.getresponse().read()
        connection.request("POST", "/api/v1/queries", b"x" * (2**20 + 1))
        assert connection.getresponse().status == 413
    entries = server.json("audit", "list")
    assert {entry["actor"] for entry in entries} >= {"vera", "alice", "token grafana", "somebody at 127.0.0.1"}
    assert token.strip() not in server.text() + json.dumps(entries)
