"""The command as a whole: completion in the shell, and its exit statuses."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click.shell_completion
import pytest

from osqtwist.adminclient import Door
from osqtwist.cli import console
from osqtwist.cli.main import main
from tests.test_twistd import BIN

DOCS = Path(__file__).parent.parent / "docs" / "command.md"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_words(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sub-commands, and the values of options that take few."""
    for words, number, expected in (
        ("osqtwist query ex", 2, {"export"}),
        ("osqtwist query export q1 --format ", 5, {"csv", "json", "ndjson"}),
        ("osqtwist query run --perc", 3, {"--percent"}),
    ):
        # fish sends the word to be completed in the place of its number.
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", words.rpartition(" ")[2] if shell == "fish" else str(number))
        said = click.shell_completion.shell_complete(main, {}, "osqtwist", "_OSQTWIST_COMPLETE", f"{shell}_complete")
        assert said == 0
        found = capsys.readouterr().out
        assert set(re.findall(r"[\w-]+", found)) >= expected, found
        assert "import" not in found


@pytest.mark.slow
def test_bash_completes_what_it_is_told_to() -> None:
    """The line of the manual, in a real bash."""
    line = next(line for line in DOCS.read_text().splitlines() if "bash_source" in line and line.startswith("eval"))
    script = f"""
        PATH={BIN}:$PATH
        {line}
        COMP_WORDS=(osqtwist query ap); COMP_CWORD=2
        _osqtwist_completion osqtwist
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["approve"], done.stderr


def test_every_exit_status_is_in_the_manual() -> None:
    """Those of the module that knows them, click's and Ctrl-C's."""
    table = [int(found) for found in re.findall(r"^\| (\d+) \|", DOCS.read_text(), re.M)]
    assert table == [0, console.REFUSED, 2, console.UNREACHABLE, console.WAITING, 130]


def test_nothing_that_a_node_says_is_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets stand in tables as they came, and what is no letter is made visible."""
    operator = console.Operator(Door(Path("none")), as_json=False)
    operator.rows([{"a": "[red]x[/red] []", "b": "\x1b[31m"}], {"a": "A", "b": "B"})
    operator.fields({"detail": '{"nodes":[]}', "seen_at": 0.5, "used_at": None})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[3][:3] == ["seen_at", "1970-01-01", "00:00:00Z"]
    assert lines == [
        ["A", "B"],
        ["[red]x[/red]", "[]", "\\x1b[31m"],
        ["detail", '{"nodes":[]}'],
        lines[3],
        ["used_at", "-"],
    ]
