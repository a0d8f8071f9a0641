"""What a fuzz target is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import attrs

SLOW = 2.0
"""Seconds of CPU that nothing of a few kilobytes may take, instrumented as it is."""


class Broken(AssertionError):
    """A promise was broken by some bytes; says which."""


@attrs.frozen
class Target:
    """
    One reader of bytes that others made.

    :ivar reads: what, in words.
    :ivar make: gives the function that takes any bytes; made once in a process, it may keep what it needs.
    :ivar seeds: gives examples to begin with; made on the spot where they hold keys.
    :ivar words: what such bytes are made of.
    :ivar longest: bytes of one input.
    """

    name: str
    reads: str
    make: Callable[[], Callable[[bytes], object]]
    seeds: Callable[[], Sequence[bytes]]
    words: Sequence[bytes] = ()
    longest: int = 4096

    def check(self, read: Callable[[bytes], object], data: bytes) -> None:
        """
        Have some bytes read.

        :raise Broken: that took too long.
        :raise Exception: what the reader never should.
        """
        before = time.process_time()
        read(data)
        if (took := time.process_time() - before) > SLOW:
            raise Broken(f"{len(data)} bytes took {took:.1f} s of CPU")


def text_of(data: bytes) -> str:
    """Any text there can be from any bytes; surrogates come of those that are not UTF-8."""
    return data.decode("utf-8", "surrogateescape")
