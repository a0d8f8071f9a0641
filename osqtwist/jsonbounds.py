"""
Bounds on the JSON that nodes send, looked at before it becomes Python's objects.

Three bytes of JSON can become seventy of Python's, and nesting that one reader can just follow may be too deep for the
next, which would have to stop at that line for ever.  What osquery sends is far from all of this.
"""

from __future__ import annotations

import re

import msgspec

MAX_LINES = 100_000
"""Lines of a log post, and members of any other part of a body; osquery sends 1,024 lines, unless told otherwise."""
MAX_ROWS = 1_000_000
"""Members of any one array or object further inside: rows of a result."""
MAX_DEPTH = 64
"""Arrays and objects in each other, in a line or in rows; osquery's lines have four."""

# So many members cost some tens of MiB at most, whatever they are: no need to look closer.
_HARMLESS = 500_000
_SKIMMED = 4
_DEEPEST = 512
_STRING = rb'"(?:[^"\\]++|(?:\\.)++)*+"'
_PLAIN = rb'[^][{}"]*+(?:' + _STRING + rb'[^][{}"]*+)*+'
_LEAF = rb"(?:\{" + _PLAIN + rb"\}|\[" + _PLAIN + rb"\])"
_RUN = 16
# Arrays and objects with none in them, as rows are, many at once or one; or a bracket of one that has some.
_PART = re.compile(
    rb"(?P<run>(?:"
    + _LEAF
    + rb"[ \t\r\n]*+,[ \t\r\n]*+){%d})" % _RUN
    + rb"|(?P<leaf>"
    + _LEAF
    + rb")|"
    + _STRING
    + rb"|(?P<open>[\[{])|(?P<shut>[\]}])|(?P<comma>,)",
    re.DOTALL,
)
_ONE = re.compile(_LEAF, re.DOTALL)
_BRACKET = re.compile(_STRING + rb"|[\[{]|[\]}]", re.DOTALL)

_array = msgspec.json.Decoder(list[msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class TooMuch(ValueError):
    """A body is past one of these bounds; says which."""


def check_members(body: bytes) -> None:
    """
    See that a body, an object, does not have so much in it that it would not fit into memory once it is read.

    Takes no time unless there is very much in it.

    :raise TooMuch: it does.
    """
    if body.count(b",") <= _HARMLESS:
        return
    counts = [0]
    for found in _PART.finditer(body):
        match found.lastgroup:
            case "run":
                _add(counts, _RUN)
                if found.end() - found.start() > MAX_LINES:
                    for leaf in _ONE.finditer(found[0]):
                        _add([*counts, 0], leaf[0].count(b","))
            case "comma":
                _add(counts, 1)
            case "leaf":
                _add([*counts, 0], found[0].count(b","))
            case "open":
                counts.append(0)
                if len(counts) > _DEEPEST:
                    raise TooMuch("nested too deeply")
            case "shut":
                if len(counts) == 1:
                    return  # It is no JSON, and its reader will say so.
                counts.pop()


def _add(counts: list[int], members: int) -> None:
    """Count members of what is open, outermost first."""
    counts[-1] += members
    most = MAX_LINES if len(counts) <= 3 else MAX_ROWS
    if counts[-1] >= most:
        raise TooMuch(f"an array or object has more than {most} members")


def is_deep(raw: bytes) -> bool:
    """Whether there are more than :data:`MAX_DEPTH` arrays and objects in each other; of valid JSON."""
    return _is_deeper(raw, MAX_DEPTH)


def _is_deeper(raw: bytes, depth: int) -> bool:
    # Mostly there are not even so many in it.
    if raw.count(b"{") + raw.count(b"[") <= depth:
        return False
    if depth <= MAX_DEPTH - _SKIMMED:
        return _depth(raw) > depth
    try:
        parts = _object.decode(raw).values() if raw.lstrip()[:1] == b"{" else _array.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return _depth(raw) > depth
    return any(_is_deeper(bytes(part), depth - 1) for part in parts)


def _depth(raw: bytes) -> int:
    depth = deepest = 0
    for found in _BRACKET.finditer(raw):
        if found[0] in (b"{", b"["):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                break
        elif found[0] in (b"}", b"]"):
            depth -= 1
    return deepest
