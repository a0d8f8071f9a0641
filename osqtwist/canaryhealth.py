"""
How canaries are: what of their status lines speaks of a query or of the configuration, and how much is too much.

The texts are osquery's (config.cpp, packs.cpp, options.cpp, scheduler.cpp).  A query is denylisted for a day when
osquery was ended while it ran, by the watchdog or by a crash; osquery says so when it starts again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

import attrs
import msgspec

from osqtwist.confdiff import Folder
from osqtwist.rolloutplan import Limits

Kind = Literal["error", "denylisted"]
_LONGEST = 200

_DENYLISTED = re.compile(r"^Scheduled query may have failed: (.*)|skipping denied scheduled query: (.*)", re.S)
_ERRORS = (
    "Error executing scheduled query ",
    "Discovery query failed (",
    "Query has invalid interval: ",
    "Invalid query name: ",
    "Error adding pack: ",
    "Error parsing pack: ",
    "Error reading the query pack named: ",
    'Error parsing the "',
    "Error config ",
    "updateSource failed to parse config",
    "Cannot parse unknown value type for option: ",
    "Cannot set unknown or invalid flag: ",
    "The CLI only flag --",
)
_NUMBERS = re.compile(r"\d+")


class StatusLine(msgspec.Struct):
    """What of a status line is looked at; older osquery sends its numbers as text."""

    severity: int | str = 0
    message: str = ""
    unixTime: float | str = 0.0


@attrs.frozen
class Trouble:
    """
    Something that a node says is wrong.

    :ivar problem: what, the same for every node that has it; :attr:`text` in this node's words.
    :ivar at: when the node said so, by its own clock; 0 if it does not say.
    """

    kind: Kind
    problem: str
    text: str
    at: float


_decoder = msgspec.json.Decoder(StatusLine)


def troubles(lines: Iterable[msgspec.Raw]) -> list[Trouble]:
    """What status lines say is wrong with queries or the configuration; each problem once, the newest of it."""
    found: dict[str, Trouble] = {}
    for raw in lines:
        try:
            line = _decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if line.severity in (0, "0"):
            continue
        if trouble := trouble_of(line):
            found[trouble.problem] = trouble
    return list(found.values())


def trouble_of(line: StatusLine) -> Trouble | None:
    """What one line says is wrong, if it speaks of a query or of the configuration."""
    message = line.message
    try:
        at = float(line.unixTime)
    except ValueError:
        at = 0.0
    if not math.isfinite(at):
        at = 0.0
    if denylisted := _DENYLISTED.search(message):
        name = (denylisted[1] or denylisted[2] or "")[:_LONGEST]
        return Trouble("denylisted", f"denylisted: {name}", message[:_LONGEST], at)
    if message.startswith(_ERRORS):
        # Numbers are of the node: process ids, times.
        return Trouble("error", _NUMBERS.sub("#", message[:_LONGEST]), message[:_LONGEST], at)
    return None


@attrs.frozen
class ProblemCount:
    """
    How many nodes have a problem.

    :ivar canaries: of those that have the version that is tried; :attr:`others` of those that do not, or had it before.
    :ivar names: of a few of the canaries.
    """

    kind: Kind
    problem: str
    text: str
    canaries: int
    others: int
    names: tuple[str, ...] = ()

    def is_new(self, ratio: float) -> bool:
        """
        Whether canaries have it that would not have it anyway.

        What the others have is expected of canaries too, in proportion; up to twice as much, and some, is chance.

        :param ratio: how many canaries there are for each other node.
        """
        expected = self.others * ratio
        return self.canaries > 2 * expected + 2 * math.sqrt(expected)


def news(problems: Iterable[ProblemCount], before: Folder) -> tuple[ProblemCount, ...]:
    """
    The problems that the configuration of before gave no reason to complain of.

    osquery says again what it makes of options and discovery queries when anything changes, so a canary complains of
    what was there already, while the others are silent.
    """
    old = tuple(_complaints(before))
    return tuple(each for each in problems if not f"{each.text}\n".startswith(old))


def _complaints(folder: Folder) -> Iterable[str]:
    """How lines begin that are about options and discovery queries that a configuration has."""
    for layer in folder.layers:
        packs = layer.body.get("packs")
        for body in (layer.body, *(packs.values() if isinstance(packs, Mapping) else ())):
            if isinstance(body, Mapping):
                yield from _complaints_of(body)


def _complaints_of(body: Mapping[str, Any]) -> Iterable[str]:
    options, discovery = body.get("options"), body.get("discovery")
    for name in options if isinstance(options, Mapping) else ():
        yield f"Cannot set unknown or invalid flag: {name}\n"
        yield f"Cannot parse unknown value type for option: {name}\n"
        yield f"The CLI only flag --{name} "
    for sql in discovery if isinstance(discovery, list) else ():
        yield f"Discovery query failed ({sql})"[:_LONGEST]


class ProblemRow(TypedDict):
    """A problem, and how many canaries and other nodes have it; see :class:`ProblemCount`."""

    kind: Kind
    problem: str
    text: str
    canaries: int
    others: int
    names: list[str]


class HealthRow(TypedDict):
    """How canaries are; see :class:`Health`."""

    canaries: int
    errors: int
    denylisted: int
    missing: int
    problems: list[ProblemRow]


@attrs.frozen
class Health:
    """
    How canaries are.

    :ivar canaries: how many got a configuration from the version that differs from what they had.
    :ivar errors: how many have a new error, :attr:`denylisted` how many a query newly denylisted.
    :ivar missing: how many were not heard of since.
    """

    canaries: int = 0
    errors: int = 0
    denylisted: int = 0
    missing: int = 0
    problems: tuple[ProblemCount, ...] = ()

    def as_row(self) -> HealthRow:
        """Ready to be JSON."""
        return {
            "canaries": self.canaries,
            "errors": self.errors,
            "denylisted": self.denylisted,
            "missing": self.missing,
            "problems": [
                {
                    "kind": each.kind,
                    "problem": each.problem,
                    "text": each.text,
                    "canaries": each.canaries,
                    "others": each.others,
                    "names": list(each.names),
                }
                for each in self.problems
            ],
        }


def verdict(limits: Limits, health: Health) -> str:
    """Why a roll-out must stop, in words; nothing if it may go on."""
    of = f"of {health.canaries} canaries" if health.canaries else "canaries"
    for count, limit, words, kind in (
        (health.denylisted, limits.denylisted, "had a query denylisted", "denylisted"),
        (health.errors, limits.errors, "have a new error", "error"),
        (health.missing, limits.missing, "were not heard of since they got it", ""),
    ):
        if limits.is_reached(limit, count, health.canaries):
            said = [each for each in health.problems if each.kind == kind]
            worst = max(said, key=lambda each: each.canaries, default=None)
            example = f": {worst.text} ({', '.join(worst.names)})" if worst else ""
            return f"{count} {of} {words}{example}"
    return ""
