"""What the documents say is there, and what is there is said."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from osqtwist.cli.latecommands import LateCommands
from osqtwist.cli.main import main
from osqtwist.metrics import Metrics
from osqtwist.settings import HELP, default_of
from osqtwist.tap import Options
from osqtwist.web.routes import paths_by_route
from tests.harness import InMemoryServer

ROOT = Path(__file__).parent.parent
DOCS = {path.name: path.read_text("utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]}
EVERYTHING = "\n".join(DOCS.values())


def cells(text: str) -> list[list[str]]:
    """The rows of every table."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def subcommands(command: click.Command) -> dict[str, click.Command]:
    """Those of a command, by name."""
    if isinstance(command, LateCommands):
        return command.every_command()
    return dict(getattr(command, "commands", {}))


@pytest.mark.parametrize("name", HELP)
def test_every_option_is_in_the_reference(name: str) -> None:
    """With its default and its meaning."""
    option = f"`--{name.replace('_', '-')}`"
    (row,) = [row for row in cells(DOCS["options.md"]) if row[0] == option]
    assert row[3] == HELP[name][1]
    if default_of(name) and name != "port":
        assert row[1] == f"`{default_of(name)}`"


def test_no_document_names_an_option_that_is_not_there() -> None:
    """Of twistd osqtwist, of the command, of a benchmark or of the fault matrix."""
    known = {f"--{name.replace('_', '-')}" for name in HELP} | {"--settings"}
    for command in main.every_command().values():
        for each in [command, *subcommands(command).values()]:
            known |= {opt for parameter in each.params for opt in parameter.opts}
    known |= {opt for parameter in main.params for opt in parameter.opts}
    # Other programs' own.  osquery's are those with underscores, which ours never have, and these.
    known |= {"--nodaemon", "--pidfile", "--logfile", "--uid", "--gid", "--unix-socket", "--help"}
    known |= {"--flagfile", "--ephemeral", "--verbose", "--quick", "--editable", "--strict", "--build"}
    for path in [*(ROOT / "bench").rglob("*.py"), *(ROOT / "tests" / "faults").glob("*.py")]:
        known |= set(re.findall(r'"(--[a-z-]+)"', path.read_text()))
    # Blocks of commands are parsed as a whole by test_documented_commands.py.
    sentences = re.sub(r"^```(?:sh|console)\n.*?^```", "", EVERYTHING, flags=re.M | re.S)
    named = set(re.findall(r"(?<![-\w])--[a-z][a-z_-]*[a-z]", sentences))
    assert {name for name in named - known if "_" not in name} == set()


def test_options_are_what_twistd_parses() -> None:
    """Every setting is an option of the plug-in."""
    parsed = set(Options().longOpt)
    for name in HELP:
        assert f"{name.replace('_', '-')}=" in parsed


@pytest.mark.parametrize("route", paths_by_route())
def test_every_path_is_in_the_wire_notes(route: str) -> None:
    """The table of routes has each of its paths, and no other."""
    own, *aliases = paths_by_route()[route]
    (row,) = [row for row in cells(DOCS["wire.md"]) if row[0] == route]
    assert row[1] == f"`{own}`"
    assert re.findall(r"`([^`]+)`", row[2]) == aliases


def test_every_metric_is_in_the_manual() -> None:
    """With its labels, and no metric that is not there."""
    rows = {row[0]: row for row in cells(DOCS["operating.md"]) if row[0].startswith("`osqtwist_")}
    expected = {}
    for collector in Metrics().registry._collector_to_names:
        suffix = "_total" if collector._type == "counter" else ""  # type: ignore[attr-defined]
        expected[f"`{collector._name}{suffix}`"] = ", ".join(collector._labelnames)  # type: ignore[attr-defined]
    assert {name: row[1] for name, row in rows.items()} == expected
    named = set(re.findall(r"`(osqtwist_[a-z_]+)`", EVERYTHING))
    assert {f"`{name}`" for name in named} == set(expected)


def test_every_operation_is_in_the_manual(tmp_path: Path) -> None:
    """With the role that it needs and its summary, in the order of the application."""
    server = InMemoryServer(tmp_path)
    expected = [
        [each.method, f"`{each.path}`", each.role.word if each.role else "anybody", each.summary]
        for each in server.admin_api.operations()
    ]
    server.stop()
    table = [row for row in cells(DOCS["api.md"]) if row[0] in ("GET", "POST")]
    assert table == expected, "\n".join(f"| {' | '.join(row)} |" for row in expected)


def test_every_command_is_in_the_readme() -> None:
    """Each group with its sub-commands."""
    for name, command in main.every_command().items():
        text = f"`osqtwist {name}"
        (row,) = [row for row in cells(DOCS["README.md"]) if row[0].startswith(text)]
        said = row[0].strip("`").removeprefix(f"osqtwist {name}").strip()
        assert set(said.replace("\\", "").split("|")) - {""} == set(subcommands(command))


def test_every_test_that_is_cited_exists() -> None:
    """The proofs of the conformance table."""
    cited = re.findall(r"`(test_\w+\.py)::(test_\w+)`", DOCS["conformance.md"])
    assert len(cited) > 40
    for file, name in cited:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text("utf-8"), f"{file}::{name}"


def headings_of(document: Path) -> set[str]:
    """As a forge and the site call them: small letters, dashes for blanks, and no other marks."""
    lines = re.findall(r"^#+ (.*)", document.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


def test_every_document_is_in_the_contents() -> None:
    """The tree of contents of the site is read off the lists of docs/index.md."""
    listed = re.findall(r"^- \[[^]]*\]\(([^)]+\.md)\)", (ROOT / "docs" / "index.md").read_text("utf-8"), re.M)
    documents = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    outside = {"../README.md", "../CHANGELOG.md", "../SECURITY.md"}
    assert (documents - {"index.md"}) | outside == {*listed}, "give each document a line in a list of docs/index.md"
    assert len(listed) == len({*listed})


def test_every_link_leads_somewhere() -> None:
    """Files, and headings in them."""
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", path.read_text("utf-8")):
            if target.startswith("http"):
                continue
            led_to = path.parent / target if target else path
            assert led_to.exists(), f"{path.name}: {target}"
            if heading and led_to.suffix == ".md":
                assert heading in headings_of(led_to), f"{path.name}: {target}#{heading}"


def test_every_module_named_in_the_tour_exists() -> None:
    """The README's tour of the source."""
    # That one is osquery's.
    for name in set(re.findall(r"`(test_\w+\.py|tests/\w+\.py|bench/)`", EVERYTHING)) - {"test_http_server.py"}:
        assert (ROOT / name).exists() or (ROOT / "tests" / name).exists(), name


def test_examples_of_the_settings_file_are_settings(tmp_path: Path) -> None:
    """The TOML in the documents is read as settings."""
    from osqtwist.settings import gather

    examples = re.findall(r"```toml\n(.*?)```", EVERYTHING, re.S)
    assert examples
    for number, text in enumerate(examples):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        gather({}, {}, str(file))


@pytest.mark.slow
def test_help_explains_every_option() -> None:
    """twistd osqtwist --help."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "twistd"), "osqtwist", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    for name in HELP:
        assert f"--{name.replace('_', '-')}" in done.stdout
