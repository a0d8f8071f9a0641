"""The operators' API as strangers find it: its own OpenAPI document, and all that can be asked by it."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.test_twistd import BIN, Start, start

__all__ = ["start"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

# A stream that does not end, and the token that this test comes in by.
LEFT_OUT = ("/api/v1/logs", "/api/v1/tokens/{token}/revoke")
# Of what a schema cannot say (SQL, expressions, which of three) some is refused with 400; that is as it should be.
# A node's name may have slashes: /nodes/a/revoke is the node "a/revoke" to a GET, whose methods are others.
CHECKS_LEFT_OUT = "positive_data_acceptance,unsupported_method,allow_header_conformance"


def test_whatever_the_document_allows_is_answered_as_it_says(start: Start) -> None:
    """No error that nobody expected, no undeclared type or shape, no method or key that is not declared."""
    server = start("--port", "ssl:0", "--admin-port", "ssl:0:interface=127.0.0.1")
    number = server.wait_for(r"serves operators on .* port (\d+)\) too")[1]
    token = server.osqtwist("token", "add", "schemathesis", "--role", "admin").stdout.strip()
    words = ["--tls-verify", "certs/ca.pem", "-H", f"Authorization: Bearer {token}", "--request-timeout", "10"]
    words += ["-n", "8", "--phases", "coverage,fuzzing", "--continue-on-failure", "--exclude-checks", CHECKS_LEFT_OUT]
    words += [word for path in LEFT_OUT for word in ("--exclude-path", path)]
    done = subprocess.run(
        [str(BIN / "schemathesis"), "run", f"https://localhost:{number}/api/v1/openapi.json", *words],
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:]
    found = re.search(r"(\d+) generated", done.stdout)
    assert found and int(found[1]) > 1000, done.stdout[-2000:]
    assert "Traceback" not in server.text()
    assert "unexpected" not in done.stdout
