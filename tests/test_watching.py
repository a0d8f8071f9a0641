"""Dashboard and alert rules speak of metrics, labels and words that there are."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from osqtwist.metrics import Metrics

ROOT = Path(__file__).parent.parent
RULES = ROOT / "packaging" / "prometheus" / "osqtwist.rules.yml"
RULE_TESTS = RULES.with_name("osqtwist.rules.test.yml")
DASHBOARD = ROOT / "packaging" / "grafana" / "osqtwist.json"
MANUAL = (ROOT / "docs" / "watching.md").read_text("utf-8")

# What Prometheus adds, and what is its own.
ADDED = {"instance", "job"}
OF_PROMETHEUS = {"up": ADDED}


def rules() -> list[dict[str, Any]]:
    """Every alert."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Every panel that shows something."""
    return [each for each in json.loads(DASHBOARD.read_text())["panels"] if each["type"] != "row"]


def panel_expressions() -> list[tuple[str, str]]:
    """Title and expression of each line of each panel, with what Grafana fills in."""
    return [(panel["title"], filled_in(target["expr"])) for panel in panels() for target in panel["targets"]]


def filled_in(expression: str) -> str:
    return expression.replace("$__rate_interval", "5m").replace("$instance", ".*")


def expressions() -> list[tuple[str, str]]:
    return [*panel_expressions(), *((rule["alert"], rule["expr"]) for rule in rules())]


@functools.cache
def series() -> dict[str, set[str]]:
    """The labels of every series that there is, by its name."""
    found = {name: set(labels) for name, labels in OF_PROMETHEUS.items()}
    for collector in Metrics().registry._collector_to_names:
        kind: Any = collector
        labels = {*kind._labelnames, *ADDED}
        if kind._type == "histogram":
            found[f"{kind._name}_bucket"] = {*labels, "le"}
            found[f"{kind._name}_sum"] = found[f"{kind._name}_count"] = labels
        else:
            found[kind._name + ("_total" if kind._type == "counter" else "")] = labels
    return found


@functools.cache
def source() -> str:
    """All of the package; the values of labels are among the texts in it."""
    return "".join(path.read_text("utf-8") for path in (ROOT / "osqtwist").rglob("*.py"))


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_an_expression_is_about_what_there_is(title: str, expression: str) -> None:
    """Its metrics, the labels it looks at and sums by, and the values it compares them with."""
    plain = re.sub(r'"[^"]*"', '""', expression)
    names = set(re.findall(r"\b(?:osqtwist_\w+|up)\b", re.sub(r"\{[^}]*\}", "", plain)))
    assert names, title
    assert names <= set(series()), names - set(series())
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", expression):
        for label, text in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', selector):
            assert label in series()[name], f"{name} has no label {label}"
            if label not in ADDED:
                assert not [word for word in text.split("|") if f'"{word}"' not in source()], text
    labels = set().union(*(series()[name] for name in names))
    for by in re.findall(r"by \(([^)]*)\)", expression):
        assert set(re.split(r",\s*", by)) <= labels, by


def test_every_alert_says_what_to_do() -> None:
    """How bad it is, what is wrong in one line, and what to do; commands in it are commands."""
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "runbook"}, rule["alert"]


def test_every_alert_is_tried() -> None:
    """In the unit tests of the rules, by name."""
    tried = {test["name"] for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]}
    assert tried - {"a day as usual"} == {rule["alert"] for rule in rules()}


def test_every_alert_is_in_the_manual() -> None:
    """With how bad it is, in order."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", MANUAL, re.M)
    assert rows == [(rule["alert"], rule["labels"]["severity"]) for rule in rules()]


def test_the_dashboard_is_whole() -> None:
    """Every panel says what it means and asks the chosen data source; none lies on another."""
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert len(panel["description"]) > 20, panel["title"]
        assert {each["datasource"]["uid"] for each in [panel, *panel["targets"]]} == {"${datasource}"}
        place = panel["gridPos"]
        cells = {(place["x"] + across, place["y"] + down) for across in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(across for across, _ in cells) < 24
        taken |= cells
    ids = [each["id"] for each in json.loads(DASHBOARD.read_text())["panels"]]
    assert len(ids) == len(set(ids))
