"""
Routing: which lines of a batch a sink gets, and in which form.

A document is osquery's line with one more key, ``osqtwist``, for what the server vouches for.  Where nothing has to be
looked at inside, a line is never parsed: the key is spliced in behind its last member.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from osqtwist.expression import BadExpression, Expression, Vocabulary, parse
from osqtwist.logbatch import LogBatch, event_id
from osqtwist.logevent import LogEvent

FACTS = ("event_id", "node", "name", "identity", "serial", "issuer", "address", "received_at", "tags")
"""What the server can vouch for, in the order of a document."""

OF_THE_BATCH = frozenset({"log_type", "tag", "node", "identity", "issuer", "serial", "address"})
OF_THE_LINE = frozenset({"name", "pack", "action", "severity", "decoration.", "column."})
VOCABULARY = Vocabulary(OF_THE_BATCH | OF_THE_LINE, frozenset({"column.", "severity"}))

_AS_KEY = re.compile(r"[A-Za-z_@][A-Za-z0-9_.@-]{0,63}")
_lines_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


class BadRoute(ValueError):
    """A routing key cannot mean anything; one sentence that names it."""


class RouteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    The routing keys of a sink.

    :ivar when: an expression; only lines that it matches are delivered.
    :ivar sample: the share of those lines, from 0 to 1; the same lines whenever they are delivered.
    :ivar drop_decorations: patterns of decorations to leave out.
    :ivar rename_decorations: old names to new ones.
    :ivar fields: which of :data:`FACTS` a document has; none for documents exactly as osquery wrote them.
    :ivar as_key: the key that they stand under.
    """

    when: str = ""
    sample: float = 1.0
    drop_decorations: tuple[str, ...] = ()
    rename_decorations: dict[str, str] = {}
    fields: tuple[str, ...] = FACTS
    as_key: str = "osqtwist"


class Route:
    """
    What :class:`RouteSettings` say, ready to be followed.

    :raise BadRoute: they cannot mean anything.
    """

    def __init__(self, settings: RouteSettings = RouteSettings()) -> None:
        self.settings = settings
        try:
            self._when: Expression = parse(settings.when, VOCABULARY)
        except BadExpression as problem:
            raise BadRoute(f"when: {problem}") from None
        if not 0 <= settings.sample <= 1:
            raise BadRoute(f"sample is {settings.sample:g}; it must be from 0 to 1")
        if unknown := [name for name in settings.fields if name not in FACTS]:
            raise BadRoute(f"fields has {unknown[0]!r}; there is {', '.join(FACTS)}")
        if not _AS_KEY.fullmatch(settings.as_key):
            raise BadRoute(f"as_key is {settings.as_key!r}; it must be a plain name")
        self._is_of_the_batch = self._when.keys <= OF_THE_BATCH
        self._changes_decorations = bool(settings.drop_decorations or settings.rename_decorations)
        self._dropped = [re.compile(fnmatch.translate(pattern)) for pattern in settings.drop_decorations]
        self._key = _encode(settings.as_key)
        # A line may not hold the key itself, plainly or with escapes, and not be on more lines than one.
        self._suspicious = (settings.as_key.encode(), b"\\u", b"\n", b"\r")

    def events(self, batch: LogBatch) -> tuple[list[LogEvent], list[tuple[int, str]]]:
        """
        The events of a batch for this sink, and the indices of lines that are no JSON object, with the reason.
        """
        if self._is_of_the_batch and not self._when.matches(lambda key: _values_of_batch(batch, key)):
            return [], []
        events: list[LogEvent] = []
        unusable: list[tuple[int, str]] = []
        before, after = self._facts(batch)
        # Mostly one look at the whole batch saves one at each line.
        is_plain = not self._changes_decorations and not self._is_suspicious(batch.data)
        for index, raw in enumerate(_lines_decoder.decode(batch.data)):
            found = event_id(batch.node_id, batch.digest, index)
            if self.settings.sample < 1 and not self._is_sampled(found):
                continue
            line = bytes(raw)
            try:
                if not self._is_of_the_batch and not self._is_meant(batch, line):
                    continue
                document = self._document(line, is_plain, before + found.encode() + after if before else after)
            except (msgspec.MsgspecError, RecursionError, ValueError) as problem:
                unusable.append((index, f"not a JSON object: {problem}"))
                continue
            events.append(LogEvent(found, batch.node_id, batch.node_name, batch.log_type, batch.received_at, document))
        return events, unusable

    def means(self, batch: LogBatch, line: Any) -> bool:
        """Whether a line of a batch, parsed, is one that :attr:`RouteSettings.when` means."""
        fields = line if isinstance(line, dict) else {}
        return self._when.matches(lambda key: _values_of_line(batch, fields, key))

    def _is_sampled(self, found: str) -> bool:
        return int(found[:8], 16) < self.settings.sample * 0x1_0000_0000

    def _is_meant(self, batch: LogBatch, line: bytes) -> bool:
        return self.means(batch, _object_decoder.decode(line))

    def _facts(self, batch: LogBatch) -> tuple[bytes, bytes]:
        """The facts as the end of a document, in two parts around the event id; the first is empty without one."""
        values: dict[str, Any] = {
            "node": batch.node_id,
            "name": batch.node_name,
            "identity": batch.identity,
            "serial": batch.serial,
            "issuer": batch.issuer,
            "address": batch.address,
            "received_at": batch.received_at,
            "tags": batch.tags,
        }
        wanted = {name: values[name] for name in FACTS if name in self.settings.fields and name in values}
        rest = _encode(wanted)
        if "event_id" in self.settings.fields:
            return self._key + b':{"event_id":"', b'"' + (b"," + rest[1:] if wanted else b"}") + b"}"
        return b"", (self._key + b":" + rest + b"}" if wanted else b"}")

    def _is_suspicious(self, data: bytes) -> bool:
        return any(each in data for each in self._suspicious)

    def _document(self, line: bytes, is_plain: bool, facts: bytes) -> bytes:
        if self._changes_decorations:
            line = self._with_other_decorations(line)
        if not line.startswith(b"{") or (not is_plain and self._is_suspicious(line)):
            members = _members_decoder.decode(line)
            members.pop(self.settings.as_key, None)
            line = _encode({name: _one_line(value) for name, value in members.items()})
        inside = line.rstrip()[:-1].rstrip()
        return inside + (facts if facts == b"}" or inside == b"{" else b"," + facts)

    def _with_other_decorations(self, line: bytes) -> bytes:
        members = _members_decoder.decode(line)
        if "decorations" not in members:
            return line
        try:
            decorations = _object_decoder.decode(members["decorations"])
        except msgspec.MsgspecError:
            return line
        renamed = self.settings.rename_decorations
        changed = {
            renamed.get(name, name): value
            for name, value in decorations.items()
            if not any(pattern.match(name) for pattern in self._dropped)
        }
        members["decorations"] = msgspec.Raw(_encode(changed))
        return _encode(members)


def _one_line(value: msgspec.Raw) -> Any:
    """JSON may have line ends between its parts; a document may not."""
    text = bytes(value)
    return msgspec.json.decode(text) if b"\n" in text or b"\r" in text else value


def _values_of_batch(batch: LogBatch, key: str) -> Iterable[str]:
    if key == "tag":
        return batch.tags
    if key == "node":
        return (batch.node_id, batch.node_name)
    return (str(getattr(batch, key)),)


def _values_of_line(batch: LogBatch, fields: dict[str, Any], key: str) -> Iterable[str]:
    return _values_of_batch(batch, key) if key in OF_THE_BATCH else values_of_fields(fields, key)


def values_of_fields(fields: Mapping[str, Any], key: str) -> Iterable[str]:
    """What a line itself has at a key of :data:`OF_THE_LINE`; of a snapshot, what any of its rows has."""
    if key == "pack":
        return _packs(str(fields.get("name", "")))
    kind, dot, wanted = key.partition(".")
    if not dot:
        return (str(fields[key]),) if key in fields else ()
    if kind == "decoration":
        return _named(fields.get("decorations"), wanted)
    rows = fields.get("snapshot")
    if isinstance(rows, list):
        return [value for row in rows for value in _named(row, wanted)]
    return _named(fields.get("columns"), wanted)


def _named(values: Any, wanted: str) -> tuple[str, ...]:
    if not isinstance(values, dict):
        return ()
    return tuple(str(value) for name, value in values.items() if str(name).lower() == wanted)


@lru_cache(maxsize=4096)
def _packs(name: str) -> tuple[str, ...]:
    """
    What the pack of a query may be called.

    osquery writes ``pack_PACK_QUERY``, or another delimiter in the place of ``_``; since PACK and QUERY may hold the
    delimiter too, every beginning that ends before one is a possible pack.
    """
    found = re.match(r"pack([^A-Za-z0-9])", name)
    if not found:
        return ()
    parts = name.split(found[1])[1:]
    return tuple(found[1].join(parts[:count]) for count in range(1, len(parts)))
