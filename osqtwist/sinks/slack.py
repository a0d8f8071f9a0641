"""
Sink ``slack``: messages into a channel, by Slack's ``chat.postMessage`` and a bot's token.

An incoming webhook would do with less, but its URL is a secret, and URLs stand in messages and lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ISinkKind
from osqtwist.sinks.alertwords import words_of
from osqtwist.sinks.http import Answer, HttpSink, Verdict
from osqtwist.sinks.httpsettings import HttpSettings

_URL = "https://slack.com/api/chat.postMessage"
# Slack cuts what is longer than 40,000 letters.
_MOST_LETTERS = 30_000
_MARKS = {
    "info": ":information_source:",
    "warning": ":warning:",
    "error": ":red_circle:",
    "critical": ":rotating_light:",
}
_EVENTS_FAULT = frozenset({"msg_too_long", "no_text", "invalid_blocks"})


class SlackSettings(HttpSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Keys of a ``slack`` sink, beside those of every sink over HTTP.

    :ivar channel: the id of the channel, as C0123456789, or its name.
    :ivar token: of a bot that may write there; or ``token_file``.
    :ivar gzip: off: Slack does not say that it reads it.
    """

    channel: str = ""
    url: str = _URL
    gzip: bool = False


class _Said(msgspec.Struct):
    ok: bool = False
    error: str = ""


_answers = msgspec.json.Decoder(_Said)


@attrs.frozen
class SlackProfile:
    """One message of what is delivered together."""

    url: str
    channel: str
    scheme: str = "Bearer"
    headers: Mapping[str, str] = attrs.field(factory=lambda: {"Content-Type": "application/json; charset=utf-8"})

    def body(self, events: Sequence[LogEvent]) -> bytes:
        """A line for each, up to what a message may have."""
        lines, letters = [], 0
        for number, event in enumerate(events):
            words = words_of(event)
            line = f"{_MARKS[words.severity]} *{_plain(words.rule)}* {_plain(words.text)}"
            letters += len(line) + 1
            if letters > _MOST_LETTERS:
                lines.append(f"and {len(events) - number} more")
                break
            lines.append(line)
        return msgspec.json.encode({"channel": self.channel, "text": "\n".join(lines), "unfurl_links": False})

    def judge(self, answer: Answer, events: Sequence[LogEvent]) -> Verdict:
        """Slack answers 200 and says in the body whether it was true."""
        if answer.status != 200:
            return answer.by_status(len(events))
        try:
            said = _answers.decode(answer.body)
        except msgspec.MsgspecError:
            raise answer.unavailable("this is not what Slack says") from None
        if said.ok:
            return Verdict()
        if said.error in _EVENTS_FAULT:
            return answer.fault(len(events))
        raise answer.unavailable(said.error or "not ok")


def _plain(text: str) -> str:
    """Without what Slack would take for a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@implementer(ISinkKind)
class SlackKind:
    """Makes Slack sinks."""

    kind = "slack"
    settings = SlackSettings

    def make(self, reactor: Any, name: str, settings: SlackSettings) -> HttpSink:
        """
        A sink that writes into the channel.

        :raise BadSinkSetting: the keys cannot work together.
        """
        settings.check()
        if not settings.channel:
            raise BadSinkSetting('channel is missing, as in channel = "C0123456789"')
        if not (settings.token or settings.token_file):
            raise BadSinkSetting("token (or token_file) is missing: that of a Slack bot")
        return HttpSink(reactor, settings, SlackProfile(settings.url, settings.channel))
