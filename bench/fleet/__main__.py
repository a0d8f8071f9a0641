"""``python -m bench.fleet``: see ``docs/load-generator.md``."""

from __future__ import annotations

import argparse
import contextlib
import gc
import ipaddress
import json
import resource
import signal
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.fleet import certificates
from bench.fleet.exchange import BUDGET, Loop, Target
from bench.fleet.figures import Figures
from bench.fleet.node import PATHS, READ, Behavior, Node

_MOST_FILES = 1_048_576


def main() -> None:
    """Run it."""
    arguments = _parser().parse_args()
    _raise_limit(arguments.nodes)
    url = urlsplit(arguments.url)
    if url.scheme != "https" or not url.hostname:
        raise SystemExit(f"--url is {arguments.url!r}; it must be https://HOST:PORT")
    found = socket.getaddrinfo(url.hostname, url.port or 443, type=socket.SOCK_STREAM)
    address = sorted(found, key=lambda each: each[0] != socket.AF_INET)[0][4][0]
    is_near = ipaddress.ip_address(address).is_loopback and ":" not in str(address)
    target = Target(url.hostname, str(address), url.port or 443, is_near)
    paths = PATHS | _pairs(arguments.paths)
    pauses = {kind: float(pause) for kind, pause in _pairs(arguments.mix).items()}
    if wrong := (set(pauses) | set(paths)) - set(PATHS):
        raise SystemExit(f"{sorted(wrong)[0]!r} is not one of {', '.join(PATHS)}")
    loop = Loop(target, arguments.budget, not arguments.no_resend)
    if arguments.read_patience:
        loop.patience[READ] = arguments.read_patience
    figures = Figures(loop, bool(arguments.samples))
    with contextlib.ExitStack() as stack:
        acknowledged = None
        if arguments.acknowledged:
            file = stack.enter_context(Path(arguments.acknowledged).open("w", 1 << 16))
            acknowledged = lambda node, sequence: file.write(f"{node}:{sequence}\n")  # noqa: E731
        does = Behavior(
            paths={kind: url.path.rstrip("/") + path for kind, path in paths.items()},
            pauses=pauses,
            host=url.netloc,
            secret=arguments.secret,
            log_bytes=arguments.log_bytes,
            result_bytes=arguments.result_bytes,
            think=arguments.think,
            over=arguments.over,
            sends_etag=not arguments.no_etag,
            acknowledged=acknowledged,
        )
        nodes = _nodes(arguments, loop, figures, does)
        _drive(arguments, loop, figures, nodes)
    if arguments.samples:
        figures.write_samples(Path(arguments.samples))
    report = figures.report(len(nodes))
    if arguments.queries:
        Path(arguments.queries).write_text(json.dumps({"delivered": figures.queries, "stored": figures.results}))
    print(json.dumps({"report": report}, indent=None if arguments.progress else 1), flush=True)


def _drive(arguments: argparse.Namespace, loop: Loop, figures: Figures, nodes: list[Node]) -> None:
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: ended.append(number))
    end = loop.now() + arguments.seconds if arguments.seconds else float("inf")
    # Nothing here makes cycles worth looking for while connections wait.
    gc.collect()
    gc.freeze()
    gc.disable()

    def tell() -> None:
        print(json.dumps(figures.progress()), flush=True)
        loop.at(loop.now() + arguments.progress, tell)

    figures.begin()
    if arguments.progress:
        tell()
    for node in nodes:
        node.begin()
    loop.run(lambda: bool(ended) or loop.now() >= end)
    if arguments.progress:
        print(json.dumps(figures.progress()), flush=True)
    loop.close()


def _nodes(arguments: argparse.Namespace, loop: Loop, figures: Figures, does: Behavior) -> list[Node]:
    contexts = certificates.Contexts(arguments.tls, arguments.verify, arguments.groups)
    numbers = range(arguments.first, arguments.first + arguments.nodes)
    if arguments.certificates:
        made = [contexts.make(*pair) for pair in certificates.read(Path(arguments.certificates))]
    elif arguments.ca:
        names = [f"node-{number}" for number in numbers[: arguments.pool or None]]
        minted = certificates.mint(Path(arguments.ca), Path(arguments.ca_key), names)
        made = [contexts.make(*pair) for pair in minted]
    else:
        made = [contexts.make()]
    if not made:
        raise SystemExit(f"--certificates {arguments.certificates}: there is no NAME.pem with a NAME.key beside it")
    return [Node(loop, figures, does, number, made[place % len(made)]) for place, number in enumerate(numbers)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    add: Any = parser.add_argument
    add("--url", required=True, help="the server: https://HOST:PORT, and a prefix of its routes if there is one")
    add("--nodes", type=int, default=100)
    add("--first", type=int, default=0, help="number of the first node, where several of these run beside each other")
    add("--mix", default="read=1,config=60,log=10", help="loops of a node, each with its pause in seconds")
    add("--paths", default="", help="routes, such as read=/api/osquery/distributed/read,enroll=/api/osquery/enroll")
    add("--ca", default="", help="a CA to mint node certificates with, PEM; its key in --ca-key")
    add("--ca-key", default="", help="its private key, PEM")
    add("--pool", type=int, default=0, help="mint so many certificates and share them; 0: one for each node")
    add("--certificates", default="", help="a folder with NAME.pem and NAME.key instead")
    add("--secret", default="", help="an enroll secret: nodes enroll first and show their node keys")
    add("--seconds", type=float, default=30.0, help="how long; 0: until SIGTERM")
    add("--over", type=float, default=5.0, help="seconds over which the nodes begin; 0: all at once")
    add("--tls", default="", choices=["", "1.2", "1.3"])
    add("--groups", default="", help="of the key exchange, such as X25519:P-256; by default what OpenSSL offers")
    add("--verify", default="", help="a CA file to verify the server with")
    add("--budget", type=float, default=BUDGET, help="seconds for a request in all")
    add("--read-patience", type=float, default=0.0, help="seconds for a read in all, if it was sent within the budget")
    add("--no-resend", action="store_true", help="do not repeat a request at once when its connection breaks")
    add("--no-etag", action="store_true", help="config requests without an etag, as of older clients")
    add("--log-bytes", type=int, default=2048)
    add("--result-bytes", type=int, default=200)
    add("--think", type=float, default=0.0, help="seconds that a query takes at most")
    add("--progress", type=float, default=0.0, help="a line of JSON every so many seconds")
    add("--samples", default="", help="write each request's times into this file")
    add("--queries", default="", help="write when each query reached nodes and its results were taken into this file")
    add("--acknowledged", default="", help="write NODE:SEQUENCE of each acknowledged log post into this file")
    return parser


def _pairs(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split(",") if "=" in word)


def _raise_limit(nodes: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(nodes * 4 + 256, _MOST_FILES)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, hard)), hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))


if __name__ == "__main__":
    main()
