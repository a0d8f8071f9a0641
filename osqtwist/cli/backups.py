"""``osqtwist backup`` and ``restore``: these work on the machine of the server, with the rights of its user."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import msgspec

from osqtwist.archive import BadArchive
from osqtwist.backup import Done, back_up
from osqtwist.backup import restore as put_back
from osqtwist.cli.console import Operator
from osqtwist.settings import BadSetting, Settings, gather
from osqtwist.statefolder import UnusableState
from osqtwist.storage.copying import CopyFailed
from osqtwist.storage.redis_url import BadRedisURL

_EXPECTED = (BadArchive, BadSetting, BadRedisURL, CopyFailed, UnusableState)

_settings = click.option(
    "--settings",
    "settings_file",
    type=click.Path(exists=True, dir_okay=False),
    envvar="OSQTWIST_SETTINGS",
    help="The server's settings file: where its state and its store are.",
)
_redis = click.option("--redis", default="", metavar="URL", help="The store, as another user than the server's.")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--carves", is_flag=True, help="Carved files too.")
@_settings
@_redis
@click.pass_context
def backup(context: click.Context, file: Path, carves: bool, settings_file: str | None, redis: str) -> None:
    """Write signing keys, enroll secrets and the store into FILE, of a running server or of one that is stopped."""
    try:
        done = back_up(_gathered(context, settings_file, redis), file, carves)
    except _EXPECTED as problem:
        raise click.ClickException(str(problem)) from None
    _say(context, done, "backed up")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--replace", is_flag=True, help="Put aside what is there; keys on --redis are deleted.")
@click.option("--any-version", is_flag=True, help="Take a backup of another version of osqtwist.")
@_settings
@_redis
@click.pass_context
def restore(
    context: click.Context, file: Path, replace: bool, any_version: bool, settings_file: str | None, redis: str
) -> None:
    """Put the backup in FILE back; the server must not run."""
    try:
        done = put_back(_gathered(context, settings_file, redis), file, replace, any_version)
    except _EXPECTED as problem:
        raise click.ClickException(str(problem)) from None
    _say(context, done, "restored")


def _gathered(context: click.Context, settings_file: str | None, redis: str) -> Settings:
    settings = gather({}, os.environ, settings_file)
    said = context.find_root()
    if said.get_parameter_source("state") is click.core.ParameterSource.COMMANDLINE:
        settings = msgspec.structs.replace(settings, state=said.params["state"])
    return msgspec.structs.replace(settings, redis=redis) if redis else settings


def _say(context: click.Context, done: Done, what: str) -> None:
    operator: Operator = context.obj
    if operator.as_json:
        facts = {"file": str(done.path), "files": done.files, "keys": done.keys, "notes": done.notes}
        click.echo(json.dumps(facts))
        return
    keys = f" and {done.keys} keys" if done.keys else ""
    click.echo(f"{what}: {done.files} files{keys}, {done.path}")
    for note in done.notes:
        click.echo(note)
