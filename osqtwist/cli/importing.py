"""``osqtwist config import``: reads what was given, within bounds, and writes a folder of layers."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import click

from osqtwist.cli.console import REFUSED, Operator, visible
from osqtwist.configfolder import check_folder
from osqtwist.importing import draft_of
from osqtwist.importing.sources import ENDINGS, MAX_BYTES, MAX_FILE_BYTES, MAX_FILES, SourceFile, Sources
from osqtwist.layers import Problem

PARTLY = 4
"""The exit status when the folder was written, but something had no counterpart."""


def run(operator: Operator, kind: str, paths: Sequence[Path], folder: Path, is_forced: bool) -> None:
    """Import; ends the process with the status that the manual names."""
    notes: list[Problem] = []
    draft = draft_of(kind, Sources({file.path: file for file in _read(paths, notes)}))
    draft.notes.problems[:0] = notes
    files = draft.files()
    if not draft.layers:
        _tell(draft.notes.problems)
        _refuse(f"nothing of {kind}'s was found in {', '.join(map(str, paths))}")
    if problem := draft.too_large():
        _tell(draft.notes.problems)
        _refuse(f"{problem}; nothing was written: import parts of it into folders of their own")
    _check(files)
    if not is_forced and (there := [name for name in files if os.path.lexists(folder / name)]):
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        _refuse(f"{folder / there[0]}{more} is there already; nothing was written (--force writes over it)")
    for name, text in files.items():
        _write(folder / name, text, is_forced)
    if operator.as_json:
        warnings = [{"file": each.file, "where": each.where, "text": each.text} for each in draft.notes.problems]
        operator.json({"files": sorted(files), "warnings": warnings})
    else:
        for name in sorted(files):
            click.echo(f"wrote {folder / name}")
        _tell(draft.notes.problems)
        count = len(draft.notes.problems)
        click.echo(f"{len(files)} files; {count or 'no'} warning{'s' * (count != 1)}: osqtwist config check {folder}")
    if draft.notes.problems:
        sys.exit(PARTLY)


def _read(paths: Sequence[Path], notes: list[Problem]) -> Iterator[SourceFile]:
    count = size = 0
    for given in paths:
        for path in _files_below(given):
            count += 1
            if count > MAX_FILES:
                _refuse(f"{given} holds more than {MAX_FILES} files of configuration")
            try:
                with path.open("rb") as file:
                    data = file.read(MAX_FILE_BYTES + 1)
            except OSError as problem:
                _refuse(f"{path}: {problem.strerror}")
            size += len(data)
            if len(data) > MAX_FILE_BYTES or size > MAX_BYTES:
                _refuse(
                    f"{path} is too large: a file has at most {MAX_FILE_BYTES >> 20} MiB, all {MAX_BYTES >> 20} MiB"
                )
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                notes.append(Problem(str(path), "", "it is not UTF-8; nothing of it is taken", "warning"))
                continue
            whole = Path(os.path.normpath(path.absolute())).as_posix()
            yield SourceFile(whole, str(path), text)


def _files_below(given: Path) -> Iterator[Path]:
    if not given.is_dir():
        yield given
        return
    top = given.resolve()
    for folder, folders, names in os.walk(given):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            # A link may lead anywhere, and what is no file may never end.
            is_inside = path.suffix in ENDINGS and not name.startswith(".") and path.resolve().is_relative_to(top)
            if is_inside and path.is_file():
                yield path


def _check(files: dict[str, str]) -> None:
    """What is written must be what can be served."""
    with tempfile.TemporaryDirectory() as name:
        for file, text in files.items():
            _write(Path(name, file), text, is_forced=False)
        errors = [problem for problem in check_folder(Path(name)) if problem.severity == "error"]
    if errors:
        _tell(errors)
        _refuse("what would be written cannot be served; nothing was written")


def _write(path: Path, text: str, is_forced: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_forced:
            # A link there is replaced, not followed.
            path.unlink(missing_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as problem:
        _refuse(f"{path}: {problem.strerror}")


def _tell(problems: Sequence[Problem]) -> None:
    for problem in problems:
        click.echo(visible(f"{problem.severity}: {problem}"), err=True)


def _refuse(text: str) -> NoReturn:
    click.echo(f"osqtwist: {text}", err=True)
    sys.exit(REFUSED)
