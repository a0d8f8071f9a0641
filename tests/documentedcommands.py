"""
The commands that the documents show: found, parsed, and what they are said to print compared with what they print.

A block of commands is fenced as ``sh`` (each line is a command) or ``console`` (commands begin with ``$``, the rest is
what they print).  One that cannot be run here stands behind ``<!-- not run: WHY -->``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import attrs
import click

from osqtwist.cli.main import main
from osqtwist.settings import BadSetting, gather
from osqtwist.tap import Options

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^(?:<!-- (?P<marker>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
_OURS = re.compile(r"(?:^|[ /])(osqtwist|twistd)(?= )")


class WrongCommand(Exception):
    """A documented command is none."""


@attrs.frozen
class Step:
    """One command and what it is said to print."""

    command: str
    shown: tuple[str, ...] = ()


@attrs.frozen
class Block:
    """
    A block of commands.

    :ivar place: document and line.
    :ivar why_not: why it is not run, if it is not.
    """

    document: str
    line: int
    steps: tuple[Step, ...]
    why_not: str = ""

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """Those of a document, in order."""
    text = document.read_text("utf-8")
    found = []
    for each in _FENCE.finditer(text):
        if each["language"] in ("sh", "console"):
            marker = each["marker"] or ""
            why_not = marker.removeprefix("not run: ") if marker.startswith("not run: ") else ""
            steps = _session(each["text"]) if each["language"] == "console" else _script(each["text"])
            line = text.count("\n", 0, each.start()) + 1
            found.append(Block(str(document.relative_to(ROOT)), line, tuple(steps), why_not))
    return found


def untagged(document: Path) -> Iterator[str]:
    """What looks like a command in a block that does not say so."""
    for each in _FENCE.finditer(document.read_text("utf-8")):
        if not each["language"]:
            yield from re.findall(r"^(?:\$ .*|(?:osqtwist|twistd) [a-z-].*)", each["text"], re.M)


def in_sentences(document: Path) -> list[str]:
    """Commands of ours in the middle of a sentence."""
    text = _FENCE.sub("", document.read_text("utf-8"))
    found = re.findall(r"`((?:osqtwist|twistd [^`]*?osqtwist) [^`]+)`", text)
    return [" ".join(each.replace("\\|", "|").split()) for each in found]


def check(command: str, is_whole: bool = True) -> int:
    """
    Parse what is ours in a command line with the real parsers; answers how much that was.

    :param is_whole: whether values and settings have to be there too; in a sentence a command may be cut short.
    :raise WrongCommand: a sub-command, an option or a choice is not there.
    """
    checked = 0
    for part in re.split(r"\s(?:\|\||&&|[|;])\s|\$\(", command):
        words = _words(part)
        if words and words[0].endswith("osqtwist"):
            _check_osqtwist(words[1:], is_whole)
            checked += 1
        elif words and words[0].endswith("twistd") and "osqtwist" in words:
            _check_twistd(words[words.index("osqtwist") + 1 :], is_whole)
            checked += 1
    return checked


def fits(shown: tuple[str, ...], output: str) -> bool:
    """Whether the lines that are shown are in an output, in order; figures, ids, paths and spaces may be others."""
    lines = iter(output.splitlines())
    for each in shown:
        pattern = re.compile(_pattern(each))
        if each.strip() not in ("", "...") and not any(pattern.search(line) for line in lines):
            return False
    return True


def _pattern(line: str) -> str:
    parts = re.split(r"(https?://|\.\.\.|/home/you/\S+|\b[0-9a-f]{12,}\b|\d[\d.,]*|\s+)", line.strip())
    made = []
    for part in parts:
        if part == "...":
            made.append(".*")
        elif re.fullmatch("https?://", part):
            made.append("https?://")
        elif part.startswith("/home/you"):
            made.append(r"\S+")
        elif re.fullmatch(r"[0-9a-f]{12,}", part):
            made.append("[0-9a-f]+")
        elif re.fullmatch(r"\d[\d.,]*", part):
            made.append(r"\d[\d.,]*")
        else:
            made.append(r"\s+" if part.isspace() else re.escape(part))
    return "".join(made)


def _script(text: str) -> Iterator[Step]:
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield Step(" ".join(line.split()) if "'" not in line and '"' not in line else line)


def _session(text: str) -> Iterator[Step]:
    command, shown = "", []
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            if command:
                yield Step(command, tuple(shown))
            command, shown = line[2:], []
        else:
            shown.append(line)
    if command:
        yield Step(command, tuple(shown))


def _words(part: str) -> list[str]:
    try:
        words = shlex.split(part.strip().rstrip(')"'), comments=True)
    except ValueError:
        words = shlex.split(part.strip(), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    for number, word in enumerate(words):
        if re.match(r"[12]?>|<", word):
            return words[:number]
    return words


def _check_osqtwist(words: list[str], is_whole: bool) -> None:
    command: click.Command = main
    context = click.Context(main, info_name="osqtwist")
    while True:
        try:
            given, rest, _ = command.make_parser(context).parse_args(list(words))
            for parameter in command.params:
                value = given.get(parameter.name or "")
                if isinstance(parameter.type, click.Choice) and isinstance(value, str) and value.islower():
                    parameter.type.convert(value, parameter, context)
        except click.BadOptionUsage as problem:
            if not is_whole:
                return
            raise WrongCommand(f"{context.command_path}: {problem.format_message()}") from None
        except click.ClickException as problem:
            raise WrongCommand(f"{context.command_path}: {problem.format_message()}") from None
        if not isinstance(command, click.Group) or not rest or (rest[0].isupper() and not is_whole):
            return
        child = command.get_command(context, rest[0])
        if child is None:
            raise WrongCommand(f"{context.command_path} has no {rest[0]!r}")
        command, context, words = child, click.Context(child, info_name=rest[0], parent=context), rest[1:]


def _check_twistd(words: list[str], is_whole: bool) -> None:
    options = Options()
    try:
        options.parseOptions(words)
        if is_whole:
            gather(options.given, {}, "")
    except (SystemExit, BadSetting) as problem:
        raise WrongCommand(f"twistd osqtwist {shlex.join(words)}: {problem}") from None
