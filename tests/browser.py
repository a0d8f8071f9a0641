"""
The operators' pages in a real browser: a real server with simulated nodes, Debian's Chromium, somebody signed in.

``fleet`` is the server, started once for each file; ``chromium`` the browser, once for all files of a test process.
``page`` is an empty page of it, signed in as an admin; ``visitor`` makes more, for other roles, sizes and colours.
A test fails when a page it opened wrote an error on the console, broke the policy (CSP), or asked another host for
anything; :func:`look_over` looks for what else every page has to be, and keeps pictures of it in ``artifacts/``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import axe_playwright_python
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request, sync_playwright

from tests.test_twistd import BIN, Server

NODES = 12
ARTIFACTS = Path(__file__).parent.parent / "artifacts"
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")
DESKTOP, PHONE = (1280, 900), (390, 844)

# What axe-core calls by these words fails a test.
_GRAVE = ("serious", "critical")
_playwrights: list[Playwright] = []


@attrs.define
class Fleet:
    """
    A server that serves pages, and nodes that come to it.

    :ivar url: where the pages are.
    """

    server: Server
    url: str
    nodes: subprocess.Popen[bytes]

    def osqtwist(self, *words: str) -> str:
        """What the command prints."""
        done = self.server.osqtwist(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *words: str) -> Any:
        """What the command prints with --json."""
        return self.server.json(*words)

    def api(self, path: str, body: Any = None) -> Any:
        """What the operators' API answers on the admin socket; much faster than a command."""
        connection = http.client.HTTPConnection("admin", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        connection.sock.connect(str(self.server.folder / "state" / "admin.sock"))
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", f"/api/v1/{path}", data)
            answer = connection.getresponse()
            found = json.loads(answer.read())
        assert answer.status < 400, found
        return found

    def token(self, name: str, role: str) -> str:
        """A new token."""
        text: str = self.api("tokens", {"name": name, "role": role})["token"]
        return text

    def node(self, number: int = 1) -> Any:
        """One of the nodes, as the API has it; tests that change a node take one of their own."""
        return self.api(f"nodes/node-{number:05d}.sim")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server as ``make run`` starts it, and :data:`NODES` nodes."""
    folder = tmp_path_factory.mktemp("f")
    running = start_server(folder)
    try:
        yield running
    finally:
        stop_server(running)


def start_server(folder: Path, *words: str, nodes: int = NODES, refresh: int = 2) -> Fleet:
    """
    Start one, and wait until every node has been heard of.

    :param refresh: seconds between two times that a node asks for its configuration.
    """
    log = folder / "twistd.out"
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(BIN / "twistd"), "-n", "--pidfile=", "osqtwist", "--port", "ssl:0", *words],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
    server = Server(folder, process, log)
    server.wait_for(r"serves operators on unix")
    server.port = int(re.findall(r"serves nodes on .* port (\d+)\)", server.text())[-1])
    url = server.wait_for(r"the operators' pages are at (\S+)")[1]
    simulated = [
        str(BIN / "osqtwist"),
        "simulate",
        "--server",
        f"localhost:{server.port}",
        "--config-refresh",
        str(refresh),
    ]
    simulation = subprocess.Popen(
        [*simulated, "--nodes", str(nodes), "--lines-per-second", "0.2"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    made = Fleet(server, url, simulation)
    deadline = time.monotonic() + 90
    while not _are_there(made.api("status"), nodes):
        if time.monotonic() > deadline:
            simulation.kill()
            process.kill()
            raise AssertionError(server.text()[-4000:])
        time.sleep(0.1)
    return made


def _are_there(status: Any, nodes: int) -> bool:
    # Of many some are always between two reads.
    return bool(status["nodes_online"] >= nodes and status["parked_reads"] >= min(nodes, 20))


def stop_server(fleet: Fleet) -> None:
    """End both; the log must not tell of an error that nobody expected."""
    fleet.nodes.send_signal(signal.SIGINT)
    fleet.nodes.wait(30)
    fleet.server.stop()
    assert "Traceback" not in fleet.server.text(), fleet.server.text()[-8000:]


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    # Each file that imports the fixture has one of its own, and there can be only one.
    if _playwrights:
        yield _playwrights[0]
        return
    with sync_playwright() as started:
        _playwrights.append(started)
        yield started
        _playwrights.clear()


@pytest.fixture(scope="session")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """Debian's Chromium."""
    path = shutil.which("chromium")
    assert path, "the tests of the pages need Chromium: apt-get install chromium"
    browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
    yield browser
    browser.close()


Visitor = Callable[..., Page]


@pytest.fixture(scope="module")
def signed_in(chromium: Browser, fleet: Fleet) -> Callable[[str], Any]:
    """The cookies of somebody of a role, who signs in once for all tests: an admin by a link, others by a token."""
    kept: dict[str, Any] = {}

    def state(role: str) -> Any:
        if role not in kept:
            context = chromium.new_context(base_url=fleet.url)
            page = context.new_page()
            if role == "admin":
                page.goto(fleet.osqtwist("sign-in").strip())
            else:
                page.goto("/sign-in")
                page.get_by_role("textbox", name="Token").fill(fleet.token(f"pages-{role}", role))
                page.get_by_role("button", name="Sign in").click()
                page.wait_for_url(lambda url: "sign-in" not in url)
            kept[role] = context.storage_state()
            context.close()
        return kept[role]

    return state


@pytest.fixture
def visitor(chromium: Browser, fleet: Fleet, signed_in: Callable[[str], Any]) -> Iterator[Visitor]:
    """
    Makes pages: ``visitor(role="viewer", size=PHONE, dark=True, script=False)``; ``role=None`` is not signed in.

    Whatever a page does that no page may is said at the end of the test.
    """
    wrong: list[str] = []
    contexts = []

    def visit(
        role: str | None = "admin", size: tuple[int, int] = DESKTOP, dark: bool = False, script: bool = True
    ) -> Page:
        context = chromium.new_context(
            base_url=fleet.url,
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
            reduced_motion="reduce",
            storage_state=signed_in(role) if role else None,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        watch(page, fleet.url, wrong)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def page(visitor: Visitor) -> Page:
    """An empty page, signed in as an admin."""
    return visitor()


def watch(page: Page, url: str, wrong: list[str]) -> None:
    """Note what no page may do."""

    def on_console(message: ConsoleMessage) -> None:
        # A status of 400 and more is written there as an error, and some tests ask for one.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            wrong.append(f"{page.url}: console: {message.text}")

    def on_request(request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and not request.url.startswith(url):
            wrong.append(f"{page.url} asked another host: {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: wrong.append(f"{page.url}: {error}"))
    page.on("request", on_request)


KINDS = ("light", "dark", "phone")


def look_over(
    visitor: Visitor,
    path: str,
    name: str,
    role: str = "admin",
    ready: str = "h1",
    kinds: tuple[str, ...] = KINDS,
) -> None:
    """
    Check that a page is for everybody, light and dark, wide and on a phone; keep pictures ``artifacts/NAME-*.png``.

    :param ready: a selector of what is there once the page is whole.
    :param kinds: fewer, of a page that has nothing of its own to look at.
    """
    ARTIFACTS.mkdir(exist_ok=True)
    page = visitor(role)
    page.goto(path)
    page.locator(ready).first.wait_for()
    # One page, seen in three ways: to fetch it three times would take three times as long.
    for scheme, (width, height), kind in (
        ("light", DESKTOP, "light"),
        ("dark", DESKTOP, "dark"),
        ("light", PHONE, "phone"),
    ):
        if kind not in kinds:
            continue
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=ARTIFACTS / f"{name}-{kind}.png", full_page=True)
        assert not grave_findings(page), f"{path}, {kind}"
        sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert sideways <= 0, f"{path}, {kind}: the page scrolls sideways by {sideways} pixels"
    page.context.close()


def grave_findings(page: Page) -> list[str]:
    """What axe-core finds that is serious or critical."""
    # evaluate() is not bound by the page's policy, which forbids a script tag.
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']} ({each['impact']}): {each['help']}: {[node['target'] for node in each['nodes'][:3]]}"
        for each in found["violations"]
        if each["impact"] in _GRAVE
    ]


def until(check: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Wait until something is true; answers with it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(AssertionError):
            if found := check():
                return found
        time.sleep(0.1)
    raise AssertionError("it did not come true")


__all__ = ["chromium", "fleet", "page", "playwright", "signed_in", "visitor"]
