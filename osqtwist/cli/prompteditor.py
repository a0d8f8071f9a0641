"""The prompt's line editor, with completion, colors and history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from osqtwist.cli.promptwords import completions, is_whole

_LONGEST_PROMPT = 40


class SchemaCompleter(Completer):
    """Completes tables, columns, keywords and commands."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What the word at the cursor can become."""
        words, length = completions(document.text, document.text_before_cursor)
        return [Completion(word, start_position=-length) for word in words]


@attrs.define
class EditedLines:
    """What a person types; Ctrl-C drops what was typed so far, Ctrl-D at an empty prompt ends it."""

    session: PromptSession[str]
    target: Callable[[], str]

    @classmethod
    def with_history(cls, path: Path, target: Callable[[], str], **session: Any) -> EditedLines:
        """
        An editor whose history is in a file that nobody else may read, or, if it cannot be, in memory.

        :param target: what stands in the prompt.
        """
        history: History
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600, exist_ok=True)
            history = FileHistory(str(path))
        except OSError:
            history = InMemoryHistory()
        made: PromptSession[str] = PromptSession(
            history=history,
            completer=SchemaCompleter(),
            lexer=PygmentsLexer(SqlLexer),
            multiline=Condition(lambda: not is_whole(get_app().current_buffer.text)),
            prompt_continuation=lambda width, line, is_soft: "... ".rjust(width),
            **session,
        )
        return cls(made, target)

    def __iter__(self) -> Iterator[str]:
        while True:
            target = self.target()
            shown = target if len(target) <= _LONGEST_PROMPT else target[: _LONGEST_PROMPT - 1] + "…"
            try:
                yield self.session.prompt(f"{shown}> ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
