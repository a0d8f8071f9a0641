"""The reference server's place: what osquery's own tests ask of ``test_http_server.py``, asked of ours."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
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

from osqtwist.pki import Authority

pytestmark = pytest.mark.slow

SECRET = "this_is_a_deployment_secret"
CONFIG_SHA1 = "1c70dc4608ed9f8d8e24d23359a46e8739a93558"


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like osquery's test configs, with certificates minted on the spot."""
    folder = tmp_path_factory.mktemp("configs")
    authority = Authority.create("reference CA")
    authority.credential.write(folder / "test_server_ca.pem", folder / "ca.key")
    server = authority.issue("localhost", "server", dns=["localhost"], addresses=["127.0.0.1"])
    server.write(folder / "test_server.pem", folder / "test_server.key")
    # Like osquery's own test certificates, without a subject alternative name.
    authority.issue("wrong.example.com", "server", dns=["wrong.example.com"]).write(
        folder / "test_server_wrong_hostname.pem", folder / "wrong.key"
    )
    authority.issue("client", "node").write(folder / "test_client.pem", folder / "test_client.key")
    Authority.create("another CA").credential.write(folder / "other_ca.pem", folder / "other_ca.key")
    (folder / "test_enroll_secret.txt").write_text(SECRET + "\n")
    return folder


@attrs.define
class Reference:
    """A running reference server."""

    process: subprocess.Popen[bytes]
    port: int
    configs: Path
    is_tls: bool

    def context(self, ca: str = "test_server_ca.pem", client: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.configs / ca))
        if client:
            context.load_cert_chain(self.configs / "test_client.pem", self.configs / "test_client.key")
        return context

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        context: ssl.SSLContext | None = None,
        raw: bytes | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request."""
        if self.is_tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "localhost", self.port, timeout=10, context=context or self.context()
            )
        else:
            connection = http.client.HTTPConnection("localhost", self.port, timeout=10)
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON of an answer."""
        _, headers, content = self.ask(method, path, body, **more)
        return json.loads(gzip.decompress(content) if headers.get("content-encoding") == "gzip" else content)

    def enroll(self) -> str:
        """A node key."""
        key = self.json("POST", "/enroll", {"enroll_secret": SECRET, "host_identifier": "h"})["node_key"]
        assert isinstance(key, str)
        return key


Start = Callable[..., Reference]


@pytest.fixture
def start(configs: Path) -> Iterator[Start]:
    """Starts reference servers, and ends them by SIGKILL, as osquery's tests do."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str, tls: bool = True) -> Reference:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        words = ["reference", *(["--tls"] if tls else []), *arguments, "--test-configs-dir", str(configs), str(port)]
        process = subprocess.Popen(
            [sys.executable, "-c", "from osqtwist.cli import main; main()", *words], stderr=subprocess.DEVNULL
        )
        running.append(process)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return Reference(process, port, configs, tls)
        raise AssertionError("the reference server did not start")

    yield begin
    for process in running:
        process.kill()
        process.wait(10)


def test_get_is_json(start: Start) -> None:
    """GET / parses as JSON (test_call)."""
    assert start().json("GET", "/") == {"foo": "baz", "config": "baz"}


def test_post_is_an_echo(start: Start) -> None:
    """POST / of foo: bar answers foo: bar (test_call_with_params)."""
    server = start()
    assert server.json("POST", "/", {"foo": "bar"}) == {"foo": "bar"}


def test_other_authorities_do_not_verify(start: Start) -> None:
    """A client with other CAs refuses the server (test_call_verify_peer)."""
    server = start()
    with pytest.raises(ssl.SSLCertVerificationError):
        server.ask("GET", "/", context=server.context("other_ca.pem"))


def test_the_server_verifies_with_its_own_authority(start: Start) -> None:
    """A client pinned to the server's CA is served (test_call_server_cert_pinning)."""
    assert start().ask("GET", "/")[0] == 200


def test_client_certificates_are_verified(start: Start) -> None:
    """With --verify-client-cert a client with a certificate is served, and one without is not."""
    server = start("--verify-client-cert")
    assert server.json("GET", "/", context=server.context(client=True))["foo"] == "baz"
    with pytest.raises((ssl.SSLError, OSError)):
        server.ask("GET", "/")


def test_a_wrong_host_name_fails_at_the_client(start: Start, configs: Path) -> None:
    """A server with a certificate for another name is refused by the client (test_wrong_hostname)."""
    wrong = ["--cert", str(configs / "test_server_wrong_hostname.pem"), "--key", str(configs / "wrong.key")]
    server = start(*wrong, "--verify-client-cert")
    with pytest.raises(ssl.SSLCertVerificationError):
        server.ask("GET", "/", context=server.context(client=True))


def test_gzip_is_required_and_given(start: Start) -> None:
    """With --require-gzip answers are gzip, and requests that do not accept it are refused."""
    server = start("--require-gzip")
    accept = {"Accept-Encoding": "gzip"}
    assert server.json("GET", "/", headers=accept)
    assert server.json("POST", "/", {"foo": "bar"}, headers=accept) == {"foo": "bar"}
    assert server.ask("GET", "/")[0] == 400


def test_enroll_then_config(start: Start) -> None:
    """The configuration has the SHA-1 that osquery's test knows, key order included (test_retrieve_config)."""
    server = start()
    key = server.enroll()
    body = server.ask("POST", "/config", {"node_key": key})[2]
    compact = json.dumps(json.loads(body), separators=(",", ":"))
    assert hashlib.sha1(compact.encode()).hexdigest() == CONFIG_SHA1


def test_config_again_and_with_a_key_known_by_heart(start: Start) -> None:
    """A second load works, and so do the keys that osquery's tests carry (test_runner_and_scheduler)."""
    server = start()
    for key in (server.enroll(), "this_is_a_node_secret", "this_is_also_a_node_secret"):
        for _ in range(2):
            assert server.json("POST", "/config", {"node_key": key})["schedule"]


def test_config_in_node_api_mode(start: Start) -> None:
    """GET /KEY/config&node_key=KEY has config baz (tls_node_api)."""
    found = start().json("GET", "/this_is_a_node_secret/config&node_key=this_is_a_node_secret")
    assert found["config"] == "baz"


def test_wrong_secret_and_key_are_invalid(start: Start) -> None:
    """A wrong enroll secret or node key is answered with node_invalid."""
    server = start()
    refused = server.json("POST", "/enroll", {"enroll_secret": "wrong", "host_identifier": "h"})
    assert refused["node_invalid"] is True
    assert "node_key" not in refused
    assert server.json("POST", "/config", {"node_key": "wrong"})["node_invalid"] is True


def test_requests_are_remembered(start: Start) -> None:
    """/test_read_requests is an array: empty at first, then what enroll and config sent (test_setup, tls_enroll)."""
    server = start()
    assert server.json("POST", "/test_read_requests", {}) == []
    details = {"osquery_info": {"uuid": "U-1"}}
    sent = {"enroll_secret": SECRET, "host_identifier": "h", "host_details": details}
    assert server.json("POST", "/enroll", sent)["node_key"] != "CachedKey"
    (seen,) = server.json("POST", "/test_read_requests", {})
    assert (seen["command"], seen["host_identifier"]) == ("enroll", "h")
    assert seen["host_details"]["osquery_info"]["uuid"] == "U-1"


def test_state_is_fresh(start: Start) -> None:
    """Nothing is left from a server that ran before."""
    start().enroll()
    assert start().json("POST", "/test_read_requests", {}) == []


def test_logs_are_taken(start: Start) -> None:
    """POST / and POST /log answer JSON; a gzip body is understood (tls_logger)."""
    server = start()
    key = server.enroll()
    post = {"node_key": key, "log_type": "result", "data": [{"a": 1}]}
    assert server.json("POST", "/", post)
    assert server.json("POST", "/log", post) == {}
    packed = gzip.compress(json.dumps(post).encode())
    assert server.json("POST", "/log", raw=packed, headers={"Content-Encoding": "gzip"}) == {}


def test_distributed_workflow(start: Start) -> None:
    """A read gives exactly two queries; the write of their results is taken (test_workflow)."""
    server = start()
    key = server.enroll()
    queries = server.json("POST", "/distributed_read", {"node_key": key})["queries"]
    assert set(queries) == {"info", "flags"}
    results = {"node_key": key, "queries": {name: [] for name in queries}, "statuses": dict.fromkeys(queries, 0)}
    assert server.json("POST", "/distributed_write", results) == {}


def test_carve_blocks_are_answered(start: Start) -> None:
    """Where the script drops the connection, a block is answered; a bad one not in JSON."""
    server = start()
    key = server.enroll()
    data = b"x" * 300
    sent = {"node_key": key, "block_count": 3, "block_size": 100, "carve_size": 300, "carve_id": "c", "request_id": "r"}
    session = server.json("POST", "/carve_init", sent)["session_id"]
    assert isinstance(session, str) and session
    for block in range(3):
        part = base64.b64encode(data[block * 100 : block * 100 + 100]).decode()
        body = {"session_id": session, "block_id": block, "request_id": "r", "data": part}
        assert server.json("POST", "/carve_block", body) == {}
    wrong = server.ask("POST", "/carve_block", {"session_id": "none", "block_id": 0, "data": ""})[2]
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(wrong)


def test_the_process_started_is_the_one_that_listens(start: Start) -> None:
    """osquery's test looks for the listening socket among those of the process that it started."""
    server = start()
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{server.port:04X}") and line.split()[3] == "0A"
    }
    own = {str(link.readlink()) for link in Path(f"/proc/{server.process.pid}/fd").iterdir() if link.is_symlink()}
    assert {f"socket:[{inode}]" for inode in inodes} & own


def test_requests_do_not_wait_for_each_other(start: Start) -> None:
    """A connection that stays silent blocks nobody, as it does with the script's one thread."""
    server = start()
    with socket.create_connection(("127.0.0.1", server.port), 5):
        assert server.json("GET", "/")


def test_plain_http_without_tls(start: Start) -> None:
    """Without --tls it serves plain HTTP, as the script does."""
    assert start(tls=False).json("GET", "/")["foo"] == "baz"


def test_it_ends_when_nobody_asks(start: Start) -> None:
    """After --timeout seconds without requests it ends, unless --persist says otherwise."""
    ending, staying = start("--timeout", "1"), start("--timeout", "1", "--persist")
    assert ending.process.wait(10) == 0
    assert staying.process.poll() is None
