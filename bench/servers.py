"""The servers that are measured: each started, asked for its CPU, and ended."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from osqtwist.pki import Authority

_TICK = os.sysconf("SC_CLK_TCK")
BIN = Path(sys.executable).parent


@attrs.frozen
class Certificates:
    """A server's and a node's certificate, and the CA of both, in a folder."""

    folder: Path

    @classmethod
    def mint(cls, folder: Path, kind: str) -> Certificates:
        """Make them."""
        folder.mkdir()
        authority = Authority.create("bench CA", kind)
        authority.credential.write(folder / "ca.pem", folder / "ca.key")
        server = authority.issue("localhost", "server", dns=["localhost"], kind=kind)
        server.write(folder / "server.pem", folder / "server.key")
        authority.issue("node-1", "node", kind=kind).write(folder / "node.pem", folder / "node.key")
        return cls(folder)

    def path(self, name: str) -> str:
        """A file of the folder."""
        return str(self.folder / name)


@attrs.define
class Measured:
    """A running server: the processes whose CPU counts, and those counted apart."""

    name: str
    port: int
    pids: list[int]
    beside: list[int] = attrs.field(factory=list)

    def cpu(self) -> float:
        """Seconds of CPU so far, of all its processes."""
        return sum(map(cpu_of, self.pids))

    def cpu_beside(self) -> float:
        """Seconds of CPU of the store."""
        return sum(map(cpu_of, self.beside))


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has had, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def children_of(pid: int) -> list[int]:
    """The processes that a process started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process serves the port."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise RuntimeError("a server did not start")


@contextlib.contextmanager
def running(words: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended in the end; what it prints goes to ``out`` in the folder."""
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(words, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@contextlib.contextmanager
def osqtwist(
    folder: Path,
    certificates: Certificates,
    *,
    request_log: bool = False,
    options: Sequence[str] = (),
    ready: str = "serves operators",
) -> Iterator[Measured]:
    """
    The server itself, as twistd runs it, with its private Valkey.

    :param options: more of its options.
    :param ready: what its log says when it can be measured.
    """
    folder.mkdir(exist_ok=True)
    port = free_port()
    (folder / "secret").write_text("bench-secret\n")
    words = [str(BIN / "twistd"), "-n", "--pidfile=", "osqtwist", "--port", f"ssl:{port}:interface=127.0.0.1"]
    words += ["--cert", certificates.path("server.pem"), "--key", certificates.path("server.key")]
    words += ["--client-ca", certificates.path("ca.pem"), "--client-auth", "required", "--hold", "0"]
    words += ["--enroll-secret-path", "secret", "--request-log", "yes" if request_log else "no", *options]
    with running(words, folder) as process:
        deadline = time.monotonic() + 20
        while ready not in (said := (folder / "out").read_text("utf-8", "replace")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"osqtwist did not start:\n{said[-2000:]}")
            time.sleep(0.1)
        wait_for(port, process)
        yield Measured("osqtwist", port, [process.pid], children_of(process.pid))


_REFERENCE = """
import http.server, ssl, sys
port, cert, key, ca = int(sys.argv[1]), *sys.argv[2:5]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *arguments):
        pass
class Server(http.server.HTTPServer):
    request_queue_size = 512
    def handle_error(self, *arguments):
        pass
server = Server(("127.0.0.1", port), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
context.load_verify_locations(ca)
context.verify_mode = ssl.CERT_REQUIRED
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@contextlib.contextmanager
def http_server(folder: Path, certificates: Certificates) -> Iterator[Measured]:
    """The shape of osquery's reference server: the standard library's, one thread, a fixed answer."""
    folder.mkdir()
    port = free_port()
    files = [certificates.path(name) for name in ("server.pem", "server.key", "ca.pem")]
    with running([sys.executable, "-c", _REFERENCE, str(port), *files], folder) as process:
        wait_for(port, process)
        yield Measured("http.server", port, [process.pid])


_NGINX = """
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_timeout 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        ssl_certificate {server};
        ssl_certificate_key {key};
        ssl_client_certificate {ca};
        ssl_verify_client on;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache off;
        ssl_session_tickets off;
        default_type application/json;
        location / {{ return 200 '{{}}'; }}
    }}
}}
"""


def nginx_program() -> str:
    """Where nginx is, or nothing."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin") or ""


def nginx_version() -> str:
    """What it calls itself."""
    text = subprocess.run([nginx_program(), "-V"], capture_output=True, text=True, check=False).stderr
    return ", ".join(re.findall(r"nginx/[\d.]+|OpenSSL [\w.]+", text)[:2])


@contextlib.contextmanager
def nginx(folder: Path, certificates: Certificates) -> Iterator[Measured]:
    """The practical floor: nginx with client verification and a fixed answer."""
    folder.mkdir()
    port = free_port()
    configuration = folder / "nginx.conf"
    files = {name: certificates.path(f"{name}.pem") for name in ("server", "ca")}
    configuration.write_text(_NGINX.format(folder=folder, port=port, key=certificates.path("server.key"), **files))
    with running([nginx_program(), "-c", str(configuration), "-p", str(folder)], folder) as process:
        wait_for(port, process)
        yield Measured("nginx", port, [process.pid, *children_of(process.pid)])
