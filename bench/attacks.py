"""What a hostile peer can send: each attack with the bound that meets it, and the test that proves that."""

from __future__ import annotations

import base64
import contextlib
import datetime
import gzip
import json
import re
import secrets
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.x509.oid import NameOID

from osqtwist.pki import Authority, Credential, leaf_extensions, new_key, sign_leaf, utc_now

MIB = 2**20


@attrs.define
class Target:
    """
    The server, from outside.

    :ivar deadline: seconds of its longest deadline.
    :ivar key: a good node key.
    :ivar address: where connections come from.
    """

    folder: Path
    port: int
    authority: Authority
    admin: Callable[..., Any]
    deadline: float
    key: str = ""
    address: str = "127.0.0.1"

    def context(self, credential: Credential | None = None) -> ssl.SSLContext:
        """A client's, with the certificate of a node or without any."""
        made = ssl.create_default_context(cafile=str(self.folder / "certs" / "ca.pem"))
        if credential:
            name = secrets.token_hex(4)
            files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
            credential.write(*files)
            made.load_cert_chain(*map(str, files))
        return made

    def raw(self) -> socket.socket:
        """A TCP connection."""
        return socket.create_connection(("127.0.0.1", self.port), self.deadline + 5, (self.address, 0))

    def shaken(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A connection over TLS."""
        return (context or self.context()).wrap_socket(self.raw(), server_hostname="localhost")

    def say(self, data: bytes, context: ssl.SSLContext | None = None) -> str:
        """Send bytes of HTTP; answers with the code and what the answer says."""
        with contextlib.suppress(OSError), self.shaken(context) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(data)
            return said(read_all(connection))
        return "closed"

    def post(self, path: str, body: bytes, *headers: str, context: ssl.SSLContext | None = None) -> str:
        """Post a body."""
        lines = [f"POST {path} HTTP/1.1", "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
        return self.say("\r\n".join(lines).encode() + body, context)

    def squeezed(self, path: str, body: bytes) -> str:
        """Post a body, compressed."""
        return self.post(path, gzip.compress(body, 1), "Content-Encoding: gzip")

    def ask(self, path: str, body: Any, context: ssl.SSLContext | None = None) -> str:
        """Post JSON."""
        return self.post(path, json.dumps(body).encode(), context=context)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the answer is whole, or the peer closes."""
    found = b""
    with contextlib.suppress(OSError):
        while part := connection.recv(65536):
            found += part
            head, blank, body = found.partition(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            if blank and (body.endswith(b"\r\n0\r\n\r\n") or (length and len(body) >= int(length[1]))):
                break
    return found


def said(answer: bytes) -> str:
    """An answer, as a few words."""
    if not answer:
        return "closed"
    head, _, body = answer.partition(b"\r\n\r\n")
    code = head.split()[1].decode() if head.startswith(b"HTTP/") else "?"
    text = re.search(rb"[^\r\n]{3,}", body)
    return f"{code} {text[0].decode('utf-8', 'replace')[:90] if text else ''}"


@attrs.frozen
class Attack:
    """
    One attack.

    :ivar sent: what is sent, in words; :attr:`bound` what meets it.
    :ivar run: does it once, and answers with what the server said.
    :ivar test: that proves the bound, as ``file::name``.
    :ivar times: how often it is done, one after the other.
    """

    name: str
    sent: str
    bound: str
    run: Callable[[Target], str]
    test: str
    times: int = 1


def slow(first: bytes, many: int, *, shakes: bool = True, pause: float = 0.5) -> Callable[[Target], str]:
    """Open many connections that say something and then a byte now and then, until the server ends them."""

    def run(target: Target) -> str:
        context = target.context()
        open_: list[Any] = []
        for _ in range(many):
            connection = target.shaken(context) if shakes else target.raw()
            with contextlib.suppress(OSError):
                connection.sendall(first)
            open_.append(connection)
        began, longest = time.monotonic(), 0.0
        while open_ and time.monotonic() - began < target.deadline + 10:
            for connection in list(open_):
                connection.settimeout(0.001)
                try:
                    if connection.recv(4096):
                        continue
                except (TimeoutError, ssl.SSLWantReadError):
                    with contextlib.suppress(OSError):
                        if shakes:
                            connection.sendall(b"a")
                        continue
                except OSError:
                    pass
                longest = time.monotonic() - began
                open_.remove(connection)
                connection.close()
            time.sleep(pause)
        return f"closed after {longest:.0f} s" if not open_ else f"{len(open_)} are still open"

    return run


def unread(many: int) -> Callable[[Target], str]:
    """Ask, and never read the answer."""

    def run(target: Target) -> str:
        context = target.context()
        body = json.dumps({"node_key": target.key}).encode()
        request = b"POST /config HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        open_ = [target.shaken(context) for _ in range(many)]
        for connection in open_:
            connection.sendall(request)
        began = time.monotonic()
        while time.monotonic() - began < target.deadline + 10:
            if figure(target, "osqtwist_connections") == 0:
                break
            time.sleep(0.2)
        for connection in open_:
            connection.close()
        return f"closed after {time.monotonic() - began:.0f} s at most"

    return run


def figure(target: Target, name: str) -> float:
    """A metric without labels."""
    for line in target.admin("GET", "/metrics").decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    return 0.0


def flood(many: int) -> Callable[[Target], str]:
    """Open connections and keep them, from one address."""

    def run(target: Target) -> str:
        open_, refused = [], 0
        for _ in range(many):
            with contextlib.suppress(OSError):
                open_.append(target.raw())
        time.sleep(0.5)
        for connection in open_:
            connection.setblocking(False)
            try:
                connection.recv(1)
                refused += 1
            except BlockingIOError:
                pass
            except OSError:
                refused += 1
            connection.close()
        return f"{refused + many - len(open_)} of {many} closed at once"

    return run


def crowd(many: int) -> Callable[[Target], str]:
    """Hold many reads of one node."""

    def run(target: Target) -> str:
        context = target.context()
        body = json.dumps({"node_key": target.key}).encode()
        request = b"POST /distributed/read HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        open_ = []
        for _ in range(many):
            connection = target.shaken(context)
            connection.sendall(request)
            open_.append(connection)
        time.sleep(0.3)
        held = int(figure(target, "osqtwist_parked_reads"))
        for connection in open_:
            connection.close()
        return f"{held} held, {many - held} answered"

    return run


def odd_certificates(target: Target) -> str:
    """Come with certificates whose subjects are odd; all are signed by the CA of the nodes."""
    answers = set()
    for name in ("a\0b", "\u202enode", "x" * 64, " ", "*", "n\r\nX: y", "\x1b[2J"):
        credential = signed(target.authority, name)
        answers.add(target.ask("/config", {"node_key": ""}, target.context(credential))[:3])
    return " or ".join(sorted(answers))


def signed(authority: Authority, name: str) -> Credential:
    """A node's credential with any common name, which ``osqtwist pki`` would refuse to sign."""
    key, now, day = new_key(), utc_now(), datetime.timedelta(days=1)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = sign_leaf(
        authority.credential, key.public_key(), subject, leaf_extensions("node", []), now - day, now + day
    )
    return Credential(certificate, key)


def _log(data: bytes) -> bytes:
    return b'{"node_key":"","log_type":"result","data":[' + data + b"]}"


def _carve(target: Target) -> str:
    order = {"node_key": target.key, "block_count": 1, "block_size": 4, "carve_size": 4, "carve_id": "../../../etc/x"}
    answer = target.ask("/carver/start", order)
    session = json.loads(answer[4:])["session_id"]
    block = {"session_id": session, "block_id": 0, "data": base64.b64encode(b"abcd").decode()}
    target.ask("/carver/continue", block)
    outside = [path for path in (target.folder / "state" / "carves").rglob("*") if ".." in path.name]
    return f"{answer[:3]}, a file of letters, digits and dashes" if not outside else f"{outside}"


def _enroll(target: Target, identifier: str, secret: str = "bench-secret") -> str:
    return target.ask("/enroll", {"enroll_secret": secret, "host_identifier": identifier, "platform_type": "9"})


def _preview(target: Target) -> str:
    where = "name:*" + "a*" * 500 + "b or host:" + "*a" * 500
    answer = target.admin("POST", "/api/v1/targets/count", {"where": where})
    return str(answer)[:60]


_SQL = "select " + "(" * 200 + "1" + ")" * 200
_RECURSIVE = "with recursive c(x) as (select 1 union all select x+1 from c) select max(x) from c"
_ROW = b'{"a":"1"}'

ATTACKS = (
    Attack("config", "an ordinary config request", "-", lambda t: t.ask("/config", {"node_key": t.key}), "", 200),
    Attack(
        "silence",
        "200 connections that never shake hands",
        "`deadlines.handshake`",
        slow(b"", 200, shakes=False),
        "test_site.py::test_a_handshake_has_a_deadline",
    ),
    Attack(
        "no-tls",
        "HTTP in the clear",
        "the handshake fails",
        lambda t: said(_plainly(t)),
        "test_site.py::test_a_handshake_has_a_deadline",
        100,
    ),
    Attack(
        "slow-headers",
        "100 connections, a byte of a header now and then",
        "`deadlines.headers`",
        slow(b"POST / HTTP/1.1\r\nX: ", 100),
        "test_site.py::test_headers_and_body_have_deadlines_that_bytes_do_not_move",
    ),
    Attack(
        "slow-body",
        "100 connections, a byte of a body now and then",
        "`deadlines.body`",
        slow(b"POST /log HTTP/1.1\r\nContent-Length: 900\r\n\r\n", 100),
        "test_site.py::test_headers_and_body_have_deadlines_that_bytes_do_not_move",
    ),
    Attack(
        "unread",
        "50 answers that nobody reads",
        "`deadlines.answer`, where they do not fit into the kernel's buffers",
        unread(50),
        "test_site.py::test_a_peer_that_does_not_read_is_let_go",
    ),
    Attack(
        "flood",
        "600 connections of one address",
        "`limits.connections_per_address` (500 here)",
        flood(600),
        "test_site.py::test_a_crowded_address_is_closed_before_the_handshake",
    ),
    Attack(
        "held",
        "100 held reads of one node",
        "`limits.held_reads_per_node`",
        crowd(100),
        "test_distributed.py::test_a_node_holds_so_many_reads",
    ),
    Attack(
        "long-line",
        "a request line of 1 MB",
        "headers have 16 KiB",
        lambda t: t.say(b"GET /" + b"a" * MIB),
        "test_site.py::test_what_is_not_http_is_an_error_that_osquery_understands",
        50,
    ),
    Attack(
        "many-headers",
        "10,000 headers",
        "64 headers",
        lambda t: t.say(b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000 + b"\r\n"),
        "test_site.py::test_what_is_not_http_is_an_error_that_osquery_understands",
        50,
    ),
    Attack(
        "smuggling",
        "Content-Length and Transfer-Encoding",
        "refused",
        lambda t: t.say(b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        "test_site.py::test_what_is_not_http_is_an_error_that_osquery_understands",
        50,
    ),
    Attack(
        "path",
        "`/../%2e%2e//config%00`",
        "paths are a fixed list",
        lambda t: t.post("/../%2e%2e//config%00", b"{}"),
        "test_site.py::test_one_request_is_one_request",
        50,
    ),
    Attack(
        "huge-body",
        "a body that says it has 1 GiB",
        "413, unread",
        lambda t: t.say(b"POST /log HTTP/1.1\r\nContent-Length: 1073741824\r\n\r\n"),
        "test_site.py::test_a_body_that_says_it_is_too_long_is_refused_unread",
        50,
    ),
    Attack(
        "chunks",
        "chunks without end on /config",
        "1 MiB, counted",
        lambda t: t.say(
            b"POST /config HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"10000\r\n" + b"a" * 65536 + b"\r\n") * 32
        ),
        "test_site.py::test_a_chunked_body_is_refused_when_it_passes_the_limit",
        5,
    ),
    Attack(
        "bomb",
        "1 GiB of zeros in 1 MB of gzip, in 16 members",
        "`--max-log-body-mib`, inflated no further",
        lambda t: t.post("/log", _bomb(), "Content-Encoding: gzip"),
        "test_web_nodes.py::test_a_gzip_bomb_is_refused",
    ),
    Attack(
        "again",
        "32 MiB of zeros in 32 kB of gzip, twelve times",
        "256 MiB of refused bodies of one address",
        lambda t: [t.post("/log", gzip.compress(b"\0" * 32 * MIB, 9), "Content-Encoding: gzip") for _ in range(12)][-1],
        "test_web_nodes.py::test_who_wastes_much_may_send_little_for_a_while",
    ),
    Attack(
        "deep",
        "1 MB of opening brackets",
        "a parser's own depth",
        lambda t: t.post("/log", _log(b"[" * MIB)),
        "test_wire.py::test_deep_nesting_is_malformed_not_a_crash",
        5,
    ),
    Attack(
        "lines",
        "20 million lines, compressed",
        "100,000 lines",
        lambda t: t.squeezed("/log", _log(b"{}," * 20_000_000 + b"{}")),
        "test_jsonbounds.py::test_lines_without_end_cost_neither_time_nor_memory",
    ),
    Attack(
        "rows",
        "6 million rows, compressed",
        "a million rows",
        lambda t: t.squeezed("/distributed/write", b'{"queries":{"q":[' + (_ROW + b",") * 6_000_000 + _ROW + b"]}}"),
        "test_jsonbounds.py::test_members_are_bounded_wherever_they_are",
    ),
    Attack(
        "no-text",
        "60 MB that are no UTF-8, compressed",
        "100,000 wrong bytes",
        lambda t: t.squeezed("/log", b"\xff" * 60_000_000),
        "test_jsonbounds.py::test_bytes_that_are_no_text_are_not_written_out_for_ever",
    ),
    Attack(
        "keys",
        "60,000 keys in an object",
        "Python's hashes have a random seed",
        lambda t: t.post("/enroll", json.dumps({f"{n:08d}": 0 for n in range(60_000)}).encode()),
        "test_hostile_strings.py::test_keys_that_would_collide_elsewhere_cost_nothing",
        3,
    ),
    Attack(
        "secrets",
        "wrong enroll secrets",
        "compared in constant time",
        lambda t: _enroll(t, "h", secrets.token_hex(8)),
        "test_web_nodes.py::test_a_wrong_secret_gets_no_key",
        100,
    ),
    Attack(
        "forged",
        "forged node keys",
        "an HMAC, no store call",
        lambda t: t.ask("/config", {"node_key": t.key[:-4] + "AAAA"}),
        "test_web_nodes.py::test_a_key_that_is_not_ours_is_node_invalid",
        100,
    ),
    Attack(
        "names",
        "a host identifier of 350 kB, with escape sequences",
        "1,024 letters; shown as `\\x1b`",
        lambda t: _enroll(t, "\x1b[2J\r\n" * 50_000)[:3],
        "test_hostile_strings.py::test_no_string_of_a_node_reaches_a_terminal_or_a_log_as_it_is",
        3,
    ),
    Attack(
        "certificates",
        "seven odd subjects, signed by the right CA",
        "refused unless plain text",
        odd_certificates,
        "test_identity.py::test_what_is_ambiguous_or_unfit_is_refused",
    ),
    Attack(
        "carve-path",
        "a carve called `../../../etc/x`",
        "names are made anew",
        _carve,
        "test_hostile_strings.py::test_no_name_of_a_carve_leaves_its_folder",
    ),
    Attack(
        "carve-size",
        "a carve of 2^62 bytes",
        "`--max-carve-mib`",
        lambda t: t.ask(
            "/carver/start", {"node_key": t.key, "block_count": 2**38, "block_size": 2**24, "carve_size": 2**62}
        ),
        "test_web_nodes.py::test_figures_of_a_carve_must_agree",
        20,
    ),
    Attack(
        "patterns",
        "a target of 1,000 stars",
        "patterns do not go back",
        _preview,
        "test_expression.py::test_a_pattern_takes_no_longer_than_it_must",
        20,
    ),
    Attack(
        "sql",
        "an endless recursive query, 200 parentheses",
        "SQLite's own limits",
        lambda t: (
            str(t.admin("POST", "/api/v1/queries/check", {"sql": _RECURSIVE}))[:60]
            + str(t.admin("POST", "/api/v1/queries/check", {"sql": _SQL}))[:20]
        ),
        "test_sqlcheck.py::test_hostile_sql_costs_little",
        20,
    ),
)
"""All of them; the first is what the others are compared with."""


def _plainly(target: Target) -> bytes:
    with target.raw() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        read_all(connection)
    return b""


def _bomb() -> bytes:
    # Sixteen members of 64 MiB each.
    return gzip.compress(b"\0" * (64 * MIB), 9) * 16
