"""
A client of the operators' API: lists the nodes, then asks them something and prints what they answer as it comes.

It needs treq and nothing of osqtwist.  Who comes is shown by a token, a certificate, or both:

python -m osqtwist_client https://osquery.example.com:9443 --ca ca.pem --token-file operator.token "select 1"
python -m osqtwist_client https://osquery.example.com:9443 --ca ca.pem --cert alice.pem --key alice.key "select 1"
"""

import argparse
import json
import sys
from pathlib import Path

import treq
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import react
from twisted.web.client import Agent
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

PAGE = 500


@implementer(IPolicyForHTTPS)
class Policy:
    """Trusts one CA, and shows a certificate if there is one."""

    def __init__(self, ca, cert="", key=""):
        self.trusted = trustRootFromCertificates([Certificate.loadPEM(Path(ca).read_bytes())])
        self.own = PrivateCertificate.loadPEM(Path(cert).read_bytes() + Path(key).read_bytes()) if cert else None

    def creatorForNetloc(self, hostname, port):
        return optionsForClientTLS(hostname.decode("ascii"), trustRoot=self.trusted, clientCertificate=self.own)


class Refused(Exception):
    """The server's own words."""


class Client:
    def __init__(self, reactor, server, policy, token=""):
        self.server = server
        self.http = treq.client.HTTPClient(Agent(reactor, contextFactory=policy, connectTimeout=10))
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def ask(self, method, path, **more):
        response = await self.http.request(method, f"{self.server}/api/v1{path}", headers=self.headers, **more)
        if response.code >= 400:
            # Whatever goes wrong is application/problem+json.
            raise Refused((await response.json())["detail"])
        return response

    async def nodes(self):
        """Every node, a page at a time."""
        offset = 0
        while offset is not None:
            response = await self.ask("GET", "/nodes", params={"limit": PAGE, "offset": offset})
            page = await response.json()
            for node in page["nodes"]:
                yield node
            offset = page["next_offset"]

    async def run(self, sql, target, take):
        """Call ``take`` with each line of the stream as it comes: begin, result, end."""
        response = await self.ask("POST", "/queries/run", json={"sql": sql, "target": target, "expires_in": 30})
        rest = b""

        def received(data):
            nonlocal rest
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line:
                    take(json.loads(line))

        await treq.collect(response, received)


def show(line):
    if line["type"] == "begin":
        print(f"asked {line['expected']} nodes", flush=True)
    elif line["type"] == "result":
        print(line["name"], line["message"] or json.dumps(line["rows"]), flush=True)
    elif line["type"] == "end":
        print(f"{line['answered']} answered, silent: {', '.join(line['silent']) or 'nobody'}")
    elif line["type"] == "waiting":
        print(f"{line['query_id']} waits for somebody else's approval: {'; '.join(line['dangers'])}")
    elif line["type"] == "error":
        raise Refused(line["error"])


async def work(reactor, given):
    token = Path(given.token_file).read_text().strip() if given.token_file else ""
    client = Client(reactor, given.server, Policy(given.ca, given.cert, given.key), token)
    async for node in client.nodes():
        print(node["name"], "online" if node["online"] else "silent", *node["tags"])
    await client.run(given.sql, {}, show)


async def main(reactor):
    words = argparse.ArgumentParser()
    words.add_argument("server")
    words.add_argument("sql")
    words.add_argument("--ca", required=True)
    words.add_argument("--token-file", default="")
    words.add_argument("--cert", default="")
    words.add_argument("--key", default="")
    try:
        await work(reactor, words.parse_args())
    except Refused as refused:
        sys.exit(f"refused: {refused}")


if __name__ == "__main__":
    react(main)
