"""What --redis may say, and the look at the server before anything else starts."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import pytest

from osqtwist.interfaces import StoreUnavailable
from osqtwist.storage.redis_connection import Login
from osqtwist.storage.redis_url import BadRedisURL, RedisPlace, check_redis, parse_redis_url
from tests.stores import RealValkey, valkey

PASSWORD = "hunter2-secret"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("redis://h", RedisPlace("redis", (("h", 6379),), "", Login())),
        ("redis://h/", RedisPlace("redis", (("h", 6379),), "", Login())),
        ("redis://h:7000/3", RedisPlace("redis", (("h", 7000),), "", Login(database=3))),
        ("redis://h?db=4", RedisPlace("redis", (("h", 6379),), "", Login(database=4))),
        ("redis://:pw@h", RedisPlace("redis", (("h", 6379),), "", Login("", "pw"))),
        ("redis://me:p%40%2F%3A@h", RedisPlace("redis", (("h", 6379),), "", Login("me", "p@/:"))),
        ("redis://me:p@ss@h", RedisPlace("redis", (("h", 6379),), "", Login("me", "p@ss"))),
        ("redis://[::1]", RedisPlace("redis", (("::1", 6379),), "", Login())),
        ("redis://[::1]:7000", RedisPlace("redis", (("::1", 7000),), "", Login())),
        ("rediss://h", RedisPlace("rediss", (("h", 6379),), "", Login())),
        (
            "rediss://h?ca=/a/b@c.pem&cert=/d.pem&key=/e.pem",
            RedisPlace("rediss", (("h", 6379),), "", Login(), "", "/a/b@c.pem", "/d.pem", "/e.pem"),
        ),
        ("unix:/run/valkey.sock", RedisPlace("unix", (), "/run/valkey.sock", Login())),
        ("unix:///run/a%20b@c.sock?db=2", RedisPlace("unix", (), "/run/a b@c.sock", Login(database=2))),
        ("sentinel://a/m", RedisPlace("sentinel", (("a", 26379),), "", Login(), "m")),
        (
            "sentinel://me:pw@a:1,b,[::1]:3/m/5",
            RedisPlace("sentinel", (("a", 1), ("b", 26379), ("::1", 3)), "", Login("me", "pw", 5), "m"),
        ),
    ],
)
def test_urls_that_are_understood(text: str, place: RedisPlace) -> None:
    """Each form, with its defaults."""
    assert parse_redis_url(text) == place


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must begin with"),
        ("h:6379", "must begin with"),
        ("http://h", "must begin with"),
        ("redis://", "HOST:PORT"),
        ("redis://h:0", "HOST:PORT"),
        ("redis://h:65536", "HOST:PORT"),
        ("redis://h:x", "HOST:PORT"),
        ("redis://[::1", "not a URL"),
        ("redis://h/one", "database number"),
        ("redis://h/-1", "database number"),
        ("redis://h/1/2", "database number"),
        ("redis://h?ca=/a", "'ca' is not understood"),
        ("redis://h?x", "not a URL"),
        ("redis://user@h", "user and no password"),
        ("unix:run/x", "absolute path"),
        ("unix://host/run/x", "absolute path"),
        ("unix:/x?db=one", "database number"),
        ("sentinel://h", "name of the master"),
        ("sentinel://a,,b/m", "HOST:PORT"),
    ],
)
def test_urls_that_are_refused(text: str, sentence: str) -> None:
    """Everything else gets one sentence that names the option."""
    with pytest.raises(BadRedisURL, match=sentence) as caught:
        parse_redis_url(text)
    assert "--redis" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "redis://:hunter2-secret",
        "redis://me:hunter2-secret",
        "redis://:hunter2-secret@h:x",
        "redis://:hunter2-secret@h/one",
        "redis://:hunter2-secret@h?what=1",
        "redis://:hunter2-secret@",
        "redis://:hunter2-secret/1@h/0",
        "redis://me:1/hunter2-secret@h:6379/0",
        "redis://me:1/hunter2-secret@h",
        "redis://:a@b/hunter2-secret@h/0",
        "redis://:1?hunter2-secret=1@h/0",
        "rediss://:1?hunter2-secret=1@h/0",
        "redis://:hunter2?db=-secret@h/0",
        "redis://:hunter2-secret#1@h:6379/0",
        "redis://me:1#hunter2-secret@h:6379/0",
        "rediss://:x@y?hunter2-secret=z@h",
        "http://:hunter2-secret@h",
        "sentinel://:hunter2-secret/1@h/m",
        "sentinel://:hunter2-secret@h",
        "sentinel://me:1/hunter2-secret@h/m",
        "redis://me:hunter2-secret@[::1",
    ],
)
def test_no_refusal_repeats_a_password(text: str) -> None:
    """However the URL is broken, above all by a letter of the password that should be quoted."""
    with pytest.raises(BadRedisURL) as caught:
        parse_redis_url(text)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_place_shows_no_password() -> None:
    """Neither as text nor in a traceback."""
    place = parse_redis_url(f"sentinel://me:{PASSWORD}@a:1,b:2/m/5")
    assert str(place) == "sentinel://a:1,b:2/m"
    assert PASSWORD not in repr(place)
    assert str(parse_redis_url("unix:/run/x")) == "unix:/run/x"


# -- the look at a real server


@pytest.fixture(scope="module")
def server() -> Iterator[RealValkey]:
    with valkey("--maxmemory-policy", "allkeys-lru") as running:
        yield running


def test_a_server_that_answers_is_good(server: RealValkey) -> None:
    """A policy that loses data is told of; the right one is not."""
    (warning,) = check_redis(server.place)
    assert "allkeys-lru" in warning
    assert "noeviction" in warning
    with valkey() as good:
        assert check_redis(good.place) == []


@pytest.mark.parametrize("user", ["", "default"])
def test_a_password_is_shown_to_the_server_and_to_nobody_else(server: RealValkey, user: str) -> None:
    """The right one opens; a wrong one, a missing one and one too many are told of without it."""

    def place(password: str) -> RedisPlace:
        return attrs.evolve(server.place, login=Login(user if password else "", password))

    if not user:
        with pytest.raises(StoreUnavailable, match=r"without any password|WRONGPASS") as caught:
            check_redis(place(PASSWORD))
        assert PASSWORD not in str(caught.value)
    server.ask("CONFIG", "SET", "requirepass", "the-right-one")
    try:
        assert len(check_redis(place("the-right-one"))) == 1
        with pytest.raises(StoreUnavailable, match="WRONGPASS") as caught:
            check_redis(place(PASSWORD))
        assert PASSWORD not in str(caught.value)
        with pytest.raises(StoreUnavailable, match="NOAUTH"):
            check_redis(place(""))
    finally:
        server.ask("AUTH", "the-right-one", also=("CONFIG", "SET", "requirepass", ""))


@contextmanager
def answering(answer: bytes) -> Iterator[RedisPlace]:
    """Something on a port that is not Redis: it says its piece and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield RedisPlace("redis", (listener.getsockname()[:2],), "", Login())
        finally:
            thread.join(10)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"$abc\r\n", b"*x\r\n", b"\x15\x03\x01\0"]
)
def test_what_is_not_redis_is_told_of(answer: bytes) -> None:
    """Other protocols give a sentence and no traceback."""
    with answering(answer) as place, pytest.raises(StoreUnavailable, match=r"--redis redis://127\.0\.0\.1:"):
        check_redis(place)


def _nobody() -> RedisPlace:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return RedisPlace("redis", (listener.getsockname()[:2],), "", Login("", PASSWORD))


@pytest.mark.parametrize(
    "place",
    [
        _nobody,
        lambda: RedisPlace("redis", (("a..b", 6379),), "", Login("", PASSWORD)),
        lambda: RedisPlace("unix", (), "/nonexistent/x.sock", Login()),
        lambda: RedisPlace("unix", (), "/" + "x" * 200, Login()),
        lambda: RedisPlace("unix", (), "/x\0y", Login()),
    ],
)
def test_a_server_that_is_not_there_is_told_of(place: Callable[[], RedisPlace]) -> None:
    """Nobody listens, a name that cannot be one, a path that cannot be one: a sentence each."""
    with pytest.raises(StoreUnavailable, match="--redis ") as caught:
        check_redis(place())
    assert PASSWORD not in str(caught.value)


def test_files_for_tls_that_are_missing_are_named() -> None:
    """The sentence says which file."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = RedisPlace("rediss", (listener.getsockname()[:2],), "", Login(), ca="/nonexistent/ca.pem")
        with pytest.raises(StoreUnavailable, match=r"/nonexistent/ca\.pem"):
            check_redis(place)


def test_a_server_that_repeats_what_it_does_not_know_is_not_quoted() -> None:
    """Redis answers an unknown command with its arguments, and AUTH can be one: of that nothing is passed on."""
    with valkey("--rename-command", "AUTH", "") as server:
        place = attrs.evolve(server.place, login=Login("", PASSWORD))
        with pytest.raises(StoreUnavailable, match="unknown command") as caught:
            check_redis(place)
    assert PASSWORD not in str(caught.value)
