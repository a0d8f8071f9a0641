"""
``python -m bench.revocation``: how long it takes from a revocation to the closed socket of a held distributed read.

Nodes with a certificate each hold reads over two workers, and over two servers on one Redis.  They are thrown out one
after the other: by ``node revoke``, by an entry of the deny list, and by a new revocation list in the place of the old.
The clock runs from the moment before the operators' API is asked, or the file is replaced, to the end of the node's
connection.  The cap on the hold is lifted, so that no read ends by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import selectors
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from bench.scene import Scene, free_port
from bench.servers import Certificates
from osqtwist.pki import Authority, Credential
from osqtwist.storage.embedded import find_binary

_HOLD = "1800"
_LONGEST = 20.0
_BODY = b'{"node_key":""}'
_REQUEST = b"POST /distributed/read HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
PLACES = ("two workers", "two servers, one Redis")


@attrs.define
class Watch:
    """Notes when connections are ended, in a thread."""

    ends: dict[str, float] = attrs.field(factory=dict)
    said: dict[str, bytes] = attrs.field(factory=dict)
    _selector: selectors.BaseSelector = attrs.field(factory=selectors.DefaultSelector)
    _is_over: threading.Event = attrs.field(factory=threading.Event)

    def add(self, name: str, connection: ssl.SSLSocket) -> None:
        """Watch one."""
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, name)

    def look(self) -> None:
        """Look until it is over."""
        while not self._is_over.is_set():
            for key, _ in self._selector.select(0.2):
                now = time.monotonic()
                connection: Any = key.fileobj
                try:
                    data = connection.recv(65536)
                except ssl.SSLWantReadError:
                    continue
                except OSError:
                    data = b""
                if data:
                    self.said[key.data] = self.said.get(key.data, b"") + data
                else:
                    self.ends[key.data] = now
                    self._selector.unregister(connection)
                    connection.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Look, as long as this lasts."""
        thread = threading.Thread(target=self.look)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()
            for key in list(self._selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
            self._selector.close()


@attrs.define
class Stage:
    """
    Servers that share a CA, a store and a revocation list.

    :ivar scenes: nodes are spread over them; the first is the one that is told of revocations.
    """

    folder: Path
    scenes: Sequence[Scene]
    authority: Authority
    revoked: list[int] = attrs.field(factory=list)

    def put_list(self) -> None:
        """Write the revocation list: whole or not at all."""
        new = self.folder / "crl.new"
        new.write_bytes(self.authority.revocation_list(self.revoked))
        new.replace(self.folder / "crl.pem")

    def hold(self, node: Credential, name: str, scene: Scene) -> ssl.SSLSocket:
        """A distributed read of a node that is held."""
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        node.write(*paths)
        context = ssl.create_default_context(cafile=str(scene.folder / "certs" / "ca.pem"))
        context.load_cert_chain(*paths)
        raw = socket.create_connection(("127.0.0.1", scene.port), 10)
        connection = context.wrap_socket(raw, server_hostname="localhost")
        connection.sendall(_REQUEST)
        return connection

    def operate(self, path: str, body: Any) -> None:
        """Have the first server do something."""
        connection = http.client.HTTPConnection("admin", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.scenes[0].folder / "state" / "admin.sock"))
        with contextlib.closing(connection):
            connection.request("POST", f"/api/v1/{path}", json.dumps(body))
            answer = connection.getresponse()
            if answer.status >= 300:
                raise RuntimeError(answer.read().decode())

    def held(self) -> list[int]:
        """How many reads each process holds, as far as it has said so."""
        found = []
        for scene in self.scenes:
            rows = scene.admin("GET", "/api/v1/workers")["workers"]
            found += (
                [row["parked_reads"] for row in rows]
                if rows
                else [scene.admin("GET", "/api/v1/status")["parked_reads"]]
            )
        return found

    def wait_until_held(self, count: int) -> list[int]:
        """Wait until so many reads are held in all, and they have said so; answers with how many each holds."""
        deadline = time.monotonic() + _LONGEST
        while sum(held := self.held()) != count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{held} reads are held, and not {count}")
            time.sleep(0.2)
        return held


Way = Callable[[Stage, str, Credential], None]


def revoke(stage: Stage, name: str, node: Credential) -> None:
    """``osqtwist node revoke``."""
    stage.operate(f"nodes/{name}/revoke", {"reason": "bench"})


def deny(stage: Stage, name: str, node: Credential) -> None:
    """``osqtwist deny add --serial``."""
    stage.operate("denials", {"kind": "serial", "value": f"{node.certificate.serial_number:x}", "issuer": "bench CA"})


def replace_list(stage: Stage, name: str, node: Credential) -> None:
    """A new ``--client-crl``."""
    stage.revoked.append(node.certificate.serial_number)
    stage.put_list()


# With how long to wait between two, at most: each new list is to be seen at another moment between two looks.
WAYS: dict[str, tuple[Way, float]] = {
    "node revoked": (revoke, 0.05),
    "deny list entry": (deny, 0.05),
    "revocation list replaced": (replace_list, 1.0),
}


def measure(stage: Stage, way: str, count: int) -> dict[str, Any]:
    """Hold so many reads, and throw them out one after the other."""
    do, pause = WAYS[way]
    watch = Watch()
    nodes = {
        f"{do.__name__}-{number}": stage.authority.issue(f"{do.__name__}-{number}", "node") for number in range(count)
    }
    stage.wait_until_held(0)
    begun: dict[str, float] = {}
    with watch.running():
        for number, (name, node) in enumerate(nodes.items()):
            watch.add(name, stage.hold(node, name, stage.scenes[number % len(stage.scenes)]))
        held = stage.wait_until_held(count)
        if watch.ends:
            raise RuntimeError("reads ended before anybody was thrown out")
        for name, node in nodes.items():
            begun[name] = time.monotonic()
            do(stage, name, node)
            time.sleep(random.uniform(0, pause))
        deadline = time.monotonic() + _LONGEST
        while len(watch.ends) < count and time.monotonic() < deadline:
            time.sleep(0.05)
    took = sorted(watch.ends[name] - begun[name] for name in nodes if name in watch.ends)
    return {
        "way": way,
        "held": held,
        "closed": len(took),
        "told": sum(b'"error"' in said or b"node_invalid" in said for said in watch.said.values()),
        "p50_ms": round(statistics.median(took) * 1000, 1),
        "p99_ms": round(took[max(0, -(-99 * len(took) // 100) - 1)] * 1000, 1),
        "max_ms": round(took[-1] * 1000, 1),
    }


@contextlib.contextmanager
def stage(place: str) -> Iterator[Stage]:
    """The servers of a place."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="osqtb-")))
        Certificates.mint(folder / "certs", "P-256")
        authority = Authority.load(folder / "certs" / "ca.pem", folder / "certs" / "ca.key")
        made = Stage(folder, [], authority)
        made.put_list()
        options = ["--hold", _HOLD, "--client-crl", str(folder / "crl.pem")]
        if place == PLACES[0]:
            scenes = [_scene(folder / "one", made, [*options, "--workers", "2"])]
        else:
            stack.enter_context(_valkey(folder))
            options += ["--redis", f"unix:{folder / 'valkey.sock'}"]
            scenes = [_scene(folder / name, made, options) for name in ("one", "two")]
        made.scenes = scenes
        for each in scenes:
            stack.callback(each.stop)
            each.start()
        yield made


def _scene(folder: Path, made: Stage, options: list[str]) -> Scene:
    folder.mkdir()
    shutil.copytree(made.folder / "certs", folder / "certs")
    (folder / "secret").write_text("bench-secret\n")
    return Scene(folder, free_port(), options, uncapped=True)


@contextlib.contextmanager
def _valkey(folder: Path) -> Iterator[None]:
    path = folder / "valkey.sock"
    words = [find_binary(), "--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--appendonly", "yes"]
    words += ["--maxmemory-policy", "noeviction"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not path.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("Valkey did not start")
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait(10)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as the documents have them."""
    lines = [
        "| over | what happens | held | closed | p50 ms | p99 ms | max ms |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        held = "+".join(map(str, row["held"]))
        cells = [row["over"], row["way"], held, row["closed"], row["p50_ms"], row["p99_ms"], row["max_ms"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def run(count: int, places: Sequence[str] = PLACES) -> list[dict[str, Any]]:
    """Measure every way in every place."""
    rows = []
    for place in places:
        with stage(place) as made:
            for way in WAYS:
                rows.append({"over": place} | measure(made, way, count))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.revocation", description=__doc__)
    parser.add_argument("--nodes", type=int, default=100, help="for each way and place")
    print(table(run(parser.parse_args().nodes)))


if __name__ == "__main__":
    main()
