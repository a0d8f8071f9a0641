"""``osqtwist config``: what nodes get, why, and how two folders of layers differ."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from osqtwist.cli.console import REFUSED, Operator, visible

_API = ("api", "v1")
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_DIFFERENT = 1
_TROUBLE = 2


@click.group()
def config() -> None:
    """The configuration of nodes."""


@config.command("check")
@click.argument("folder", type=_FOLDER)
@click.pass_obj
def config_check(operator: Operator, folder: Path) -> None:
    """Check a folder of configuration layers and the SQL in them, without a server."""
    from osqtwist.configfolder import check_folder  # noqa: PLC0415 - only this sub-command needs it

    problems = check_folder(folder)
    if operator.as_json:
        operator.json([{"severity": each.severity, "text": str(each)} for each in problems])
    else:
        for each in problems:
            click.echo(visible(f"{each.severity}: {each}"))
    if any(each.severity == "error" for each in problems):
        sys.exit(REFUSED)
    if not operator.as_json:
        click.echo(f"{folder} can be served")


@config.command("show")
@click.argument("name")
@click.option("--why", is_flag=True, help="Of each layer, query and option, instead of the config.")
@click.pass_obj
def config_show(operator: Operator, name: str, why: bool) -> None:
    """
    Show the config that a node gets, and why: which layers it is made of, and what of their targets decided.

    The config is on standard output, what is told of it on standard error; with --why that is on standard output.
    """
    found = operator.call(lambda client: client.get(*_API, "nodes", name, "config"))
    if operator.as_json:
        operator.json(found["why"] if why else found)
        return
    if version := found["why"].get("version"):
        role = " (a canary)" if version["canary"] else ""
        _tell(f"version {version['version']}{role}: {version['because']}", why)
    for each in found["why"]["layers"]:
        sign = "applies" if each["applies"] else "not"
        _tell(f"{each['layer']}: {sign}: {'; '.join(each['because'])}", why)
    if why:
        _show_sources(operator, found["why"])
        return
    _tell(f"etag {found['etag']}", why)
    click.echo(json.dumps(found["config"], indent=2))


@config.command("diff")
@click.argument("before", type=_FOLDER)
@click.argument("after", type=_FOLDER)
@click.option(
    "--node", default="", help="What differs for this node; a file with what `osqtwist --json node show` printed."
)
@click.pass_obj
def config_diff(operator: Operator, before: Path, after: Path, node: str) -> None:
    """
    Compare two folders of layers, query by query; without a server unless --node names a node.

    The exit status is 0 if they are the same, 1 if they differ, 2 if one of them cannot be read.
    """
    from osqtwist.confdiff import Folder, compare_folders, words  # noqa: PLC0415 - only this sub-command needs it
    from osqtwist.configfolder import read_folder, read_tagging  # noqa: PLC0415
    from osqtwist.layers import BadConfiguration  # noqa: PLC0415

    folders = []
    for folder in (before, after):
        try:
            folders.append(Folder(read_folder(folder)[0], read_tagging(folder)))
        except BadConfiguration as bad:
            for problem in bad.problems:
                click.echo(f"osqtwist: {folder}: {problem}", err=True)
            sys.exit(_TROUBLE)
    changes = _for_node(operator, node, *folders) if node else compare_folders(*folders)
    if operator.as_json:
        operator.json([each.as_row() for each in changes])
    heading = ""
    for change in () if operator.as_json else changes:
        if change.layer != heading:
            heading = change.layer
            click.echo(visible(heading))
        for line in words(change):
            click.echo(visible(f"  {line}" if change.layer else line))
    if changes:
        sys.exit(_DIFFERENT)


@config.command("import")
@click.option("--from", "kind", type=click.Choice(["osquery", "fleet", "doorman", "zentral"]), required=True)
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write to.")
@click.option("--force", is_flag=True, help="Write over files that are there.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path, exists=True))
@click.pass_obj
def config_import(operator: Operator, kind: str, into: Path, force: bool, paths: tuple[Path, ...]) -> None:
    """
    Make layers and packs of another server's configuration, or osquery's own; without a server.

    Of a folder all .conf, .json, .yaml and .yml files below it are read.  What has no counterpart is listed.  The exit
    status is 0 if everything came over, 4 if there were warnings, 1 if nothing was written.
    """
    from osqtwist.cli.importing import run  # noqa: PLC0415 - only this sub-command needs it

    run(operator, kind, paths, into, force)


def _for_node(operator: Operator, node: str, before: Any, after: Any) -> Any:
    from osqtwist.confdiff import compare_outcomes  # noqa: PLC0415 - only this sub-command needs it
    from osqtwist.configuration import DEFAULT_OPTIONS  # noqa: PLC0415
    from osqtwist.targeting import NodeFacts  # noqa: PLC0415

    if (file := Path(node)).is_file():
        try:
            row = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            row = None
    else:
        row = operator.call(lambda client: client.get(*_API, "nodes", node))
    try:
        certificate = row.get("certificate") or {}
        sources = row.get("tag_sources", {})
        firm = frozenset(tag for tag, gave in sources.items() if {"operator", "secret", "certificate"} & {*gave})
        said = {key: row.get(key, "") for key in ("name", "host_identifier", "osquery_version")}
        facts = msgspec.convert(
            said
            | {
                "node_id": row["node"],
                "platforms": row["platforms"],
                "tags": firm,
                "firm_tags": firm,
                "found_tags": frozenset(tag for tag, gave in sources.items() if "query" in gave),
                "identity": certificate.get("identity", ""),
                "issuer": certificate.get("issuer", ""),
            },
            NodeFacts,
        )
    except (AttributeError, KeyError, TypeError, msgspec.ValidationError):
        click.echo(f"osqtwist: {node} is not what `osqtwist --json node show` prints", err=True)
        sys.exit(_TROUBLE)
    return compare_outcomes(before, after, facts, {"options": dict(DEFAULT_OPTIONS)})


def _show_sources(operator: Operator, why: dict[str, Any]) -> None:
    rows = [
        each | {"query": f"{each['pack']}/{each['query']}" if each["pack"] else each["query"]}
        for each in why["queries"]
    ]
    click.echo()
    operator.rows(rows, {"query": "QUERY", "layer": "LAYER", "file": "FILE", "replaces": "REPLACES"})
    click.echo()
    options = [each | {"layer": each["layer"] or "(the server's default)"} for each in why["options"]]
    operator.rows(options, {"option": "OPTION", "layer": "LAYER", "replaces": "REPLACES"})


def _tell(text: str, is_all: bool) -> None:
    click.echo(visible(text if is_all else f"# {text}"), err=not is_all)
