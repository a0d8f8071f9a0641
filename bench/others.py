"""Servers of other makes in the same shape: client certificates required, a fixed answer, one request a connection."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.servers import Certificates, Measured, free_port, running, wait_for

_AIOHTTP = """
import asyncio, ssl, sys
import uvloop
from aiohttp import web
port, cert, key, ca = int(sys.argv[1]), *sys.argv[2:5]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
context.load_verify_locations(ca)
context.verify_mode = ssl.CERT_REQUIRED
async def answer(request):
    await request.read()
    response = web.Response(body=b"{}", content_type="application/json")
    response.force_close()
    return response
async def main():
    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context, backlog=512).start()
    await asyncio.Event().wait()
uvloop.run(main())
"""

_GO = """
package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(os.Args[4])
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		log.Fatal("no CA")
	}
	server := &http.Server{
		Addr:      "127.0.0.1:" + os.Args[1],
		TLSConfig: &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool},
		ErrorLog:  log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Connection", "close")
			w.Write([]byte("{}"))
		}),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	log.Fatal(server.ListenAndServeTLS(os.Args[2], os.Args[3]))
}
"""


def has_aiohttp() -> bool:
    """Whether aiohttp and uvloop are installed: ``pip install 'osqtwist[bench]'``."""
    return all(importlib.util.find_spec(name) for name in ("aiohttp", "uvloop"))


def go_program() -> str:
    """Where Go is, or nothing."""
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin") or ""


def versions() -> list[str]:
    """What there is of them."""
    found = []
    if has_aiohttp():
        found.append(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "uvloop")))
    if go_program():
        done = subprocess.run([go_program(), "version"], capture_output=True, text=True, check=True)
        found.append(done.stdout.strip().removeprefix("go version "))
    return found


@contextlib.contextmanager
def aiohttp_server(folder: Path, certificates: Certificates) -> Iterator[Measured]:
    """aiohttp on uvloop, the quickest of Python's common servers."""
    words = [sys.executable, "-c", _AIOHTTP]
    with _served("aiohttp, uvloop", words, folder, certificates) as measured:
        yield measured


@contextlib.contextmanager
def go_server(folder: Path, certificates: Certificates) -> Iterator[Measured]:
    """Go's net/http, as it comes."""
    folder.mkdir()
    (folder / "main.go").write_text(_GO)
    words = [go_program(), "build", "-o", str(folder / "server"), str(folder / "main.go")]
    subprocess.run(words, cwd=folder, check=True, timeout=180)
    with _served("Go net/http", [str(folder / "server")], folder, certificates) as measured:
        yield measured


@contextlib.contextmanager
def _served(name: str, words: list[str], folder: Path, certificates: Certificates) -> Iterator[Measured]:
    folder.mkdir(exist_ok=True)
    port = free_port()
    files = [certificates.path(each) for each in ("server.pem", "server.key", "ca.pem")]
    with running([*words, str(port), *files], folder) as process:
        wait_for(port, process)
        yield Measured(name, port, [process.pid])
