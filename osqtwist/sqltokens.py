"""
The words of a text of SQL, cut as SQLite cuts them, with where they stand.

For what SQLite does not tell: where in the text an error is, and what is named beside what.  Never fails: what is no
SQL becomes a token of kind ``bad``.
"""

from __future__ import annotations

import re
from typing import Literal

import attrs

Kind = Literal["word", "name", "text", "number", "variable", "operator", "bad"]

_TOKEN = re.compile(
    r"""(?P<space>[ \t\n\f\r]+|--[^\n]*|/\*.*?(?:\*/|\Z))
       |(?P<blob>[xX]'(?:[0-9a-fA-F]{2})*')
       |(?P<half>[xX]'[^']*(?:'|\Z))
       |(?P<text>'[^']*(?:''[^']*)*')
       |(?P<name>"[^"]*(?:""[^"]*)*"|`[^`]*(?:``[^`]*)*`|\[[^\]]*\])
       |(?P<number>(?:0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![A-Za-z0-9_$\x80-\U0010ffff]))
       |(?P<word>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
       |(?P<variable>\?[0-9]*|[:@$][A-Za-z0-9_$\x80-\U0010ffff]+)
       |(?P<operator>->>|->|\|\||<<|>>|<=|>=|<>|!=|==|[-+*/%&|~<>=(),.;])
       |(?P<bad>['"`\[].*|[0-9.][A-Za-z0-9_.$\x80-\U0010ffff]*|.)""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN = re.compile("''|\"\"|``")


@attrs.frozen
class Token:
    """
    One token.

    :ivar kind: ``word`` is a keyword or a bare name, ``name`` a quoted one, ``text`` is in single quotes.
    :ivar text: as written.
    :ivar start: its first character's place in the text, from 0; :attr:`end` is the place after its last.
    :ivar name: what it names, in lower case and without quotes; empty for what cannot be a name.
    """

    kind: Kind
    text: str
    start: int
    name: str = ""

    @property
    def end(self) -> int:
        """The place after its last character."""
        return self.start + len(self.text)

    def says(self, *words: str) -> bool:
        """Whether it is one of these keywords or operators, given in upper case."""
        return self.kind in ("word", "operator") and self.text.upper() in words


def tokenize(sql: str) -> list[Token]:
    """All tokens of a text, without blanks and comments."""
    return [_token(found) for found in _TOKEN.finditer(sql) if found.lastgroup != "space"]


def place_in(sql: str, offset: int) -> tuple[int, int]:
    """The line and column, both from 1, of a character."""
    return sql.count("\n", 0, offset) + 1, offset - sql.rfind("\n", 0, offset)


def _token(found: re.Match[str]) -> Token:
    group, text = found.lastgroup, found.group()
    match group:
        case "word":
            return Token("word", text, found.start(), text.lower())
        case "name" | "text":
            bare = _PLAIN.sub(lambda double: double.group()[0], text[1:-1])
            return Token(group, text, found.start(), bare.lower())
        case "number" | "variable" | "operator":
            return Token(group, text, found.start())
        case "blob":
            return Token("number", text, found.start())
        case _:
            return Token("bad", text, found.start())
