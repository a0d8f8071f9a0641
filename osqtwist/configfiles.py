"""
The files of a configuration: read from wherever they are into layers and tagging, and kept as one version.

A config folder is read like this, and so is what was kept of one.
"""

from __future__ import annotations

import hashlib
import posixpath
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import attrs
import msgspec

from osqtwist.confcheck import MAX_BYTES, check, check_size
from osqtwist.confdiff import Folder
from osqtwist.layers import BadConfiguration, Layer, Problem, merge, parse_layer, parse_text
from osqtwist.tagging import FILE, QUERY_PREFIX, Tagging, parse_tagging

ENDINGS = (".conf", ".json", ".yaml", ".yml")
MOST_KEPT_BYTES = 32 * 2**20
"""Bytes that the files of one version may have together."""

_files_decoder = msgspec.json.Decoder(dict[str, str])


class FileSource(Protocol):
    """
    Where the files of a configuration are.

    Each method raises :exc:`BadConfiguration` for what is not there or cannot be read.
    """

    def layers(self) -> Iterable[str]:
        """The names of the layers' files, in order."""

    def text(self, name: str) -> str:
        """The text of a file beside the layers."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def pack(self, layer: str, name: str, spoken: str) -> str:
        """The text of a pack's file, which a layer calls as it speaks of it."""


@attrs.frozen(eq=False)
class Content:
    """
    What the files of a configuration say.

    :ivar files: their texts, by name; those of packs by the path that layers speak of, made plain.
    :ivar warnings: what is no reason not to serve it.
    :ivar digest: of the files.
    """

    folder: Folder
    files: Mapping[str, str] = {}
    warnings: tuple[Problem, ...] = ()
    digest: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(_encoded(self.files)).hexdigest()[:16])

    @property
    def layers(self) -> list[Layer]:
        """The layers, in order, without those of tag queries."""
        return list(self.folder.layers)

    @property
    def tagging(self) -> Tagging:
        """The rules and tag queries."""
        return self.folder.tagging

    def packed(self) -> bytes:
        """The files as few bytes."""
        return zlib.compress(_encoded(self.files), 9)


def read_content(source: FileSource) -> Content:
    """
    Read all files of a configuration.

    :raise BadConfiguration: something in it must not be served; all problems are in it.
    """
    recording = _Recording(source)
    layers, problems = read_layers(recording)
    tagging = parse_tagging(recording.text(FILE)) if source.has(FILE) else Tagging()
    return Content(Folder(layers, tagging), recording.files, tuple(problems))


def unpacked(data: bytes) -> Content:
    """
    What files said that were kept as :meth:`Content.packed` gave them.

    :raise BadConfiguration: they cannot be served any more.
    """
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(data, MOST_KEPT_BYTES)
        files = _files_decoder.decode(text)
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError):
        raise BadConfiguration([Problem("", "", "what was kept of it cannot be read")]) from None
    return read_content(KeptFiles(files))


@attrs.frozen
class KeptFiles:
    """Files that were kept; a :class:`FileSource`."""

    files: Mapping[str, str]

    def layers(self) -> Iterable[str]:
        """See :class:`FileSource`."""
        return sorted(name for name in self.files if is_layer(name))

    def text(self, name: str) -> str:
        """See :class:`FileSource`."""
        if name not in self.files:
            raise BadConfiguration([Problem(name, "", "it was not kept")])
        return self.files[name]

    def has(self, name: str) -> bool:
        """See :class:`FileSource`."""
        return name in self.files

    def pack(self, layer: str, name: str, spoken: str) -> str:
        """See :class:`FileSource`."""
        return self.text(pack_path(spoken))


@attrs.frozen
class _Recording:
    """Keeps the text of whatever is read."""

    source: FileSource
    files: dict[str, str] = attrs.field(factory=dict)

    def layers(self) -> Iterable[str]:
        return self.source.layers()

    def has(self, name: str) -> bool:
        return self.source.has(name)

    def text(self, name: str) -> str:
        found = self.files[name] = self.source.text(name)
        return found

    def pack(self, layer: str, name: str, spoken: str) -> str:
        found = self.files[pack_path(spoken)] = self.source.pack(layer, name, spoken)
        return found


def is_layer(name: str) -> bool:
    """Whether a file is a layer, by its path in the folder."""
    return "/" not in name and not name.startswith(".") and name.endswith(ENDINGS)


def pack_path(spoken: str) -> str:
    """The path of a pack's file in the folder, as a layer speaks of it."""
    return posixpath.normpath(spoken)


def read_layers(source: FileSource) -> tuple[list[Layer], list[Problem]]:
    """
    The layers, in order, and what is only worth a warning.

    :raise BadConfiguration: something in them must not be served; all problems are in it.
    """
    layers: list[Layer] = []
    problems: list[Problem] = []
    for name in source.layers():
        try:
            layer = _with_packs(source, parse_layer(name, source.text(name)))
        except BadConfiguration as bad:
            problems += bad.problems
        else:
            layers.append(layer)
            problems += check(layer.body, name)
            problems += _taken_names(layer)
    if not any(problem.severity == "error" for problem in problems):
        together = merge(layer.body for layer in layers)
        problems += check_size(together, "all layers together", MAX_BYTES)
    if any(problem.severity == "error" for problem in problems):
        raise BadConfiguration(problems)
    return layers, problems


def _with_packs(source: FileSource, layer: Layer) -> Layer:
    """The layer with the packs of other files put in: osquery cannot fetch them by name from a TLS server."""
    packs = layer.body.get("packs")
    if not isinstance(packs, Mapping):
        return layer
    found: dict[str, Any] = {}
    files: dict[str, str] = {}
    for name, pack in packs.items():
        if name == "*" and isinstance(pack, Mapping):
            found.update(pack)
        elif isinstance(pack, str):
            files[name] = pack_path(pack)
            found[name] = parse_text(files[name], source.pack(layer.name, name, pack))
        else:
            found[name] = pack
    return attrs.evolve(layer, body={**layer.body, "packs": found}, pack_files=files)


def _taken_names(layer: Layer) -> list[Problem]:
    names = layer.body.get("schedule")
    taken = [name for name in names if name.startswith(QUERY_PREFIX)] if isinstance(names, Mapping) else []
    return [Problem(layer.name, f"schedule.{name}", "tag queries have such names") for name in taken]


def _encoded(files: Mapping[str, str]) -> bytes:
    return msgspec.json.encode(dict(files), order="sorted")
