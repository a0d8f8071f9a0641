"""``osqtwist rollout``: versions of the configuration, and how they come to nodes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from osqtwist.cli.console import REFUSED, Operator, moment, visible

_API = ("api", "v1", "rollouts")
_DIFFERENT = 1


@click.group()
def rollout() -> None:
    """Versions of the configuration: rolled out, looked at, rolled back."""


@rollout.command("status")
@click.pass_obj
def rollout_status(operator: Operator) -> None:
    """Show which version is in force, which is tried, and how its canaries are."""
    _show(operator, operator.call(lambda client: client.get(*_API)))


@rollout.command("history")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.pass_obj
def rollout_history(operator: Operator, limit: int) -> None:
    """List the versions that are kept, and the last changes, the newest first."""
    found = operator.call(lambda client: client.get(*_API, "history", limit=limit))
    if operator.as_json:
        operator.json(found)
        return
    for row in found["versions"]:
        row["noted_at"] = moment(row["noted_at"])
    for row in found["changes"]:
        row |= {"at": moment(row["at"]), "percent": f"{row['percent']:g} %"}
    columns = {
        "number": "VERSION",
        "digest": "DIGEST",
        "state": "STATE",
        "noted_at": "NOTED",
        "folder": "FOLDER",
        "files": "FILES",
        "why": "WHY",
    }
    operator.rows(found["versions"], columns)
    click.echo()
    columns = {"at": "WHEN", "version": "VERSION", "what": "WHAT", "percent": "NODES", "by": "BY", "why": "WHY"}
    operator.rows(found["changes"], columns)


@rollout.command("show")
@click.argument("version")
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), help="Write its files to this folder, anew.")
@click.pass_obj
def rollout_show(operator: Operator, version: str, into: Path | None) -> None:
    """Show a version, by number or digest."""
    found = operator.call(lambda client: client.get(*_API, "versions", version))
    if into is not None:
        _write(found["texts"], into)
    if operator.as_json:
        operator.json(found)
        return
    texts = found.pop("texts")
    operator.fields(found | {"noted_at": moment(found["noted_at"]), "files": sorted(texts)})


@rollout.command("diff")
@click.argument("before")
@click.argument("after")
@click.pass_obj
def rollout_diff(operator: Operator, before: str, after: str) -> None:
    """Compare two versions, as `osqtwist config diff` does folders; the exit status is 1 if they differ."""
    from osqtwist.confdiff import NOTHING, Change, words  # noqa: PLC0415 - only this sub-command needs it

    rows = operator.call(lambda client: client.get(*_API, "diff", before=before, after=after))["changes"]
    if operator.as_json:
        operator.json(rows)
    heading = ""
    for row in () if operator.as_json else rows:
        said = (row["layer"], row["what"], row["name"], row.get("before", NOTHING), row.get("after", NOTHING))
        if row["layer"] != heading:
            heading = row["layer"]
            click.echo(visible(heading))
        for line in words(Change(*said)):
            click.echo(visible(f"  {line}"))
    if rows:
        sys.exit(_DIFFERENT)


@rollout.command("pause")
@click.pass_obj
def rollout_pause(operator: Operator) -> None:
    """Stay at the present step; canaries are still looked after."""
    _show(operator, operator.call(lambda client: client.post(*_API, "pause")))


@rollout.command("resume")
@click.pass_obj
def rollout_resume(operator: Operator) -> None:
    """Go on after a pause, begin again after a stop, or follow the files again after a rollback."""
    _show(operator, operator.call(lambda client: client.post(*_API, "resume")))


@rollout.command("stop")
@click.option("--why", default="", help="Kept in the history.")
@click.pass_obj
def rollout_stop(operator: Operator, why: str) -> None:
    """Give canaries the version in force back; the new one is tried again on resume, or when the files change."""
    _show(operator, operator.call(lambda client: client.post(*_API, "stop", body={"why": why})))


@rollout.command("finish")
@click.pass_obj
def rollout_finish(operator: Operator) -> None:
    """Give every node the version that is tried, or was stopped, at once."""
    _show(operator, operator.call(lambda client: client.post(*_API, "finish")))


@rollout.command("rollback")
@click.argument("version")
@click.pass_obj
def rollout_rollback(operator: Operator, version: str) -> None:
    """Give every node a version, by number or digest, at once; it stays until the files change, or until resume."""
    _show(operator, operator.call(lambda client: client.post(*_API, "versions", version, "rollback")))


def _show(operator: Operator, found: dict[str, Any]) -> None:
    if operator.as_json:
        operator.json(found)
        return
    for name in ("in_force", "files", "trial"):
        if ref := found.get(name):
            found[name] = f"version {ref['version']} ({ref['digest']})"
    last = found.pop("last", None)
    if last:
        because = f": {last['why']}" if last["why"] else ""
        found["last_change"] = f"version {last['version']} {last['what']} {moment(last['at'])} by {last['by']}{because}"
    if limits := found.get("stop"):
        found["stop"] = ", ".join(f"{name} {limit}" for name, limit in limits.items())
    health = found.pop("health", None)
    for name in ("began_at", "step_began_at"):
        if name in found:
            found[name] = moment(found[name])
    if health:
        problems = health.pop("problems")
        found |= health
    operator.fields(found)
    if health and problems:
        click.echo()
        columns = {"kind": "KIND", "canaries": "CANARIES", "others": "OTHERS", "text": "PROBLEM", "names": "NODES"}
        operator.rows(problems, columns)


def _write(texts: dict[str, str], into: Path) -> None:
    if into.exists() and any(into.iterdir()):
        click.echo(f"osqtwist: {into} is not empty", err=True)
        sys.exit(REFUSED)
    for name, text in texts.items():
        target = (into / name).resolve()
        if not target.is_relative_to(into.resolve()):
            click.echo(f"osqtwist: {name} would be outside {into}", err=True)
            sys.exit(REFUSED)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
