"""The example packages: they install, a real server finds them, and the manual shows them as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import TestPKI
from tests.examplepackages import EXAMPLES
from tests.test_delivery_process import until
from tests.test_identity_plugins import PP_UUID, with_extension
from tests.test_twistd import Start, refused, start

__all__ = ["start"]

MANUAL = (EXAMPLES.parent / "docs" / "extending.md").read_text("utf-8")


def test_the_manual_shows_the_identity_rule() -> None:
    """Its blocks are the files."""
    for name in ("osqtwist_extension.py", "twisted/plugins/osqtwist_extension_plugin.py"):
        assert f"```python\n{(EXAMPLES / 'extension-identity' / name).read_text()}```" in MANUAL


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
    """The node is what the extension says; a block that names no kind there is ends the start with a sentence."""
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
    settings.write_text('[[identity]]\nkind = "nonsense"\n')
    assert server.stop() == 0
    again = start(*words, folder=folder, env={"PYTHONPATH": str(installed)}, wait=False)
    assert refused(again) == "osqtwist: [[identity]] kind is 'nonsense'; installed are extension"
