"""
The one small language in which targets are named: ``tag:prod and platform:linux and not cn:build-*``.

::

    expression = and-part { "or" and-part }          the empty text and * mean everything
    and-part   = part { "and" part }
    part       = "not" part | "(" expression ")" | term
    term       = KEY ":" VALUE                        one of the values of KEY matches VALUE
               | KEY ("<" | "<=" | ">" | ">=") NUMBER  the same, for numbers

A VALUE is a shell pattern (``*``, ``?``, ``[a-z]``, ``[!a-z]``) without blanks or parentheses, or any text in double
quotes, taken literally, where ``\\"`` and ``\\\\`` stand for a quote and a backslash.  Upper and lower case are alike.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Set

import attrs

MAX_LENGTH = 4096
MAX_DEPTH = 32
MAX_TERMS = 256

Lookup = Callable[[str], Iterable[str]]

_TOKEN = re.compile(
    r"""\s*(?:(?P<paren>[()])
         |(?P<key>[a-z][a-z0-9_.-]*)(?P<op>:|<=|>=|<|>)(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s()"]+))?
         |(?P<word>[^\s()"]+)
         |(?P<rest>\S))""",
    re.VERBOSE | re.IGNORECASE,
)


class BadExpression(ValueError):
    """A text is not an expression; one sentence that says where (columns from 1) and why."""


@attrs.frozen
class Vocabulary:
    """
    The keys that an expression may use.

    :ivar keys: names; one that ends in ``.`` stands for every name that begins so (``decoration.``).
    :ivar numbers: those of them that may be compared; one that ends in ``.`` likewise.
    """

    keys: frozenset[str]
    numbers: frozenset[str] = frozenset()

    def check(self, key: str, is_comparison: bool, column: int) -> None:
        """Raise :class:`BadExpression` for a key that is unknown, or not a number where one is needed."""
        if key not in self.keys and not any(key.startswith(known) for known in self.keys if known.endswith(".")):
            near = difflib.get_close_matches(key, self.keys, 3) or sorted(self.keys)
            raise BadExpression(f"column {column}: there is no key {key!r}; there is {', '.join(near)}")
        if is_comparison and key not in self.numbers and f"{key.partition('.')[0]}." not in self.numbers:
            raise BadExpression(f"column {column}: {key!r} is not a number; write {key}:VALUE")


@attrs.frozen
class Everything:
    """Matches always."""

    def matches(self, lookup: Lookup) -> bool:
        """True."""
        return True

    @property
    def keys(self) -> Set[str]:
        """None."""
        return frozenset()

    def __str__(self) -> str:
        return "*"


@attrs.frozen
class Matches:
    """``KEY:VALUE``; the pattern is kept in lower case."""

    key: str
    pattern: str
    is_literal: bool = False
    _fits: Callable[[str], bool] = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_fits", _literal(self.pattern) if self.is_literal else _matcher(self.pattern))

    def matches(self, lookup: Lookup) -> bool:
        """Whether any value of the key matches."""
        return any(self._fits(value.lower()) for value in lookup(self.key))

    @property
    def keys(self) -> Set[str]:
        """The key."""
        return frozenset((self.key,))

    def __str__(self) -> str:
        if not self.is_literal:
            return f"{self.key}:{self.pattern}"
        return f'{self.key}:"' + self.pattern.replace("\\", "\\\\").replace('"', '\\"') + '"'


@attrs.frozen
class Compares:
    """``KEY<NUMBER`` and the like; a value that is no number compares to nothing."""

    key: str
    operator: str
    number: float

    def matches(self, lookup: Lookup) -> bool:
        """Whether any value of the key compares so."""
        return any(self._compare(value) for value in lookup(self.key))

    def _compare(self, text: str) -> bool:
        try:
            value = float(text)
        except ValueError:
            return False
        if self.operator == "<":
            return value < self.number
        if self.operator == "<=":
            return value <= self.number
        return value > self.number if self.operator == ">" else value >= self.number

    @property
    def keys(self) -> Set[str]:
        """The key."""
        return frozenset((self.key,))

    def __str__(self) -> str:
        return f"{self.key}{self.operator}{self.number:.15g}"


@attrs.frozen
class Not:
    """``not PART``."""

    part: Expression

    def matches(self, lookup: Lookup) -> bool:
        """Whether the part does not match."""
        return not self.part.matches(lookup)

    @property
    def keys(self) -> Set[str]:
        """Those of the part."""
        return self.part.keys

    def __str__(self) -> str:
        return f"not {_in_parentheses(self.part, (And, Or))}"


@attrs.frozen
class And:
    """``PART and PART ...``."""

    parts: tuple[Expression, ...]

    def matches(self, lookup: Lookup) -> bool:
        """Whether all parts match."""
        return all(part.matches(lookup) for part in self.parts)

    @property
    def keys(self) -> Set[str]:
        """Those of all parts."""
        return frozenset().union(*(part.keys for part in self.parts))

    def __str__(self) -> str:
        return " and ".join(_in_parentheses(part, (And, Or)) for part in self.parts)


@attrs.frozen
class Or:
    """``PART or PART ...``."""

    parts: tuple[Expression, ...]

    def matches(self, lookup: Lookup) -> bool:
        """Whether any part matches."""
        return any(part.matches(lookup) for part in self.parts)

    @property
    def keys(self) -> Set[str]:
        """Those of all parts."""
        return frozenset().union(*(part.keys for part in self.parts))

    def __str__(self) -> str:
        return " or ".join(_in_parentheses(part, (Or,)) for part in self.parts)


Expression = Everything | Matches | Compares | Not | And | Or
"""
What :func:`parse` gives: ``matches(lookup)`` says whether something is meant, where ``lookup(key)`` gives its values of
a key; ``keys`` are the keys it asks for; ``str()`` is text that parses to an equal expression.
"""


def parse(text: str, vocabulary: Vocabulary) -> Expression:
    """
    Read an expression.

    :raise BadExpression: the text is none.
    """
    if len(text) > MAX_LENGTH:
        raise BadExpression(f"an expression has at most {MAX_LENGTH} letters")
    if text.strip() in ("", "*"):
        return Everything()
    return _Parser(text, vocabulary).whole()


@attrs.define
class _Token:
    kind: str
    text: str
    column: int
    value: Matches | Compares | None = None


class _Parser:
    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokens = list(self._read(text))
        self._place = 0
        self._terms = 0

    def whole(self) -> Expression:
        found = self._either(0)
        if (token := self._next()) is not None:
            what = "and, or" if token.kind != ")" else "an opening parenthesis before it"
            raise BadExpression(f"column {token.column}: {token.text!r} needs {what}")
        return found

    def _either(self, depth: int) -> Expression:
        parts = [self._both(depth)]
        while self._take("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self, depth: int) -> Expression:
        parts = [self._part(depth)]
        while self._take("and"):
            parts.append(self._part(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _part(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise BadExpression(f"an expression is nested at most {MAX_DEPTH} deep")
        if self._take("not"):
            return Not(self._part(depth + 1))
        if opening := self._take("("):
            inside = self._either(depth + 1)
            if not self._take(")"):
                raise BadExpression(f"column {opening.column}: this parenthesis is never closed")
            return inside
        token = self._next()
        if token is None:
            raise BadExpression("the expression ends too early; a term such as tag:prod is missing")
        if token.value is None:
            raise BadExpression(f"column {token.column}: {token.text!r} is not a term such as tag:prod")
        self._place += 1
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise BadExpression(f"an expression has at most {MAX_TERMS} terms")
        return token.value

    def _next(self) -> _Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _take(self, kind: str) -> _Token | None:
        token = self._next()
        if token is None or token.kind != kind:
            return None
        self._place += 1
        return token

    def _read(self, text: str) -> Iterable[_Token]:
        place = 0
        end = len(text.rstrip())
        while place < end:
            found = _TOKEN.match(text, place)
            if found is None:
                raise BadExpression(f"column {place + 1}: this cannot be read")
            column = found.end() - len(found[0].lstrip()) + 1
            if paren := found["paren"]:
                yield _Token(paren, paren, column)
            elif found["key"]:
                yield _Token("term", found[0].strip(), column, self._term(found, column))
            elif found["word"]:
                word = found["word"].lower()
                yield _Token(word if word in ("and", "or", "not") else "word", found["word"], column)
            else:
                raise BadExpression(f"column {column}: {found['rest']!r} cannot stand here")
            place = found.end()

    def _term(self, found: re.Match[str], column: int) -> Matches | Compares:
        key, operator = found["key"].lower(), found["op"]
        self._vocabulary.check(key, operator != ":", column)
        if found["quoted"] is None and found["bare"] is None:
            raise BadExpression(f"column {column}: a value is missing after {key}{operator}")
        if operator == ":":
            if found["quoted"] is not None:
                return Matches(key, re.sub(r"\\(.)", r"\1", found["quoted"], flags=re.DOTALL).lower(), is_literal=True)
            return Matches(key, found["bare"].lower())
        text = found["bare"] if found["bare"] is not None else found["quoted"]
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not math.isfinite(number):
            raise BadExpression(f"column {column}: {text!r} is not a number")
        return Compares(key, operator, number)


def term_for(key: str, value: str) -> str:
    """The term that means just this value: without quotes where it can be."""
    plain = value.lower()
    is_bare = bool(plain) and all(letter.isalnum() or letter in "._:/@+=,-" for letter in plain)
    return str(Matches(key, plain, is_literal=not is_bare))


def _in_parentheses(part: Expression, kinds: tuple[type, ...]) -> str:
    return f"({part})" if isinstance(part, kinds) else str(part)


def _literal(text: str) -> Callable[[str], bool]:
    return lambda value: value == text


def _matcher(pattern: str) -> Callable[[str], bool]:
    if not re.search(r"[*?\[]", pattern):
        return _literal(pattern)
    beginning = pattern[:-1]
    if pattern.endswith("*") and not re.search(r"[*?\[]", beginning):
        return lambda value: value.startswith(beginning)
    items = _compiled(pattern)
    return lambda value: _glob(items, value)


# A pattern as items: a letter, "" for a star, None for any one letter, or a set of letters, ranges, and whether it is
# turned round.
_Item = str | tuple[frozenset[str], tuple[tuple[str, str], ...], bool] | None


def _compiled(pattern: str) -> tuple[_Item, ...]:
    items: list[_Item] = []
    place = 0
    while place < len(pattern):
        letter = pattern[place]
        place += 1
        if letter == "*":
            if not items or items[-1] != "":
                items.append("")
        elif letter == "?":
            items.append(None)
        elif letter == "[" and (end := pattern.find("]", place + 1 + pattern.startswith("!", place))) > 0:
            items.append(_letters(pattern[place:end]))
            place = end + 1
        else:
            items.append(letter)
    return tuple(items)


def _letters(text: str) -> _Item:
    is_turned = text.startswith("!")
    text = text.removeprefix("!")
    ranges = re.findall(r"(.)-(.)", text, re.DOTALL)
    single = frozenset(re.sub(r".-.", "", text, flags=re.DOTALL))
    return single, tuple(ranges), is_turned


def _is_one(item: _Item, letter: str) -> bool:
    if item is None or isinstance(item, str):
        return item is None or item == letter
    single, ranges, is_turned = item
    return (letter in single or any(low <= letter <= high for low, high in ranges)) != is_turned


def _glob(items: tuple[_Item, ...], text: str) -> bool:
    """Match without going back further than the last star: the time is at most pattern times text."""
    item = letter = 0
    star, resume = -1, 0
    while letter < len(text):
        if item < len(items) and items[item] == "":
            star, resume = item, letter
            item += 1
        elif item < len(items) and _is_one(items[item], text[letter]):
            item += 1
            letter += 1
        elif star >= 0:
            resume += 1
            item, letter = star + 1, resume
        else:
            return False
    return all(left == "" for left in items[item:])
