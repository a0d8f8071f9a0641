"""``osqtwist capacity``: the model, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from osqtwist.cli.main import main


def said(*words: str) -> str:
    """What it prints."""
    done = CliRunner().invoke(main, [*words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def needs(*words: str) -> dict[str, float]:
    """Of the first number of nodes, as numbers."""
    found = json.loads(said("--json", "capacity", *words))["needs"][0]
    assert isinstance(found, dict)
    return found


def test_it_says_what_comes_first_and_what_to_set() -> None:
    """For each number of nodes that is given."""
    text = said("capacity", "--nodes", "20000", "--nodes", "50000", "--cores", "4", "--memory", "8")
    assert "20,000 nodes" in text and "50,000 nodes" in text
    assert "What comes first is the host CPU." in text
    assert "--workers 4" in text


def test_habits_and_keys_change_what_it_takes() -> None:
    """Less often is less, RSA is more, and without held reads there is no memory for them."""
    plain = needs("--nodes", "10000")
    assert needs("--log-period", "60")["cores"] < plain["cores"]
    assert needs("--rsa")["cores"] == pytest.approx(plain["cores"] * 1.3)
    assert needs("--hold", "0", "--interval", "60")["held reads"] == 0
    assert needs("--memory", "0.2", "--nodes", "100000")["hosts"] > needs("--nodes", "100000")["hosts"]


def test_costs_of_other_machines_take_the_place_of_ours(tmp_path: Path) -> None:
    """Some of them or all; a name that is none is an error that has those that there are."""
    file = tmp_path / "costs.json"
    file.write_text('{"append_us": 220.0}')
    assert needs("--costs", str(file))["log Redis cores"] == pytest.approx(2 * needs()["log Redis cores"])
    for wrong in ('{"apend_us": 1}', "[1]", "{", '{"append_us": "many"}'):
        file.write_text(wrong)
        done = CliRunner().invoke(main, ["capacity", "--costs", str(file)])
        assert done.exit_code == 2
        assert "connection_us" in done.output
