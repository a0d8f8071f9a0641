"""
What osqtwist stands on, as far as it can be looked at without asking anybody: versions, licences, known holes.

``make audit`` asks a database of holes; it is not reached from everywhere, and says so.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

# It reads what every package says of itself.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BAD = tomllib.loads((ROOT / "packaging" / "known-bad.toml").read_text())["bad"]
# The extras that users install; the others are for working on osqtwist.
EXTRAS = ("embedded", "kafka", "otel", "s3")
# Nothing that asks anything of who uses or passes on osqtwist, but to keep the notices.
LICENCES = re.compile(
    r"MIT(-0)?|BSD|BSD-[23]-Clause|3-Clause BSD|Apache-2\.0|Apache Software|PSF-2\.0|ZPL-2\.1|MPL-2\.0|ISC|"
    r"Mozilla Public 2\.0 \(MPL 2\.0\)"
)


def plain(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@cache
def closure() -> dict[str, Distribution]:
    """Whatever is installed for users, by name."""
    found: dict[str, Distribution] = {}
    open_ends = [Requirement(f"osqtwist[{','.join(EXTRAS)}]")]
    while open_ends:
        wanted = open_ends.pop()
        name = plain(wanted.name)
        if name in found and not wanted.extras:
            continue
        found[name] = distribution(wanted.name)
        for text in found[name].requires or ():
            each = Requirement(text)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                open_ends.append(each)
    return found


def licences(found: Distribution) -> list[str]:
    """As a package says them: an expression, or classifiers, or else the first line of a text."""
    facts = found.metadata
    if expression := facts.get("License-Expression"):
        return re.split(r" (?:AND|OR) ", expression)
    said = [each for each in facts.get_all("Classifier") or () if each.startswith("License ::")]
    return [each.split(" :: ")[-1].replace(" License", "") for each in said] or [
        (facts.get("License") or "").partition("\n")[0]
    ]


def test_everything_has_a_licence_that_suits_everybody() -> None:
    """Also what our dependencies need."""
    wrong = {
        f"{name}: {licence!r}"
        for name, found in closure().items()
        for licence in licences(found)
        if not LICENCES.fullmatch(licence.removesuffix(" License"))
    }
    assert not wrong
    assert len(closure()) > 40


def test_nothing_with_a_known_hole_is_installed() -> None:
    """As far as packaging/known-bad.toml knows."""
    installed = closure()
    for bad in BAD:
        if found := installed.get(bad["name"]):
            version = Version(found.version)
            assert not SpecifierSet(bad["versions"]).contains(version, prereleases=True), f"{bad['name']}: {bad['why']}"


def test_nothing_with_a_known_hole_is_asked_for() -> None:
    """The least version that pyproject.toml takes has none either."""
    wanted = [*PROJECT["dependencies"], *(each for extra in EXTRAS for each in PROJECT["optional-dependencies"][extra])]
    for text in wanted:
        requirement = Requirement(text)
        least = [each.version for each in requirement.specifier if each.operator == ">="]
        assert len(least) == 1, f"{text}: a least version, and no other bound"
        for bad in BAD:
            if bad["name"] == plain(requirement.name):
                assert not SpecifierSet(bad["versions"]).contains(least[0]), f"{text}: {bad['why']}"


def test_every_line_of_the_list_is_about_something_that_is_used() -> None:
    """And can be read."""
    for bad in BAD:
        SpecifierSet(bad["versions"])
        assert bad["why"]
        if bad["name"] not in closure():
            with pytest.raises(PackageNotFoundError):
                distribution(bad["name"])


@pytest.mark.slow
def test_what_is_installed_fits_together() -> None:
    """pip's own look."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
