"""``osqtwist signing-key``."""

from __future__ import annotations

from typing import Any

import click

from osqtwist.cli.console import Operator

_API = ("api", "v1", "signing-keys")


@click.group("signing-key")
def signing_key() -> None:
    """The keys that sign node keys."""


@signing_key.command("list")
@click.pass_obj
def signing_key_list(operator: Operator) -> None:
    """List the keys: the one that signs, and those whose node keys are still accepted."""
    _print(operator, operator.call(lambda client: client.get(*_API)))


@signing_key.command("rotate")
@click.pass_obj
def signing_key_rotate(operator: Operator) -> None:
    """Make a new key. It signs in ten seconds, when every process knows it; node keys of the others stay good."""
    _print(operator, operator.call(lambda client: client.post(*_API, "rotate")))


@signing_key.command("retire")
@click.argument("key")
@click.pass_obj
def signing_key_retire(operator: Operator, key: str) -> None:
    """Accept the node keys of a key no more: their nodes enroll again when they come next."""
    _print(operator, operator.call(lambda client: client.post(*_API, key, "retire")))


def _print(operator: Operator, answer: dict[str, Any]) -> None:
    operator.rows(answer["signing_keys"], {"key": "KEY", "state": "STATE", "requests": "REQUESTS"})
