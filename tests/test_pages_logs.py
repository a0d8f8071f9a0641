"""Pages about logs, alerts, credentials, carves and the audit trail in a browser, on a server with sinks and rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser import (
    Fleet,
    Visitor,
    chromium,
    look_over,
    page,
    playwright,
    signed_in,
    start_server,
    stop_server,
    until,
    visitor,
)

__all__ = ["chromium", "page", "playwright", "signed_in", "visitor"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SETTINGS = """
[sink.archive]
kind = "file"
path = "lines.jsonl"

[alert.shells]
when = "name:shells"
text = "a shell on {node}"

[events]
"""
HOSTILE = '<img src=x onerror="console.error(1)"><b>bold</b>\u0000\u001b[31m'


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server with a sink and an alert rule, and three nodes."""
    folder = tmp_path_factory.mktemp("f")
    (folder / "settings.toml").write_text(SETTINGS)
    running = start_server(folder, "--settings", "settings.toml", nodes=3)
    try:
        yield running
    finally:
        stop_server(running)


def post(fleet: Fleet, *lines: object) -> None:
    """Log lines of the node whose certificate the development PKI has."""
    body = {"node_key": "", "log_type": "result", "data": list(lines)}
    assert fleet.server.ask("/log", body) == {}


def state(fleet: Fleet) -> str:
    """How the command says that the sink is."""
    (row,) = [row for row in fleet.json("sink", "list") if row["sink"] == "archive"]
    return str(row["state"])


def test_lines_are_shown_and_followed(page: Page, fleet: Fleet) -> None:
    """Filtered by an expression; what nodes say is text, whatever it looks like; a wrong expression is explained."""
    post(fleet, {"name": "evil", "columns": {"html": HOSTILE}})
    page.goto("/logs?when=name:evil")
    row = page.locator("#lines tbody tr").first
    expect(row).to_contain_text("<img src=x onerror=")
    page.get_by_role("button", name="Follow").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    post(fleet, {"name": "evil", "columns": {"n": "live", "html": HOSTILE}}, {"name": "other"})
    expect(row).to_contain_text('"n":"live"')
    expect(page.locator("#lines b")).to_have_count(0)
    post(fleet, *({"name": "evil", "n": number} for number in range(3000)))
    expect(row).to_contain_text('"n":2999')
    assert page.locator("#lines tbody tr").count() <= 500
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("Paused after 3001 lines")
    page.goto("/logs?when=nothing:1")
    expect(page.get_by_role("alert")).to_contain_text("Not understood")


def test_dead_letters_are_shown(page: Page, fleet: Fleet) -> None:
    """With the reason, as text."""
    post(fleet, HOSTILE, 7)
    page.goto("/logs/dead")
    expect(page.locator("#dead tbody tr").first).to_contain_text("<img")
    expect(page.get_by_role("status")).to_contain_text("dead letters")


def test_a_sink_is_paused_and_replayed(page: Page, fleet: Fleet) -> None:
    """What it says is what the command says; lines come to the file again."""
    post(fleet, {"name": "replayed"})
    file = fleet.server.folder / "lines.jsonl"
    until(lambda: file.exists() and "replayed" in file.read_text())
    page.goto("/logs/sinks")
    page.get_by_role("button", name="Pause archive").click()
    expect(page.get_by_role("status")).to_contain_text("paused")
    assert state(fleet) == "paused"
    page.get_by_role("button", name="Resume archive").click()
    expect(page.get_by_role("status")).to_contain_text("goes on")
    again = page.get_by_role("button", name="Deliver again to archive")
    page.locator("form", has=again).get_by_label("last").fill("soon")
    again.click()
    expect(page.get_by_role("alert")).to_contain_text("'soon' is not a number")
    again.click()
    expect(page.get_by_role("status")).to_contain_text(re.compile(r"\d+ lines are brought to archive again"))
    until(lambda: file.read_text().count('"replayed"') >= 2)


def test_a_rule_is_tried_and_silenced(page: Page, fleet: Fleet) -> None:
    """Over stored lines; a silence is made and ended."""
    post(fleet, {"name": "shells", "columns": {"path": "/bin/sh"}})
    page.goto("/alerts")
    page.get_by_role("button", name="Try").click()
    expect(page.locator("#trial-state")).to_contain_text(re.compile(r"\d+ lines: 1 alerts of 1 things"))
    expect(page.locator("#trial-table tbody")).to_contain_text("a shell on node-1.example.com")
    page.get_by_label("or an expression").fill("name:(")
    page.get_by_role("button", name="Try").click()
    expect(page.locator("#trial-state")).to_contain_text("Not tried")
    page.locator("form", has=page.get_by_role("button", name="Keep silent")).get_by_label("Rule").select_option(
        "shells"
    )
    page.get_by_role("button", name="Keep silent").click()
    expect(page.get_by_role("status").first).to_contain_text("the rule shells are kept silent for 2 hours")
    assert fleet.json("alert", "silences")[0]["rule"] == "shells"
    page.get_by_role("button", name="End the silence of shells").click()
    expect(page.get_by_role("status").first).to_contain_text("has ended")


def test_a_secret_is_seen_once(page: Page, fleet: Fleet) -> None:
    """Its text is on one page, that nothing keeps; rotated and revoked by two steps."""
    page.goto("/credentials")
    page.get_by_label("Name", exact=True).fill("laptops")
    page.get_by_label("Tags for its nodes").fill("laptop, office")
    page.get_by_label("Nodes at most").fill("5")
    page.get_by_role("button", name="Hand out").click()
    text = page.locator("#text").inner_text()
    assert len(text) > 20
    page.get_by_role("link", name="I have it").click()
    row = page.get_by_role("row", name=re.compile("laptops"))
    expect(row).to_contain_text("office")
    for path in ("/credentials", "/audit", "/logs"):
        page.goto(path)
        assert text not in page.content()
    assert text not in fleet.server.text()
    body = {"enroll_secret": text, "host_identifier": "by-page", "platform_type": "9", "host_details": {}}
    assert fleet.server.ask("/enroll", body, node=None)["node_key"]
    page.goto("/credentials")
    expect(row).to_contain_text("1 of 5")
    row.locator("summary", has_text="Revoke…").click()
    row.get_by_role("button", name="Revoke laptops").click()
    expect(page.get_by_role("status")).to_contain_text("has ended")
    row.get_by_role("button", name="Forget").click()
    expect(page.get_by_role("row", name=re.compile("laptops"))).to_have_count(0)


def test_a_certificate_is_denied_and_held_reads_end(page: Page, fleet: Fleet) -> None:
    """The node that holds a read is out, and the pages say so; taken off the list it comes back."""
    page.goto("/credentials/certificates")
    expect(page.get_by_role("heading", name="Who issued them")).to_be_visible()
    before = fleet.json("status")["parked_reads"]
    form = page.locator("form", has=page.get_by_role("button", name="Deny"))
    form.get_by_label("By").select_option("identity")
    form.get_by_label("Which").fill("node-00002.sim")
    form.get_by_label("Why").fill("<i>stolen</i>")
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_role("status")).to_contain_text("Denied: identity node-00002.sim")
    expect(page.get_by_role("row", name=re.compile("stolen"))).to_contain_text("<i>stolen</i>")
    until(lambda: fleet.json("status")["parked_reads"] == before - 1, 5)
    page.get_by_role("button", name="Take off").click()
    expect(page.get_by_role("status")).to_contain_text("gone")
    until(lambda: fleet.json("status")["parked_reads"] == before, 60)


def test_tokens_are_handed_out_and_taken_back(page: Page, fleet: Fleet) -> None:
    """A token of the page is good for the API until it is revoked there."""
    page.goto("/credentials/tokens")
    page.get_by_label("Name", exact=True).fill("grafana")
    page.get_by_label("Groups").fill("metrics status")
    page.get_by_role("button", name="Hand out").click()
    text = page.locator("#text").inner_text()
    (fleet.server.folder / "token").write_text(text)
    assert fleet.json("--token-file", "token", "status")["nodes"] >= 3
    page.get_by_role("link", name="I have it").click()
    row = page.get_by_role("row", name=re.compile("grafana"))
    row.locator("summary").click()
    row.get_by_role("button", name="Revoke grafana").click()
    expect(page.get_by_role("status")).to_contain_text("good for nothing")
    assert fleet.server.osqtwist("--token-file", "token", "status").returncode == 1


def test_the_trail_is_searched_and_verified(page: Page, fleet: Fleet) -> None:
    """What was refused is found, and the chain is looked through."""
    fleet.server.osqtwist("node", "revoke", "no-such-node")
    page.goto("/audit")
    page.get_by_label("With").fill("no-such-node")
    page.get_by_label("refused only").check()
    page.get_by_role("button", name="Show").click()
    expect(page.locator("td.refused").first).to_contain_text("no-such-node")
    page.goto("/audit")
    page.get_by_role("button", name="Verify the chain").click()
    expect(page.get_by_role("status")).to_contain_text("The chain is whole")


def test_a_viewer_sees_and_changes_nothing(visitor: Visitor, fleet: Fleet) -> None:
    """No form that would be refused, and no page that would be; a form sent all the same is refused."""
    page = visitor("viewer")
    for path in ("/logs", "/logs/sinks", "/alerts", "/credentials", "/credentials/certificates", "/carves"):
        answer = page.goto(path)
        assert answer and answer.status == 200, path
        posts = [form.get_attribute("action") for form in page.locator("form[method=post]").all()]
        assert posts == ["/sign-out"], path
    for path in ("/audit", "/credentials/tokens"):
        answer = page.goto(path)
        assert answer and answer.status == 403, path
    page.goto("/logs/sinks")
    token = page.locator('meta[name="csrf-token"]').get_attribute("content")
    form = {"change_token": token or "", "back": "/logs/sinks"}
    answer = page.request.post("/logs/sinks/archive/pause", form=form, headers={"Origin": fleet.url}, max_redirects=0)
    assert answer.status == 303
    page.goto("/logs/sinks")
    expect(page.get_by_role("alert")).to_contain_text("Not done")
    assert state(fleet) != "paused"


def test_pages_without_scripts(visitor: Visitor, fleet: Fleet) -> None:
    """All but the streams work without; the newest lines are there."""
    post(fleet, {"name": "plain"})
    page = visitor(script=False)
    page.goto("/logs?when=name:plain")
    expect(page.locator("#lines tbody tr")).to_contain_text(["plain"])
    expect(page.get_by_role("button", name="Follow")).to_have_count(0)
    page.goto("/logs/sinks")
    page.get_by_role("button", name="Pause archive").click()
    page.get_by_role("button", name="Resume archive").click()
    expect(page.get_by_role("status")).to_contain_text("goes on")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/logs", "logs"),
        ("/logs/sinks", "sinks"),
        ("/logs/dead", "dead-letters"),
        ("/alerts", "alerts"),
        ("/credentials", "secrets"),
        ("/credentials/certificates", "certificates"),
        ("/credentials/tokens", "tokens"),
        ("/carves", "carves"),
        ("/audit", "audit"),
    ],
)
def test_a_page_is_for_everybody(path: str, name: str, visitor: Visitor, fleet: Fleet) -> None:
    """Nothing grave by axe-core, light and dark; nothing wider than a phone."""
    if path == "/credentials" and not json.loads(fleet.osqtwist("--json", "secret", "list")):
        fleet.osqtwist("secret", "add", "servers", "--tag", "server")
    if path == "/credentials/certificates" and not fleet.json("deny", "list"):
        fleet.osqtwist("deny", "add", "--serial", "0badc0ffee", "--reason", "lost")
    look_over(visitor, path, name)
