"""
A load generator for servers of osquery's TLS protocol: many nodes, each with a certificate of its own.

It behaves as osqueryd does where a server can tell: one new TCP connection and one full handshake for each request,
16 seconds for all of it, the same request again at once when a connection breaks, and osqueryd's back-off.  It knows
nothing of any server: ``python -m bench.fleet --help``, and ``docs/load-generator.md``.
"""
