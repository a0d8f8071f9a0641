"""The ``[[identity]]`` blocks of the settings file, with the rules of plug-ins that they name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import msgspec
from twisted.plugin import getPlugins

from osqtwist.identity import ForeignRule, IdentityRule
from osqtwist.identityinterfaces import BadIdentityRule, IIdentityRule


def read_identity_rules(
    rules: Sequence[IdentityRule], plugins: Iterable[Any] | None = None
) -> tuple[IdentityRule, ...]:
    """
    The rules, those of plug-ins ready to be asked.

    :param plugins: in the place of those that are installed.
    :raise BadIdentityRule: a kind is not installed, or its settings cannot be used.
    """
    if not any(rule.kind for rule in rules):
        return tuple(rules)
    known = {each.kind: each for each in (getPlugins(IIdentityRule) if plugins is None else plugins)}
    return tuple(_with_plugin(rule, known) if rule.kind else rule for rule in rules)


def _with_plugin(rule: IdentityRule, known: dict[str, Any]) -> IdentityRule:
    if rule.kind not in known:
        there = f"installed are {', '.join(sorted(known))}" if known else "no package with identity rules is installed"
        raise BadIdentityRule(f"[[identity]] kind is {rule.kind!r}; {there}")
    plugin = known[rule.kind]
    try:
        settings = msgspec.convert(rule.settings, plugin.settings)
        fields = {field.name for field in msgspec.structs.fields(plugin.settings)}
    except (msgspec.ValidationError, ValueError) as problem:
        raise BadIdentityRule(f"[[identity]] kind {rule.kind}: settings: {problem}") from None
    if unknown := sorted(set(rule.settings) - fields):
        known_names = ", ".join(sorted(fields)) or "none"
        raise BadIdentityRule(f"[[identity]] kind {rule.kind}: {unknown[0]} is not among its settings: {known_names}")
    own = {name: getattr(rule, name) for name in IdentityRule.__struct_fields__}
    return ForeignRule(**own, find=partial(plugin.find, settings=settings))
