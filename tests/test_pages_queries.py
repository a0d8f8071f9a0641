"""Live queries and the configuration in a browser, with 200 simulated nodes."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import osqtwist
from tests.browser import (
    KINDS,
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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

NODES = 200
expect.set_options(timeout=20_000)
MANY = (
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 100) "
    "select i, hostname, i * 7919 % 1000 as shuffled from n, system_info"
)
HOSTILE = (
    "select '<script>alert(1)</script><img src=x onerror=alert(2)>' as \"<b>html\", "
    "'a' || char(10) || char(27) || '[31m' || char(8238) || 'x' as control, '=cmd' as formula, "
    "printf('%.*c', 100000, 'x') as huge, '' as \"__proto__\""
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server whose configuration is rolled out step by step."""
    folder = tmp_path_factory.mktemp("q")
    sample = Path(osqtwist.__file__).parent / "sample_config"
    config = folder / "config"
    config.mkdir()
    for file in sample.glob("*.conf"):
        (config / file.name).write_text(file.read_text("utf-8"), "utf-8")
    (config / "packs").mkdir()
    for file in (sample / "packs").glob("*.conf"):
        (config / "packs" / file.name).write_text(file.read_text("utf-8"), "utf-8")
    change_configuration(folder, 3600)
    (config / "rollout.toml").write_text('steps = [10, 100]\nwait = "1h"\n')
    running = start_server(folder, "--config", str(config), nodes=NODES, refresh=10)
    try:
        yield running
    finally:
        stop_server(running)


def change_configuration(folder: Path, interval: int) -> None:
    layer = {"schedule": {"more": {"query": "select 1", "interval": interval}}}
    (folder / "config" / "50-more.conf").write_text(json.dumps(layer))


def ask(page: Page, sql: str, where: str = "") -> str:
    """Have the page ask something; answers with the query's id."""
    page.goto("/queries")
    page.get_by_label("SQL", exact=True).fill(sql)
    page.get_by_label("Which nodes").fill(where)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_url(re.compile("/queries/q"))
    return page.url.rpartition("/")[2]


def test_a_query_from_typing_to_rows(page: Page, fleet: Fleet) -> None:
    """With words on offer, what is wrong, how many nodes are meant; then rows of all, sorted, filtered, opened."""
    page.goto("/queries")
    sql, which = page.get_by_label("SQL", exact=True), page.get_by_label("Which nodes")
    expect(page.locator("#count")).to_have_text(f"{NODES} nodes, {NODES} online")
    sql.press_sequentially("select hostnam from system_in")
    expect(page.get_by_role("option")).to_have_count(1)
    sql.press("Tab")
    expect(sql).to_have_value("select hostnam from system_info")
    expect(page.locator("#problems")).to_contain_text("line 1, column 8 Error: there is no column hostnam")
    page.get_by_role("button", name="line 1, column 8").click()
    assert page.evaluate("document.getElementById('sql').selectionStart") == 7
    which.press_sequentially("name:node-0019")
    expect(page.get_by_role("option")).to_have_count(10)
    which.press("ArrowDown")
    which.press("ArrowDown")
    which.press("Enter")
    expect(which).to_have_value("name:node-00191.sim")
    expect(page.locator("#count")).to_have_text("1 node, 1 online")
    which.fill("name:(")
    expect(page.locator("#count")).to_contain_text("a value is missing")

    ask(page, MANY)
    shown = page.locator("#shown")
    expect(shown).to_have_text(re.compile(rf"20.000 rows from {NODES} nodes"))
    assert page.locator("#grid tbody tr").count() < 100
    page.get_by_role("button", name="shuffled").click()
    expect(page.locator("#grid tbody tr td").nth(2)).to_have_text("3")
    page.get_by_role("button", name="shuffled").click()
    expect(page.locator("#grid tbody tr td").nth(2)).to_have_text("981")
    page.get_by_label("Filter").fill("node-00077 981")
    expect(shown).to_have_text(re.compile("^1 row of"))
    grid = page.get_by_role("region", name="Table of rows")
    grid.focus()
    grid.press("ArrowDown")
    grid.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("node-00077.sim")
    page.keyboard.press("Escape")
    page.get_by_label("Filter").fill("")
    page.evaluate("document.getElementById('grid').scrollTop = 20000 * 29")
    expect(page.locator('#grid tr[aria-rowindex="20001"]')).to_be_visible()
    expect(page.locator("#live")).to_contain_text(f"{NODES} of {NODES} nodes")
    expect(page.locator("#rest")).to_contain_text("Until the answer")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert len(download.value.path().read_text().splitlines()) == 20_001
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#live")).to_contain_text("cancelled")
    expect(page.locator("#stream")).to_have_text("all in")


def test_what_nodes_say_is_text(page: Page) -> None:
    """Whatever is in it; nothing of it runs, is hidden, or makes the page wide."""
    page.on("dialog", lambda dialog: pytest.fail(f"a script of a node ran: {dialog.message}"))
    ask(page, HOSTILE, "name:node-0000*")
    cells = page.locator("#grid tbody tr").first.locator("td")
    expect(cells.nth(0)).to_have_text("<script>alert(1)</script><img src=x onerror=alert(2)>")
    expect(cells.nth(1)).to_have_text(r"a\n\x1b[31m\u202ex")
    assert len(cells.nth(3).inner_text()) == 300
    assert page.locator("#grid img, #grid script, #grid b").count() == 0
    cells.nth(3).click()
    expect(page.get_by_role("dialog")).to_contain_text("x" * 100_000)
    page.get_by_role("button", name="Close").click()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert '"\'=cmd"' in download.value.path().read_text()


def test_errors_and_silent_nodes_stand_apart(page: Page, fleet: Fleet) -> None:
    """Errors by what they say, silent nodes by name until they answer."""
    fleet.nodes.send_signal(signal.SIGSTOP)
    try:
        ask(page, "select 1 as one", "name:node-0002*")
        expect(page.locator("#rest")).to_contain_text("10 of 10 nodes have not answered")
        expect(page.get_by_role("link", name="node-00027.sim")).to_be_visible()
    finally:
        fleet.nodes.send_signal(signal.SIGCONT)
    expect(page.locator("#shown")).to_have_text("10 rows from 10 nodes")
    expect(page.locator("#rest")).not_to_contain_text("have not answered")
    ask(page, "select cpu_brand from system_info", "name:node-0001*")
    expect(page.locator("#errors")).to_contain_text("no such column: cpu_brand")
    expect(page.locator("#errors")).to_contain_text("10 nodes: node-0001")
    fleet.json("query", "issue", "select 1", "--where", "name:node-0000[1-3]*", "--from", "1h")
    page.goto("/queries")
    page.get_by_role("link", name="select 1").first.click()
    expect(page.locator("#live")).to_contain_text("scheduled")


def test_it_works_without_a_script(visitor: Visitor) -> None:
    """A query is issued and its rows are seen; what is refused comes back into the editor."""
    page = visitor(script=False)
    ask(page, "select hostname from system_info", "name:node-0000[1-4]*")

    def has_rows() -> bool:
        page.reload()
        return page.get_by_role("region", name="Rows of some nodes").get_by_role("rowheader").count() == 4

    until(has_rows)
    page.goto("/queries")
    page.get_by_label("SQL", exact=True).fill("selec 1")
    page.get_by_label("Until").fill("2h")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert").first).to_contain_text("syntax error")
    expect(page.get_by_label("SQL", exact=True)).to_have_value("selec 1")
    expect(page.get_by_label("Until")).to_have_value("2h")


def test_a_dangerous_query_waits_for_somebody_else(visitor: Visitor) -> None:
    """Who issued it cannot approve; who comes by can, and then it goes out."""
    operator, admin, viewer = visitor("operator"), visitor(), visitor("viewer")
    operator.goto("/queries")
    operator.get_by_label("SQL", exact=True).fill("select * from curl where url = 'http://127.0.0.1/'")
    expect(operator.locator("#problems")).to_contain_text("Somebody else will have to approve: the table curl")
    operator.get_by_label("Which nodes").fill("name:nobody")
    operator.get_by_role("button", name="Ask", exact=True).click()
    expect(operator.locator("#live")).to_contain_text("somebody else has to approve")
    viewer.goto(operator.url)
    expect(viewer.locator("#live")).to_contain_text("waits for approval")
    expect(viewer.get_by_role("button", name="Approve")).to_have_count(0)
    expect(viewer.get_by_role("button", name="Cancel")).to_have_count(0)
    admin.goto(operator.url)
    admin.get_by_role("button", name="Approve").click()
    expect(admin.locator("#live")).to_contain_text("approved")
    expect(operator.locator("#live")).to_contain_text("open")
    viewer.goto("/queries")
    expect(viewer.get_by_label("SQL", exact=True)).to_have_count(0)


def test_a_query_is_saved_asked_and_forgotten(page: Page) -> None:
    """By name, with whom it is meant for; a name that is taken is not taken away."""
    page.goto("/queries")
    page.get_by_label("SQL", exact=True).fill("select 7 as seven")
    page.get_by_label("Which nodes").fill("name:node-00005*")
    page.get_by_text("Save for later").click()
    page.get_by_label("Name", exact=True).fill("seven")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("status").first).to_contain_text("seven is saved")
    expect(page.get_by_label("Which nodes")).to_have_value("name:node-00005*")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("alert").first).to_contain_text("there is a saved query")
    page.goto("/queries")
    page.get_by_role("link", name="seven").click()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#shown")).to_have_text("1 row from 1 node")
    page.goto("/queries")
    page.get_by_text("Forget", exact=True).click()
    page.get_by_role("button", name="Forget seven").click()
    expect(page.get_by_role("status").first).to_contain_text("seven is forgotten")


def test_a_roll_out_is_stopped_and_undone(page: Page, fleet: Fleet) -> None:
    """Seen to begin, with what differs; stopped, with why; a version is rolled back to."""
    page.goto("/config")
    expect(page.locator("#rollout")).to_contain_text("version 1")
    expect(page.get_by_role("row", name="00-base.conf")).to_contain_text(re.compile(rf"{NODES} of {NODES}"))
    change_configuration(fleet.server.folder, 60)
    state = page.locator("#rollout")
    expect(state).to_contain_text("rolling")
    expect(state).to_contain_text(re.compile(r"[1-9]\d* got it"))
    state.get_by_role("link", name="what differs").click()
    expect(page.locator(".difference .added").last).to_have_text(re.compile(r"\+ 60$"))
    page.go_back()
    page.locator("summary", has_text="Stop").click()
    page.get_by_label("Why (kept").fill("<b>too loud</b>")
    page.get_by_role("button", name="Stop the roll-out").click()
    expect(state).to_contain_text("stopped")
    expect(state).to_contain_text("<b>too loud</b>")
    found: Any = fleet.json("rollout", "status")
    assert (found["phase"], found["last"]["why"]) == ("stopped", "<b>too loud</b>")
    until(lambda: fleet.json("config", "show", "node-00001.sim", "--why")["version"]["version"] == 1)
    page.get_by_role("row", name=re.compile("^2 ")).locator("summary", has_text="Roll back").click()
    page.get_by_role("button", name="Give every node version 2").click()
    expect(state).to_contain_text("pinned")
    until(lambda: fleet.json("config", "show", "node-00001.sim", "--why")["version"]["version"] == 2)
    page.get_by_label("Why does a node").fill("node-00001.sim")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_role("row", name="50-more.conf yes")).to_contain_text("it is for every node")
    page.get_by_label("Node").fill("nobody")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("there is no node")


@pytest.mark.parametrize(
    ("path", "name", "ready", "kinds"),
    [
        ("/queries", "queries", "#count:not(:empty)", KINDS),
        ("/config", "configuration", "h1", KINDS),
        ("/config/versions/1", "version", "h1", ("phone",)),
        ("/config/why?node=node-00001.sim", "why", "h1", ("phone",)),
    ],
)
def test_a_page_is_for_everybody(path: str, name: str, ready: str, kinds: tuple[str, ...], visitor: Visitor) -> None:
    """Nothing grave by axe-core, light and dark; nothing wider than a phone."""
    look_over(visitor, path, name, ready=ready, kinds=kinds)


def test_results_and_differences_are_for_everybody(visitor: Visitor, fleet: Fleet) -> None:
    """The same of a query with rows, and of two versions."""
    found = fleet.json("query", "issue", "select hostname, uuid from system_info", "--where", "name:node-000*")
    look_over(visitor, f"/queries/{found['query_id']}", "query", ready="#grid tbody td")
    if len(fleet.json("rollout", "history")["versions"]) < 2:
        change_configuration(fleet.server.folder, 60)
        until(lambda: len(fleet.json("rollout", "history")["versions"]) == 2)
    look_over(visitor, "/config/diff?before=1&after=2", "difference", kinds=("light", "phone"))


def test_a_viewer_changes_nothing(visitor: Visitor, fleet: Fleet) -> None:
    """No form is shown that would be refused, and one that is made up is."""
    page = visitor("viewer")
    page.goto("/config")
    expect(page.locator("main form[method=post]")).to_have_count(0)
    # With the page's own token, so that nothing but the role is in the way.
    status = page.evaluate(
        """async () => {
          const token = document.querySelector('meta[name="csrf-token"]').content;
          const body = new URLSearchParams({ change_token: token, sql: "select 424242" });
          return (await fetch("/queries", { method: "POST", body })).url;
        }"""
    )
    assert "sql=select" in status
    page.goto("/queries")
    expect(page.get_by_text("select 424242")).to_have_count(0)
