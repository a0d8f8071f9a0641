"""osqtwist.ports: what --port takes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from osqtwist.ports import UnusablePort, bind_all


def test_a_port_is_bound_on_the_interface_named() -> None:
    """ssl:0 takes a free port; the interface is honoured."""
    ((port,),) = bind_all(["ssl:0:interface=127.0.0.1"])
    with port.socket:
        assert port.number
        assert port.socket.getsockname()[0] == "127.0.0.1"
        socket.create_connection(("127.0.0.1", port.number), 5).close()


def test_without_an_interface_both_protocols_are_served() -> None:
    """IPv4 and IPv6 reach the same port."""
    ((port,),) = bind_all(["ssl:0"])
    with port.socket:
        socket.create_connection(("127.0.0.1", port.number), 5).close()
        if socket.has_dualstack_ipv6():
            socket.create_connection(("::1", port.number), 5).close()


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("tcp:x", "not a port number"),
        ("unix:", "must be unix:PATH"),
        ("unix:/nowhere/x", "No such file"),
        ("unix:/x:mode=888", "must be unix:PATH"),
        ("udp:1", "must begin with ssl:"),
        ("ssl:", "not a port number"),
        ("ssl:70000", "not a port number"),
        ("ssl:x", "not a port number"),
        ("ssl:1:privateKey=a.pem", "'privateKey' is not understood"),
        ("ssl:1:2", "'2' is not understood"),
        ("ssl:0:interface=192.0.2.1", "annot assign"),
        ("systemd:name=web", "passed no socket"),
    ],
)
def test_what_cannot_be_bound_is_named(description: str, words: str) -> None:
    """One sentence names the port and the reason."""
    with pytest.raises(UnusablePort) as caught:
        bind_all([description])
    assert description in str(caught.value)
    assert words in str(caught.value)


def test_a_port_in_use_is_named_and_the_others_are_let_go() -> None:
    """Either all ports are bound or none."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as probe:
            free = probe.getsockname()[1]
        with pytest.raises(UnusablePort, match="Address already in use"):
            bind_all([f"ssl:{free}:interface=127.0.0.1", f"ssl:{number}:interface=127.0.0.1"])
        socket.create_server(("127.0.0.1", free)).close()


@pytest.mark.slow
@pytest.mark.parametrize("earlier", ["", "import twisted.internet.endpoints\n"])
def test_sockets_of_systemd_by_name_and_index(earlier: str) -> None:
    """A socket that systemd has bound is found by its name or its place, also when twistd has imported endpoints."""
    program = (
        "import os; os.environ['LISTEN_PID'] = str(os.getpid())\n"
        f"{earlier}"
        "from osqtwist.ports import bind_all\n"
        "print(*(port.number for port in bind_all(['systemd:domain=INET:name=web', 'systemd:index=0'])[0]))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:

        def place() -> None:
            # systemd passes its sockets from descriptor 3 on.
            one, two = os.dup(first.fileno()), os.dup(second.fileno())
            os.dup2(one, 3)
            os.dup2(two, 4)

        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "admin:web"},
            close_fds=False,
            preexec_fn=place,
            pass_fds=(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stdout.split() == [str(second.getsockname()[1]), str(first.getsockname()[1])], done.stderr


def test_connections_that_wait_to_be_accepted_are_counted() -> None:
    """As the kernel counts them: those that nobody has accepted."""
    ((port,),) = bind_all(["ssl:0:interface=127.0.0.1"])
    assert port.queued == 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(port.socket)
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port.number), 5))
        assert port.queued == 3
        port.socket.accept()[0].close()
        assert port.queued == 2
