"""
Bodies that are not UTF-8, made so.

Strings of snapshot and distributed rows are not checked for UTF-8 by osquery: each wrong byte becomes the text
``\\xNN``, as osquery itself writes it in differential results.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

MAX_WRONG_BYTES = 100_000
"""Bytes that are written out, one by one, in one body."""

_NOT_ASCII = bytes(range(128, 256))
_CHUNK = 1 << 16


class TooWrong(ValueError):
    """A body has more wrong bytes than anything that is text."""


def repaired(body: bytes) -> bytes:
    """
    The body with every byte that is not UTF-8 written out as ``\\xNN`` (backslash escaped for JSON).

    :raise TooWrong: there are more than :data:`MAX_WRONG_BYTES`.
    """
    if _is_utf8(body):
        return body
    # Each is a call of Python: tens of millions of them would take minutes.
    if len(body) - len(body.translate(None, _NOT_ASCII)) > MAX_WRONG_BYTES:
        wrong = sum(part.count("\ufffd") for part in _replaced(body))
        if wrong > MAX_WRONG_BYTES:
            raise TooWrong(f"more than {MAX_WRONG_BYTES} bytes are not UTF-8")
    return body.decode("utf-8", "osqtwist-hex").encode("utf-8")


def _is_utf8(body: bytes) -> bool:
    # A piece at a time: as one text it may take four times the memory.
    if body.isascii():
        return True
    start = 0
    while start < len(body):
        stop = start + _CHUNK
        # Not in the middle of a letter.
        while start + 1 < stop < len(body) and body[stop] & 0xC0 == 0x80:
            stop -= 1
        try:
            body[start:stop].decode("utf-8")
        except UnicodeDecodeError:
            return False
        start = stop
    return True


def _replaced(body: bytes) -> Iterator[str]:
    for start in range(0, len(body), _CHUNK):
        yield body[start : start + _CHUNK].decode("utf-8", "replace")


def _write_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(f"\\\\x{byte:02X}" for byte in wrong), error.end


codecs.register_error("osqtwist-hex", _write_out)
