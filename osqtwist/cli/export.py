"""``osqtwist export``."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from typing import Any

import click

from osqtwist.cli.console import REFUSED, UNREACHABLE, Operator

LIST = ".osqtwist-export"
"""The file that marks a folder as an export, and lists what is in it: what is not exported any more is deleted."""
_SEEN = (LIST, ".git")


class NoFolder(Exception):
    """Nothing can be exported to a folder; says why."""


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.pass_obj
def export(operator: Operator, folder: Path) -> None:
    """
    Write what operators changed through the API as files, for a repository.

    Given tags and notes, revocations, denials, rules of enroll secrets, silences, queries, and the version of the
    configuration that is in force. Nothing secret is among it. A second run changes only what is different.
    """
    try:
        known = _listed(folder)
    except NoFolder as problem:
        click.echo(f"osqtwist: {problem}", err=True)
        sys.exit(REFUSED)
    files: dict[str, list[str]] = {}
    said: list[dict[str, Any]] = []

    def take(line: dict[str, Any]) -> None:
        if "path" in line:
            files.setdefault(line["path"], []).append(line["text"])
        else:
            said.append(line)

    operator.call(lambda client: client.stream("GET", "api", "v1", "export", on_line=take))
    if not said or said[-1].get("type") != "end":
        why = said[-1].get("error", "") if said else "the answer ends in the middle"
        click.echo(f"osqtwist: nothing was written: {why}", err=True)
        sys.exit(UNREACHABLE)
    try:
        operator.fields(_write(folder, {path: "".join(texts) for path, texts in files.items()}, known))
    except (NoFolder, OSError) as problem:
        click.echo(f"osqtwist: {problem}", err=True)
        sys.exit(REFUSED)


def _listed(folder: Path) -> set[str]:
    """The files of the export before this one."""
    try:
        return set((folder / LIST).read_text().splitlines())
    except FileNotFoundError:
        if folder.exists() and any(each.name not in _SEEN for each in folder.iterdir()):
            raise NoFolder(f"{folder} has other things in it; give a new folder, or one of an export") from None
        return set()
    except OSError as problem:
        raise NoFolder(f"{problem.filename}: {problem.strerror}") from None


def _write(folder: Path, files: dict[str, str], known: set[str]) -> dict[str, Any]:
    places = {path: _place(folder, path) for path in {*files, *known}}
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    # The list first, of both: what a run that is broken off leaves behind, the next one knows of.
    (folder / LIST).write_text("".join(f"{path}\n" for path in sorted(places)))
    for path, text in files.items():
        place, data = places[path], text.encode()
        if place.exists() and place.read_bytes() == data:
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.partial")
        partial.write_bytes(data)
        partial.replace(place)
        written += 1
    gone = [path for path in known - set(files) if places[path].exists()]
    for path in gone:
        places[path].unlink()
    (folder / LIST).write_text("".join(f"{path}\n" for path in sorted(files)))
    return {"folder": str(folder), "files": len(files), "written": written, "deleted": len(gone)}


def _place(folder: Path, path: str) -> Path:
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or not path.isprintable():
        raise NoFolder(f"{path!r} would be outside of the folder")
    return folder.joinpath(*pure.parts)
