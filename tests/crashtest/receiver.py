"""
The HTTP receiver of the crash test, a process of its own: ``python -m tests.crashtest.receiver PORT FILE``.

It appends each body to a file before it answers 204.  While ``FILE.refuse`` exists it answers 503.  To stall it, stop
the process.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock


def serve(port: int, path: Path) -> None:
    """Serve until killed."""
    lock = Lock()
    refuse = path.with_name(f"{path.name}.refuse")

    class Receiver(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = 503 if refuse.exists() else 204
            if status == 204:
                with lock, path.open("ab") as file:
                    file.write(body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away, which is nothing to speak of here."""

    Server(("127.0.0.1", port), Receiver).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
