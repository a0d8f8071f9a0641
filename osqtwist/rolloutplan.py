"""
How changes of the configuration are rolled out: in which steps, to which nodes first, and when it is enough.

A plan is the file ``rollout.toml`` of the config folder.  Without one, a change is for every node at once.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

import msgspec

from osqtwist.layers import BadConfiguration, Problem
from osqtwist.targeting import BadTarget, Target

PLAN_FILE = "rollout.toml"
"""The file of the config folder that holds it."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")
_LONGEST = 30 * 86400.0
_MOST_STEPS = 50


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    The table ``[stop]``: from how many canaries on a roll-out stops itself.

    Each limit is a number of nodes, or a share of the canaries that got the version, as in ``"2%"``; 0 is no limit.

    :ivar errors: canaries with a new error of a query or of the configuration.
    :ivar denylisted: canaries whose watchdog ended osquery in the middle of a query.
    :ivar missing: canaries not heard of for :attr:`missing_after` seconds since they got the version.
    :ivar nodes: shares are looked at once so many canaries got the version, and no step ends before, but for
        :attr:`Plan.patience`.
    """

    errors: int | str = 3
    denylisted: int | str = 1
    missing: int | str = 0
    missing_after: float = 600.0
    nodes: int = 1

    def __post_init__(self) -> None:
        for name in ("errors", "denylisted", "missing"):
            limit = getattr(self, name)
            found = _SHARE.fullmatch(limit) if isinstance(limit, str) else None
            if (isinstance(limit, int) and limit < 0) or (isinstance(limit, str) and not found):
                raise ValueError(f"{name} is {limit!r}; it must be a number of nodes, or a share such as '2%'")
            if found and not 0 < float(found[1]) <= 100:
                raise ValueError(f"{name} is {limit!r}; a share is over 0% and up to 100%")
        if not 60 <= self.missing_after <= _LONGEST:
            raise ValueError("missing_after must be from 1m to 30d")
        if self.nodes < 0:
            raise ValueError("nodes must be at least 0")

    def is_reached(self, limit: int | str, count: int, canaries: int) -> bool:
        """Whether so many canaries are too many, of those that got the version."""
        if not count or not limit:
            return False
        if isinstance(limit, int):
            return count >= limit
        return canaries >= self.nodes and count * 100 >= float(limit.rstrip("%")) * canaries


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    What ``rollout.toml`` says.

    :ivar steps: the share of nodes at each step, in percent, each more than the one before; after the last one every
        node has the version.
    :ivar wait: seconds that each step lasts.
    :ivar patience: seconds after which a step ends though fewer than :attr:`Limits.nodes` canaries came.
    :ivar target: an expression: the nodes that the steps are shares of.
    """

    steps: tuple[float, ...] = (5.0, 25.0, 100.0)
    wait: float = 600.0
    patience: float = 3600.0
    target: str = ""
    stop: Limits = Limits()

    def __post_init__(self) -> None:
        steps = self.steps
        if not 1 <= len(steps) <= _MOST_STEPS or list(steps) != sorted(set(steps)) or steps[0] <= 0 or steps[-1] > 100:
            raise ValueError(
                f"steps must be up to {_MOST_STEPS} shares, over 0 up to 100, each more than the one before"
            )
        for name in ("wait", "patience"):
            if not 0 < getattr(self, name) <= _LONGEST:
                raise ValueError(f"{name} must be over 0 and up to 30d")
        try:
            Target(where=self.target)
        except BadTarget as problem:
            raise ValueError(str(problem).replace("where is", "target is")) from None


def parse_plan(text: str) -> Plan:
    """
    A plan from the text of its file.

    :raise BadConfiguration: it is none.
    """
    try:
        found: dict[str, Any] = tomllib.loads(text)
        _in_seconds(found, "wait", "patience")
        if isinstance(found.get("stop"), dict):
            _in_seconds(found["stop"], "missing_after")
        return msgspec.convert(found, Plan)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError) as problem:
        raise BadConfiguration([Problem(PLAN_FILE, "", str(problem))]) from None


def _in_seconds(table: dict[str, Any], *names: str) -> None:
    for name in names:
        value = table.get(name)
        if isinstance(value, str):
            found = _DURATION.fullmatch(value)
            if not found:
                raise ValueError(
                    f"{name} is {value!r}; it must be seconds, or a text such as '90s', '10m', '2h' or '1d'"
                )
            table[name] = float(found[1]) * _UNITS[found[2]]
