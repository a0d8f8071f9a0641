"""Flagfiles: for this machine, and for osquery's packages of each platform."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from osqtwist.flags import BadHostname, Flagfiles, NodeFiles, name_in_certificate
from osqtwist.nodeplatforms import PLATFORMS
from osqtwist.pki import Authority
from tests.harness import InMemoryServer

FILES = NodeFiles("/here/ca.pem", "/here/node.pem", "/here/node.key", "/here/secret")
FLAGFILES = Flagfiles(8443, FILES, "osquery.example.com", "/public/osquery")


def flags_of(text: str) -> dict[str, str]:
    """What osquery reads: gflags passes over lines that begin with #, and no other line may be without a flag."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(line.startswith("--") for line in lines)
    return dict(line[2:].split("=", 1) for line in lines)


def test_for_this_machine_it_names_the_files_that_are_here() -> None:
    """And no notes: it is short enough to be read on a terminal."""
    text = FLAGFILES.text()
    assert "#" not in text
    assert flags_of(text)["tls_hostname"] == "localhost:8443"
    assert flags_of(text)["tls_client_cert"] == "/here/node.pem"
    assert flags_of(FLAGFILES.text(hostname="other:1"))["tls_hostname"] == "other:1"


@pytest.mark.parametrize("name", PLATFORMS)
def test_for_a_platform_files_are_where_its_packages_have_them(name: str) -> None:
    """Every file that a flag names is in the notes with what it is, and what is secret is guarded."""
    text = FLAGFILES.text(name)
    flags = flags_of(text)
    assert flags["tls_hostname"] == "osquery.example.com:8443"
    assert flags["enroll_tls_endpoint"] == "/public/osquery/enroll"
    notes = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for flag in ("tls_server_certs", "tls_client_cert", "tls_client_key", "enroll_secret_path"):
        assert flags[flag].startswith(PLATFORMS[name].folder)
        assert f"#   {flags[flag]}  " in notes
    for secret in (flags["tls_client_key"], flags["enroll_secret_path"]):
        assert PLATFORMS[name].guard.format(secret=secret) in notes
    for said in (PLATFORMS[name].flagfile, PLATFORMS[name].start, PLATFORMS[name].restart, "--hostname"):
        assert said in notes


def test_what_a_node_does_not_need_is_in_neither() -> None:
    """No certificates with --client-auth none, no secret where there is none."""
    without = attrs.evolve(FLAGFILES, files=NodeFiles("/here/ca.pem"))
    text = without.text("linux")
    assert "node.pem" not in text and "enroll-secret" not in text and "chmod" not in text
    assert flags_of(text)["disable_enrollment"] == "true"


@pytest.mark.parametrize("hostname", ["osquery.example.com", "10.0.0.1:443", "[2001:db8::1]:8443", "a-b_c:65534"])
def test_a_hostname_that_osquery_connects_to(hostname: str) -> None:
    """With a port or without, which is 443."""
    text = FLAGFILES.text("windows", hostname)
    assert flags_of(text)["tls_hostname"] == hostname
    assert "give --hostname" not in text


@pytest.mark.parametrize("hostname", ["https://a", "a/b", "a:b", "a:0", "a:65535", "a b", "a\n--x=y", "::1"])
def test_a_hostname_that_it_does_not(hostname: str) -> None:
    """A flagfile that cannot work, or has more lines than it should, is not written."""
    with pytest.raises(BadHostname):
        FLAGFILES.text("linux", hostname)


def test_the_name_is_that_of_the_servers_certificate(tmp_path: Path) -> None:
    """Not a pattern, and not localhost, which every development certificate has."""
    authority, file = Authority.create("test CA"), tmp_path / "server.pem"
    for dns, expected in [(["localhost", "*.b", "osquery.b"], "osquery.b"), (["localhost"], ""), ([], "")]:
        authority.issue("server", "server", dns=dns).write(file, tmp_path / "server.key")
        assert name_in_certificate(file) == expected


def test_the_api_says_what_is_wrong(tmp_path: Path) -> None:
    """A platform that is none, and a host name that is none."""
    server = InMemoryServer(tmp_path)
    code, answer = server.operate("/api/v1/flags?platform=linux&hostname=https://a")
    assert (code, "without https://" in answer["detail"]) == (400, True)
    code, answer = server.operate("/api/v1/flags?platform=beos")
    assert (code, "platform" in answer["detail"]) == (400, True)
    server.stop()
