"""The files an import may look at: those that the operator gave, and no other."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence

import attrs

from osqtwist.documents import Document, read_json, read_yaml
from osqtwist.expression import Matches

MAX_FILE_BYTES = 4 * 2**20
MAX_FILES = 5000
MAX_BYTES = 64 * 2**20
"""Of all files together."""

_LONGEST_PATTERN = 1024

YAML_ENDINGS = (".yaml", ".yml")
ENDINGS = (".conf", ".json", *YAML_ENDINGS)


@attrs.frozen
class SourceFile:
    """
    One file.

    :ivar path: absolute, without ``..``; what other files name it by.
    :ivar name: as the operator sees it.
    """

    path: str
    name: str
    text: str

    @property
    def stem(self) -> str:
        """The name of the file without its folder and ending."""
        return posixpath.basename(self.path).rpartition(".")[0] or posixpath.basename(self.path)

    def documents(self) -> list[Document]:
        """
        What it holds.

        :raise BadDocument: it is neither JSON nor YAML.
        """
        if self.path.endswith(YAML_ENDINGS):
            return [each for each in read_yaml(self.text) if each.value is not None]
        return [read_json(self.text)]


class Sources:
    """The files that were given, in the order of their paths."""

    def __init__(self, files: Mapping[str, SourceFile]) -> None:
        self._files = dict(sorted(files.items()))
        self._documents: dict[str, list[Document]] = {}

    def __iter__(self) -> Iterator[SourceFile]:
        return iter(self._files.values())

    def documents(self, file: SourceFile) -> list[Document]:
        """
        What a file holds, read once.

        :raise BadDocument: nothing that can be read.
        """
        if file.path not in self._documents:
            self._documents[file.path] = file.documents()
        return self._documents[file.path]

    def at(self, base: SourceFile, spoken: str) -> SourceFile | None:
        """The file that another one names, by a path relative to its own, if it was given."""
        return self._files.get(posixpath.normpath(posixpath.join(posixpath.dirname(base.path), spoken)))

    def matching(self, base: SourceFile, pattern: str) -> list[SourceFile]:
        """The files that a pattern in another one means; ``**`` stands for any folders, ``*`` for no ``/``."""
        return self._fitting(posixpath.normpath(posixpath.join(posixpath.dirname(base.path), pattern)))

    def named(self, path: str) -> list[SourceFile]:
        """The files of a path, or, if there is none, of its last part; ``*`` and ``%`` stand for any letters."""
        path = posixpath.normpath(path.replace("%", "*"))
        return self._fitting(path) or self._fitting(f"/**/{posixpath.basename(path)}")

    def _fitting(self, pattern: str) -> list[SourceFile]:
        parts = [_Part(each) for each in pattern[:_LONGEST_PATTERN].split("/")]
        return [file for path, file in self._files.items() if _is_path(parts, path.split("/"))]


class _Part:
    """A part of a pattern, between two slashes."""

    def __init__(self, pattern: str) -> None:
        self.is_any = pattern == "**"
        self._matches = Matches("", pattern.lower()) if pattern else None

    def fits(self, name: str) -> bool:
        return self._matches.matches(lambda key: (name,)) if self._matches else not name


def _is_path(pattern: Sequence[_Part], path: Sequence[str]) -> bool:
    """Match without going back further than the last ``**``: the time is at most one length times the other."""
    part = name = 0
    star, resume = -1, 0
    while name < len(path):
        if part < len(pattern) and pattern[part].is_any:
            star, resume = part, name
            part += 1
        elif part < len(pattern) and pattern[part].fits(path[name]):
            part += 1
            name += 1
        elif star >= 0:
            resume += 1
            part, name = star + 1, resume
        else:
            return False
    return all(left.is_any for left in pattern[part:])
