"""The pages in a browser: signing in and out, nodes; each page for everybody."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Fleet, Visitor, chromium, fleet, look_over, page, playwright, signed_in, visitor

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
