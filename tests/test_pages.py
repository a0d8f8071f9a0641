"""The pages in a browser: signing in and out, nodes; each page for everybody."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pexpect
import pytest
from cryptography.x509.oid import NameOID
from playwright.sync_api import Browser, Page, expect

from osqtwist.pki import Authority
from tests.browser import (
    Fleet,
    Visitor,
    chromium,
    fleet,
    look_over,
    page,
    playwright,
    signed_in,
    start_server,
    stop_server,
    until,
    visitor,
)
from tests.test_twistd import BIN

__all__ = ["chromium", "fleet", "page", "playwright", "signed_in", "visitor"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_nodes_are_found(page: Page) -> None:
    """In the language of targets; what cannot be understood is said, in the words of the API."""
    page.goto("/nodes")
    expect(page.get_by_role("row")).to_have_count(13)
    page.get_by_label("Which").fill("name:node-00003*")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("row")).to_have_count(2)
    expect(page.get_by_role("rowheader")).to_have_text("node-00003.sim")
    page.get_by_label("Which").fill("")
    page.get_by_label("Which").press_sequentially("platform:dar")
    page.get_by_role("option", name="platform:darwin").click()
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("row")).not_to_have_count(13)
    page.get_by_label("Which").fill("name:(")
    page.get_by_label("Which").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Not understood")


def test_a_browser_is_signed_in_and_out(visitor: Visitor, fleet: Fleet) -> None:
    """By a link, once; where it wanted to go is where it comes to."""
    page = visitor(None)
    page.goto("/nodes?online=1")
    expect(page).to_have_url(re.compile("/sign-in"))
    page.get_by_role("textbox", name="Token").fill("osqtwist_0123")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not known")
    page.get_by_role("textbox", name="Token").fill(fleet.token("once", "viewer"))
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(fleet.url + "/nodes?online=1")
    expect(page.locator(".who")).to_contain_text("token once")
    fleet.osqtwist("token", "revoke", "once")
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("taken back")
    link = fleet.osqtwist("sign-in").strip()
    page.goto(link)
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_contain_text("signed out")
    page.goto(link)
    expect(page.get_by_role("alert")).to_contain_text("used already")
    page.goto("/nodes")
    expect(page).to_have_url(re.compile("/sign-in"))


@pytest.mark.parametrize(
    ("path", "name", "role"),
    [("/", "fleet", "admin"), ("/nodes", "nodes", "admin"), ("/nowhere", "no-such-page", "viewer")],
)
def test_a_page_is_for_everybody(path: str, name: str, role: str, visitor: Visitor) -> None:
    """Nothing grave by axe-core, light and dark; nothing wider than a phone."""
    look_over(visitor, path, name, role)


def test_the_sign_in_page_is_for_everybody(visitor: Visitor) -> None:
    """The one for whoever is not known."""
    look_over(visitor, "/sign-in", "sign-in", None)


def test_the_fleet_is_seen_at_a_glance(page: Page, fleet: Fleet) -> None:
    """Figures and curves; each curve has words, and the page keeps up by itself."""
    page.goto("/")
    expect(page.locator(".tiles")).to_contain_text("of 12 nodes online")
    expect(page.get_by_role("img", name=re.compile("^Nodes. online: 12 now"))).to_be_visible(timeout=40_000)
    first = page.locator("#live")
    first.evaluate("part => part.dataset.old = 1")
    expect(page.locator("#live[data-old]")).to_have_count(0, timeout=25_000)
    box = page.get_by_role("img", name=re.compile("^Nodes")).bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 20)
    expect(page.locator(".readout").first).to_contain_text("online 12")
    page.get_by_role("link", name="Last day").click()
    expect(page.get_by_role("link", name="Last day")).to_have_attribute("aria-current", "true")


def test_a_node_is_tagged_and_noted(page: Page, fleet: Fleet) -> None:
    """By forms that lead back and say what was done; what is refused is said in the words of the API."""
    page.goto("/nodes?where=node-00002.sim")
    page.locator("table").get_by_role("link", name="node-00002.sim").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("node-00002.sim")
    page.get_by_label("Give it tags").fill("prod, web")
    page.get_by_role("button", name="Give").click()
    expect(page.get_by_role("status")).to_contain_text("its tags are changed")
    assert {"prod", "web"} <= set(fleet.node(2)["given_tags"])
    page.get_by_role("checkbox", name="web").check()
    page.get_by_role("button", name="Take back").click()
    expect(page.get_by_role("checkbox", name="web")).to_have_count(0)
    page.get_by_label("Give it tags").fill("no!tag")
    page.get_by_role("button", name="Give").click()
    expect(page.get_by_role("alert")).to_contain_text("Not done:")
    page.get_by_label("What to remember of it").fill("<b>rack 7</b>")
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_label("What to remember of it")).to_have_value("<b>rack 7</b>")
    page.goto("/nodes?where=tag:prod")
    expect(page.locator("tbody tr")).to_have_count(1)
    audit = str(fleet.api("audit?limit=50"))
    assert f"POST /api/v1/nodes/{fleet.node(2)['node']}/note" in audit


def test_a_revocation_is_seen_to_take_effect(visitor: Visitor, fleet: Fleet) -> None:
    """Asked for in two steps; the node's held read ends, and it is silent until it is restored.  Without script."""
    page = visitor(script=False)
    page.goto(f"/nodes/{fleet.node(3)['node']}")
    revoke = page.get_by_role("button", name="Revoke it")
    expect(revoke).to_be_hidden()
    page.get_by_text("Revoke…").click()
    page.get_by_label("Why").fill("lost")
    revoke.click()
    expect(page.get_by_role("status")).to_contain_text("refused from now on")
    expect(page.locator(".heading .state")).to_have_text("revoked")
    until(lambda: fleet.api("status")["parked_reads"] == 11)
    page.get_by_role("button", name="Serve it again").click()
    expect(page.locator(".heading .state").first).not_to_have_text("revoked")
    assert not fleet.node(3)["revoked"]
    until(lambda: fleet.api("status")["parked_reads"] == 12, 30)


def test_what_cannot_be_undone_is_done_after_a_question(page: Page, fleet: Fleet) -> None:
    """A node is forgotten, and comes back as a new one."""
    node = fleet.node(4)
    page.goto(f"/nodes/{node['node']}")
    page.get_by_text("Merge…").click()
    page.get_by_label("Which node goes on").fill("nobody")
    page.get_by_role("button", name="Merge them").click()
    expect(page.get_by_role("alert")).to_contain_text("there is no node 'nobody'")
    page.get_by_text("Forget…").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_role("status")).to_contain_text("nothing is kept")
    expect(page).to_have_url(fleet.url + "/nodes")


def test_a_viewer_sees_no_forms(visitor: Visitor, fleet: Fleet) -> None:
    """Nothing is shown that would be refused; and if it is sent nevertheless it is refused."""
    page = visitor("viewer")
    page.goto(f"/nodes/{fleet.node(5)['node']}")
    expect(page.get_by_role("heading", name="Identity")).to_be_visible()
    expect(page.locator("main form")).to_have_count(0)
    expect(page.get_by_role("heading", name="What can be done")).to_have_count(0)
    token = page.locator('meta[name="csrf-token"]').get_attribute("content")
    form = {"change_token": token, "reason": "x"}
    answer = page.request.post(f"/nodes/{fleet.node(5)['node']}/revoke", form=form, headers={"Origin": fleet.url})
    assert (answer.status, "this needs the role operator" in answer.text()) == (403, True)
    assert not fleet.node(5)["revoked"]


def test_a_node_s_page_is_for_everybody(visitor: Visitor, fleet: Fleet) -> None:
    """With all that there is on it."""
    fleet.osqtwist("query", "run", "select 1 as one", "--node", "node-00006.sim")
    look_over(visitor, f"/nodes/{fleet.node(6)['node']}", "node")


def test_a_start_leads_into_the_browser(tmp_path: Path, chromium: Browser) -> None:
    """What is printed on the terminal has a link that signs in, and that no log has."""
    words = ["-n", "--pidfile=", "osqtwist", "--port", "ssl:0"]
    started = pexpect.spawn(str(BIN / "twistd"), words, cwd=str(tmp_path), timeout=40, encoding="utf-8")
    try:
        started.expect(r"(http://localhost:\d+/sign-in/[\w-]{43})\s")
        page = chromium.new_page()
        page.goto(started.match[1])
        expect(page.get_by_role("heading", level=1)).to_have_text("Fleet")
        page.close()
    finally:
        started.kill(signal.SIGTERM)
        started.expect(pexpect.EOF)
        started.close()


def test_a_certificate_signs_in_over_tls(
    tmp_path_factory: pytest.TempPathFactory, chromium: Browser, fleet: Fleet
) -> None:
    """Of the CA of operators, with the role that it says; what its owner may not do is not shown."""
    folder = tmp_path_factory.mktemp("t")
    authority = Authority.create("operators' CA")
    authority.credential.write(folder / "operators.pem", folder / "operators.key")
    who = [(NameOID.ORGANIZATIONAL_UNIT_NAME, "viewer")]
    authority.issue("alice", "node", attributes=who).write(folder / "alice.pem", folder / "alice.key")
    words = ["--admin-port", "ssl:0:interface=127.0.0.1", "--admin-ca", "operators.pem"]
    secure = start_server(folder, *words, nodes=1)
    try:
        port = secure.url.rpartition(":")[2]
        certificate: Any = {
            "origin": f"https://localhost:{port}",
            "certPath": folder / "alice.pem",
            "keyPath": folder / "alice.key",
        }
        context = chromium.new_context(ignore_https_errors=True, client_certificates=[certificate])
        page = context.new_page()
        page.goto(f"https://localhost:{port}/nodes")
        page.get_by_role("button", name="Go on as alice").click()
        expect(page).to_have_url(f"https://localhost:{port}/nodes")
        expect(page.locator(".who")).to_contain_text("viewer")
        (cookie,) = [each for each in context.cookies() if "session" in each["name"]]
        assert (cookie["name"], cookie["secure"], cookie["httpOnly"]) == ("__Host-osqtwist-session", True, True)
        context.close()
        stranger = chromium.new_context(ignore_https_errors=True)
        stranger.add_cookies([cookie])
        answer = stranger.request.get(f"https://localhost:{port}/api/v1/me")
        assert (answer.status, "certificate" in answer.text()) == (401, True)
        stranger.close()
    finally:
        stop_server(secure)
