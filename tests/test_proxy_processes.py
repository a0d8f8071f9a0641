"""The examples of proxies, with the real HAProxy and nginx before a real server."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.test_delivery_process import until
from tests.test_revocation_processes import Own, operate
from tests.test_twistd import Server, Start, start

__all__ = ["start"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

EXAMPLES = Path(__file__).parent.parent / "examples" / "proxies"
NODE = "node-1.example.com"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.fail(f"{name} is not installed: apt-get install {name}")
    return found


@contextlib.contextmanager
def running(words: list[str], port: int, folder: Path) -> Iterator[int]:
    """A proxy, once it takes connections."""
    with (folder / "proxy.out").open("w") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)
        try:
            until(lambda: process.poll() is not None or _takes(port))
            assert process.poll() is None, (folder / "proxy.out").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(20)


def _takes(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def replaced(name: str, words: dict[str, str]) -> str:
    """An example with other ports and files; whatever is to be replaced has to be there."""
    text = (EXAMPLES / name).read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for old, new in words.items():
        assert old in body, f"{name} has no {old}"
        body = body.replace(old, new)
    return body + "\n"


@attrs.define
class Scene:
    """A server behind a proxy."""

    server: Server
    own: Own
    port: int
    address: str

    def ask(self, path: str, body: Any, node: str | None = "node", headers: dict[str, str] | None = None) -> Any:
        folder = self.own.path.parent / "certs"
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        if node:
            context.load_cert_chain(folder / f"{node}.pem", folder / f"{node}.key")
        connection = http.client.HTTPSConnection(
            "localhost", self.port, timeout=20, context=context, source_address=(self.address, 0)
        )
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps(body).encode(), headers or {})
            return json.loads(connection.getresponse().read())


def look(server: Server, path: str) -> Any:
    """At the operators' API, without starting the command."""
    words = ["curl", "-s", "--unix-socket", str(server.folder / "state" / "admin.sock"), f"http://x/api/v1/{path}"]
    return json.loads(subprocess.run(words, check=True, timeout=10, capture_output=True).stdout)


def addresses(server: Server) -> dict[str, str]:
    """Of every node that was seen."""
    return {each["name"]: each["address"] for each in look(server, "nodes")["nodes"]}


def words_of(own: Own, *words: str) -> list[str]:
    secret = own.path.parent / "secret"
    secret.write_text("open-sesame\n")
    return [*words, "--enroll-secret-path", str(secret), "--hold", "8", *own.options]


def without_certificate_of_server(words: list[str]) -> list[str]:
    """The options for a server whose certificate only the proxy has."""
    drop = {place + more for place, word in enumerate(words) if word in ("--cert", "--key") for more in (0, 1)}
    return [word for place, word in enumerate(words) if place not in drop]


@pytest.fixture
def passthrough(start: Start, tmp_path: Path) -> Iterator[Scene]:
    own = Own(tmp_path)
    server = start(*words_of(own, "--port", "ssl:0:interface=127.0.0.1", "--proxy-protocol", "127.0.0.1"))
    port = free_port()
    config = tmp_path / "haproxy.cfg"
    text = replaced("haproxy-passthrough.cfg", {":8443": f"127.0.0.1:{port}", ":8444": f":{server.port}"})
    config.write_text(text)
    with running([program("haproxy"), "-db", "-f", str(config)], port, tmp_path):
        yield Scene(server, own, port, "127.0.0.7")


@pytest.fixture
def haproxy(start: Start, tmp_path: Path) -> Iterator[Scene]:
    own = Own(tmp_path)
    settings = tmp_path / "o.toml"
    settings.write_text('[trusted_proxy]\npeers = ["127.0.0.1"]\nheaders = "ssl-client"\n')
    words = words_of(own, "--port", "tcp:0:interface=127.0.0.1", "--settings", str(settings))
    server = start(*without_certificate_of_server(words))
    port = free_port()
    both = tmp_path / "both.pem"
    both.write_bytes(own.pki.certificate("server").read_bytes() + own.pki.key("server").read_bytes())
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        replaced(
            "haproxy-ends-tls.cfg",
            {
                "bind :8443": f"bind 127.0.0.1:{port}",
                "/etc/haproxy/server.pem": str(both),
                "/etc/haproxy/fleet-ca.pem": str(own.pki.certificate("ca")),
                "127.0.0.1:8080": f"127.0.0.1:{server.port}",
            },
        )
    )
    with running([program("haproxy"), "-db", "-f", str(config)], port, tmp_path):
        yield Scene(server, own, port, "127.0.0.7")


@pytest.fixture
def nginx(start: Start, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    own = Own(tmp_path)
    path = tmp_path_factory.mktemp("u") / "nodes.sock"
    settings = tmp_path / "o.toml"
    settings.write_text('[trusted_proxy]\npeers = ["unix"]\nheaders = "ssl-client"\n')
    words = words_of(own, "--port", f"unix:{path}", "--settings", str(settings))
    server = start(*without_certificate_of_server(words), "--workers", "2", wait=False)
    server.wait_for("serves operators")
    port = free_port()
    site = replaced(
        "nginx-ends-tls.conf",
        {
            "listen 8443": f"listen 127.0.0.1:{port}",
            "/etc/nginx/server.pem": str(own.pki.certificate("server")),
            "/etc/nginx/server.key": str(own.pki.key("server")),
            "/etc/nginx/fleet-ca.pem": str(own.pki.certificate("ca")),
            "/run/osqtwist/nodes.sock": str(path),
        },
    )
    (tmp_path / "temp").mkdir()
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/temp/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    user = "user root;\n" if path.owner() == "root" else ""
    config.write_text(
        f"{user}pid {tmp_path}/nginx.pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{site}}}\n"
    )
    words = [program("nginx"), "-p", str(tmp_path), "-c", str(config), "-g", "daemon off;"]
    with running(words, port, tmp_path):
        yield Scene(server, own, port, "127.0.0.7")


def escaped(path: Path) -> str:
    return path.read_text().replace("\n", "%0A")


@pytest.mark.parametrize("kind", ["passthrough", "haproxy", "nginx"])
def test_a_node_behind_a_proxy(kind: str, request: pytest.FixtureRequest) -> None:
    """It enrolls, gets its configuration, posts, holds a read, is seen at its own address, and is put out."""
    scene: Scene = request.getfixturevalue(kind)
    ask, server = scene.ask, scene.server
    key = ask("/enroll", {"enroll_secret": "", "host_identifier": "h"})["node_key"]
    assert "schedule" in ask("/config", {"node_key": key})
    assert ask("/config", {"node_key": ""})["schedule"], "the certificate alone is enough"
    lines = [{"name": "n", "calendarTime": "x", "unixTime": 1, "action": "added", "columns": {}}]
    assert ask("/log", {"node_key": key, "log_type": "result", "data": lines}) == {}
    until(lambda: addresses(server) == {NODE: scene.address})
    # Whoever has a key of somebody else, and no certificate.
    assert ask("/config", {"node_key": key}, node=None).keys() == {"error"}
    # What a node says of itself counts for nothing, whichever header it takes.
    other = scene.own.authority.issue("node-2.example.com", "node")
    folder = scene.own.path.parent / "certs"
    other.write(folder / "other.pem", folder / "other.key")
    forged = escaped(folder / "node.pem")
    for headers in (
        {"X-SSL-Client-Verify": "SUCCESS", "X-SSL-Client-Cert": forged},
        {"X-Forwarded-Client-Cert": f'Cert="{forged}"'},
        {"X-Amzn-Mtls-Clientcert-Leaf": forged, "X-Forwarded-For": "192.0.2.66"},
    ):
        ask("/config", {"node_key": ""}, node="other", headers=headers)
        assert ask("/config", {"node_key": ""}, node=None, headers=headers).get("node_invalid") is True
    until(lambda: addresses(server) == dict.fromkeys((NODE, "node-2.example.com"), scene.address))
    # A live query goes to a held read, and a revocation ends one.
    answers: list[Any] = []

    def hold() -> None:
        began = time.monotonic()
        try:
            answers.append(ask("/distributed/read", {"node_key": key}))
        except (OSError, ValueError, http.client.HTTPException) as problem:
            answers.append(repr(problem))
        answers.append(time.monotonic() - began)

    holding = threading.Thread(target=hold)
    holding.start()
    until(lambda: look(server, "status")["parked_reads"] == 1)
    operate(server, "queries", {"sql": "select 1", "target": {"where": f"cn:{NODE}"}})
    holding.join(10)
    assert list(answers[0]["queries"].values()) == ["select 1"]
    answers.clear()
    holding = threading.Thread(target=hold)
    holding.start()
    until(lambda: look(server, "status")["parked_reads"] == 1)
    began = time.monotonic()
    scene.own.revoke(scene.own.node.serial_number)
    holding.join(10)
    assert time.monotonic() - began < 2
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        refused = ask("/config", {"node_key": key})
        assert refused.keys() == {"error"}
        assert "revoked" in refused["error"]
    assert "schedule" in ask("/config", {"node_key": ""}, node="other")
    operate(server, "denials", {"kind": "identity", "value": "node-2.*"})
    until(lambda: ask("/config", {"node_key": ""}, node="other").keys() == {"error"})
    assert "Traceback" not in server.text()


def test_who_may_speak_the_proxy_protocol(start: Start, tmp_path: Path) -> None:
    """A peer that is named must; one that is not is served as ever, and not believed."""
    own = Own(tmp_path)
    settings = tmp_path / "o.toml"
    settings.write_text("[limits]\nconnections_per_address = 2\n")
    words = words_of(own, "--port", "ssl:0:interface=127.0.0.1", "--proxy-protocol", "127.0.0.2")
    server = start(*words, "--settings", str(settings))

    def header_of(last: int) -> bytes:
        return b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, last, 192, 0, 2, 2, 1, 1, 2, 2])

    header = header_of(1)
    context = ssl.create_default_context(cafile=str(own.pki.certificate("ca")))

    def shakes_hands(source: str, sends: bytes) -> bool:
        with socket.create_connection(("127.0.0.1", server.port), 5, (source, 0)) as plain:
            plain.sendall(sends)
            with contextlib.suppress(OSError, ssl.SSLError), context.wrap_socket(plain, server_hostname="localhost"):
                return True
        return False

    assert shakes_hands("127.0.0.2", header)
    assert not shakes_hands("127.0.0.2", b"")
    assert not shakes_hands("127.0.0.2", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
    assert shakes_hands("127.0.0.1", b"")
    assert not shakes_hands("127.0.0.1", header)
    server.wait_for("a connection of 127.0.0.2 is ended, which --proxy-protocol names")
    # How many one address may have is counted of the nodes', not of the proxy's.
    with contextlib.ExitStack() as stack:
        for last in (3, 4, 3, 4, 5):
            waiting = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 5, ("127.0.0.2", 0)))
            waiting.sendall(header_of(last))
        time.sleep(0.2)
        assert not shakes_hands("127.0.0.2", header_of(3))
        assert shakes_hands("127.0.0.2", header_of(5))
    server.wait_for("connections of 192.0.2.3 are refused")


def test_a_plain_port_is_for_named_peers(start: Start, tmp_path: Path) -> None:
    """Others find their connection closed; without the setting there is no such port."""
    own = Own(tmp_path)
    settings = tmp_path / "o.toml"
    settings.write_text('[trusted_proxy]\npeers = ["127.0.0.2"]\nheaders = "xfcc"\n')
    words = words_of(own, "--port", "tcp:0:interface=127.0.0.1", "--settings", str(settings))
    server = start(*without_certificate_of_server(words))

    def config(source: str, header: str = "") -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5, source_address=(source, 0))
        with contextlib.closing(connection):
            connection.request("POST", "/config", b'{"node_key":""}', {"X-Forwarded-Client-Cert": header})
            return json.loads(connection.getresponse().read())

    cert = escaped(own.pki.certificate("node"))
    assert "schedule" in config("127.0.0.2", f'By=spiffe://x;Cert="{cert}";Subject="CN=\\"a\\",b"')
    with pytest.raises((OSError, http.client.HTTPException)):
        config("127.0.0.1", f'Cert="{cert}"')
    stranger = escaped(own.pki.certificate("server"))
    assert "not for clients" in config("127.0.0.2", f'Cert="{stranger}"')["error"]
    server.wait_for(r"connections of 127.0.0.1 to a plain port are closed")
