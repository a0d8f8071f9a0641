"""Every command that the documents show is one, by the real parsers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documentedcommands import DOCUMENTS, ROOT, WrongCommand, blocks, check, fits, in_sentences, untagged

NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]

NOT_RUN = {
    "README.md": ["needs osqueryd"],
    "docs/command.md": ["each line is for another shell"],
    "docs/installing-osquery.md": ["for a node with osquery's package"],
    "docs/live-queries.md": ["takes two operators", "a dialogue"],
    "docs/pki-recipes.md": ["fetches a list", "needs step-ca", "needs Vault", "needs Active Directory", "needs Puppet"],
    "docs/running.md": [
        "for a machine with systemd",
        "there is no container engine",
        "for a machine with systemd",
        "test_backup.py does it",
    ],
}
"""What no test runs, and why; all else is run by ``test_documents_run.py``, but for ``twistd osqtwist`` itself."""


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_blocks_are_commands(name: str) -> None:
    """Sub-commands, options and choices are there; a block of commands says that it is one."""
    assert list(untagged(ROOT / name)) == []
    for block in blocks(ROOT / name):
        for step in block.steps:
            try:
                check(step.command)
            except WrongCommand as problem:
                pytest.fail(f"{block.place}: {problem}")


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_sentences_are_commands(name: str) -> None:
    """Those too."""
    for command in in_sentences(ROOT / name):
        if "|" not in command and "..." not in command:
            try:
                check(command, is_whole=False)
            except WrongCommand as problem:
                pytest.fail(f"{name}: `{command}`: {problem}")


def test_what_is_not_run_is_known() -> None:
    """Each with its reason: a new one has to be looked at."""
    found = {name: [each.why_not for each in blocks(ROOT / name) if each.why_not] for name in NAMES}
    assert {name: reasons for name, reasons in found.items() if reasons} == NOT_RUN


@pytest.mark.parametrize(
    "command",
    [
        "osqtwist nodes list",
        "osqtwist node list --were tag:prod",
        "osqtwist flags --for plan9",
        "FOO=1 osqtwist query run --what > x",
        "twistd osqtwist --prot ssl:8443",
        "twistd -n osqtwist --hold forever",
        'eval "$(osqtwist nonsense)"',
    ],
)
def test_a_wrong_command_is_found(command: str) -> None:
    """Wrong sub-commands, options, choices and values."""
    with pytest.raises(WrongCommand):
        check(command)


def test_outputs_are_compared_loosely(tmp_path: Path) -> None:
    """Figures, ids and the width of columns may differ, words and their order may not."""
    output = "noise\nname   state\nweb-17 up   1,024\nid 0123456789abcdef\nend"
    assert fits(("name state", "web-1  up 5", "...", "id ffffffffffff"), output)
    assert not fits(("web-1 up 5", "name state"), output)
    assert not fits(("web-1 down 5",), output)
