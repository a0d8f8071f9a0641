"""Log lines as syslog messages (RFC 5424)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import attrs
import msgspec

from osqtwist.logevent import LogEvent

# RFC 5424, 6.2.1, with the names of syslog.conf.
FACILITIES = {
    "kern": 0,
    "user": 1,
    "mail": 2,
    "daemon": 3,
    "auth": 4,
    "syslog": 5,
    "lpr": 6,
    "news": 7,
    "uucp": 8,
    "cron": 9,
    "authpriv": 10,
    "ftp": 11,
    **{f"local{number}": 16 + number for number in range(8)},
}
SEVERITIES = {"emerg": 0, "alert": 1, "crit": 2, "err": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}
# What osquery writes in its status lines, from glog: INFO, WARNING, ERROR, FATAL.
_GLOG = {str(number): SEVERITIES[name] for number, name in enumerate(("info", "warning", "err", "crit"))}
_LONGEST_HOSTNAME = 255
_LONGEST_MSGID = 32
_NOT_PRINTUSASCII = re.compile(r"[^!-~]")
_ESCAPED = re.compile(r'["\\\]]')


class _Status(msgspec.Struct):
    """As much of a status line as says how bad it is."""

    severity: int | str | None = None


_status = msgspec.json.Decoder(_Status)


@attrs.frozen
class MessageStyle:
    """
    What the messages of a sink have in common; see :class:`osqtwist.sinks.syslog.SyslogSettings`.

    :ivar facility: its number.
    :ivar severity: its number, for lines that do not say theirs.
    :ivar sd_id: empty for messages without structured data.
    """

    facility: int = FACILITIES["local0"]
    severity: int = SEVERITIES["info"]
    app_name: str = "osquery"
    sd_id: str = "osqtwist@32473"

    def message(self, event: LogEvent) -> bytes:
        """An event as a message, without a frame."""
        priority = self.facility * 8 + self._severity_of(event)
        moment = datetime.fromtimestamp(event.received_at, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
        hostname = _word(event.node_name, _LONGEST_HOSTNAME)
        kind = _word(event.log_type, _LONGEST_MSGID)
        header = f"<{priority}>1 {moment}Z {hostname} {self.app_name} - {kind} {self._data(event)} "
        # Without a byte order mark, which JSON forbids (RFC 8259, 8.1): so it is MSG-ANY, and yet UTF-8.
        return header.encode() + event.document

    def _severity_of(self, event: LogEvent) -> int:
        if event.log_type != "status":
            return self.severity
        try:
            return _GLOG.get(str(_status.decode(event.document).severity), self.severity)
        except msgspec.MsgspecError:
            return self.severity

    def _data(self, event: LogEvent) -> str:
        if not self.sd_id:
            return "-"
        values = (("node", event.node_id), ("type", event.log_type), ("event", event.event_id))
        return f"[{' '.join([self.sd_id, *(f'{name}={_quoted(text)}' for name, text in values)])}]"


def is_word(text: str, longest: int) -> bool:
    """Whether a text can stand in a header (PRINTUSASCII), with something in it."""
    return 0 < len(text) <= longest and not _NOT_PRINTUSASCII.search(text)


def is_sd_name(text: str) -> bool:
    """Whether a text can name structured data (SD-NAME)."""
    return is_word(text, 32) and not set(text) & set('=]"')


def _word(text: str, longest: int) -> str:
    return _NOT_PRINTUSASCII.sub("_", text)[:longest] or "-"


def _quoted(text: str) -> str:
    printable = "".join(each if each.isprintable() else "_" for each in text)
    return '"' + _ESCAPED.sub(r"\\\g<0>", printable) + '"'
