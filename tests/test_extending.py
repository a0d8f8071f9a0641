"""The example packages: they install, a real server finds them, and the manual shows them as they are."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.certificates import TestPKI
from tests.examplepackages import EXAMPLES
from tests.test_delivery_process import until
from tests.test_identity_plugins import PP_UUID, with_extension
from tests.test_twistd import Server, Start, start

__all__ = ["start"]

MANUAL = (EXAMPLES.parent / "docs" / "extending.md").read_text("utf-8")


def test_the_manual_shows_the_identity_rule() -> None:
    """Its blocks are the files."""
    for name in ("osqtwist_extension.py", "twisted/plugins/osqtwist_extension_plugin.py"):
        assert f"```python\n{(EXAMPLES / 'extension-identity' / name).read_text()}```" in MANUAL


def test_the_manual_shows_how_to_mount_the_node_api() -> None:
    """The part of the example that does it."""
    (shown,) = re.findall(r"```python\n(def application.*?)```", MANUAL, re.S)
    assert shown in (EXAMPLES / "mounted" / "osqtwist_mounted.py").read_text()


def test_every_example_is_in_the_manual() -> None:
    """The table at its top."""
    for path in EXAMPLES.iterdir():
        if (path / "pyproject.toml").exists():
            assert f"| [{path.name}](../examples/{path.name}) |" in MANUAL


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every example package installed in it."""
    folder = tmp_path_factory.mktemp("i")
    packages = [str(path.parent) for path in sorted(EXAMPLES.glob("*/pyproject.toml"))]
    words = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-compile", "--target"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, str(folder), *packages],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_asks_an_installed_identity_rule(
    start: Start, installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The node is what the extension says; one whose extension is odd is refused, and told why."""
    folder = tmp_path_factory.mktemp("e")
    (folder / "certs").mkdir()
    pki = TestPKI.mint(folder / "certs")
    pki.write("puppet", with_extension(PP_UUID, b"\x0c\x06uuid-1", pki.authority))
    pki.write("odd", with_extension(PP_UUID, b"\x05\x00", pki.authority))
    settings = folder / "settings.toml"
    settings.write_text(f'[[identity]]\nkind = "extension"\nnamespace = "p:"\nsettings.oid = "{PP_UUID}"\n')
    words = ["--port", "ssl:0", "--settings", str(settings), "--client-auth", "required", "--request-log", "no"]
    words += ["--cert", "certs/server.pem", "--key", "certs/server.key", "--client-ca", "certs/ca.pem"]
    server = start(*words, folder=folder, env={"PYTHONPATH": str(installed)})
    assert server.ask("/config", {"node_key": ""}, node="puppet")["schedule"]
    answer = server.ask("/config", {"node_key": ""}, node="odd")
    assert "node_invalid" not in answer
    assert "no UTF8String" in answer["error"]
    until(lambda: server.json("node", "list"))
    (node,) = server.json("node", "list")
    assert (node["name"], node["certificate"]["identity"]) == ("p:uuid-1", "p:uuid-1")


# -- the node API inside another application, and a client of the operators' API


@pytest.fixture
def mounted(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example application, with operators' ports; nodes find it at /osquery."""
    folder = tmp_path_factory.mktemp("m")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    (folder / "settings.toml").write_text('admin_port = "ssl:0:interface=127.0.0.1"\n')
    log = folder / "application.out"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "osqtwist_mounted", str(port), "settings.toml"],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(installed)},
        )
    server = Server(folder, process, log, port)
    try:
        server.wait_for("serves nodes inside another application")
        yield server
    finally:
        if process.poll() is None:
            server.stop()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_node_api_in_another_application(mounted: Server, installed: Path) -> None:
    """Nodes, operators, a client of the API and a clean end: all as with twistd, beside a page."""
    server = mounted
    flags = server.osqtwist("flags").stdout.splitlines()
    assert {"--config_tls_endpoint=/osquery/config", f"--tls_hostname=localhost:{server.port}"} <= set(flags)
    context = ssl.create_default_context(cafile=str(server.folder / "certs" / "ca.pem"))
    with urllib.request.urlopen(f"https://localhost:{server.port}/", timeout=20, context=context) as page:
        assert page.read() == b"the application's own page\n"
    assert "no certificate" in server.ask("/osquery/config", {"node_key": ""}, node=None)["error"]
    assert server.ask("/osquery/config", {"node_key": ""})["schedule"]
    assert server.ask("/osquery/log", {"node_key": "", "log_type": "result", "data": [{"name": "n"}]}) == {}
    until(lambda: server.json("node", "list"))
    client = run_client(server, installed)
    read = server.ask("/osquery/distributed/read", {"node_key": ""})
    (query,) = read["queries"]
    body = {"node_key": "", "queries": {query: [{"a": "1"}]}, "statuses": {query: 0}}
    assert server.ask("/osquery/distributed/write", body) == {}
    out, problems = client.communicate(timeout=30)
    listed, *rest = out.splitlines()
    name = listed.removesuffix(" online")
    assert rest == ["asked 1 nodes", f'{name} [{{"a": "1"}}]', "1 answered, silent: nobody"], problems

    with ThreadPoolExecutor() as threads:
        held = threads.submit(server.ask, "/osquery/distributed/read", {"node_key": ""})
        until(lambda: server.json("status")["parked_reads"] == 1)
        assert server.stop() == 0
        assert held.result() == {}
    assert "Traceback" not in server.text() and "Unhandled" not in server.text()


def run_client(server: Server, installed: Path) -> subprocess.Popen[str]:
    number = server.wait_for(r"serves operators on .* port (\d+)\) too")[1]
    token = server.osqtwist("token", "add", "example", "--role", "operator").stdout
    (server.folder / "token").write_text(token)
    words = [f"https://localhost:{number}", "select 1 as a", "--ca", "certs/ca.pem", "--token-file", "token"]
    return subprocess.Popen(
        [sys.executable, "-m", "osqtwist_client", *words],
        cwd=server.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )
