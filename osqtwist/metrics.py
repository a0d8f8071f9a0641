"""
What is counted.  One object holds every metric; whoever counts is given it.

Label values are few and never come from a node.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)


SUMMED_GAUGES = frozenset({"osqtwist_connections", "osqtwist_parked_reads", "osqtwist_store_connections_down"})
"""Gauges of which each worker has its share.  The others are set by one process, or say the same in each."""


class Metrics:
    """
    Every metric of one process, in a registry of its own.

    The figures that live in the store (nodes online, bytes in the log buffer) are set when ``/metrics`` is read.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "osqtwist_requests", "Requests of nodes, by route and outcome.", ["route", "outcome"], registry=registry
        )
        self.request_seconds = Histogram(
            "osqtwist_request_seconds",
            "Seconds from a whole request to its answer, by route; distributed reads without their hold.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.request_bytes = Counter(
            "osqtwist_request_body_bytes", "Bytes of request bodies as they came.", ["route"], registry=registry
        )
        self.response_bytes = Counter("osqtwist_response_body_bytes", "Bytes of answers.", ["route"], registry=registry)
        self.connections = Gauge("osqtwist_connections", "Open connections of nodes.", registry=registry)
        self.connections_refused = Counter(
            "osqtwist_connections_refused",
            "Connections closed before the handshake, because their address has as many as it may.",
            registry=registry,
        )
        self.signing_key_requests = Counter(
            "osqtwist_signing_key_requests",
            "Requests with a node key, by the id of the signing key that it was made with.",
            ["key"],
            registry=registry,
        )
        self.reads_crowded = Counter(
            "osqtwist_reads_crowded_out",
            "Held reads answered early, because their node or address had as many as it may.",
            registry=registry,
        )
        self.connections_total = Counter(
            "osqtwist_connections_accepted", "Connections of nodes accepted.", registry=registry
        )
        self.handshakes_failed = Counter(
            "osqtwist_handshakes_failed", "TLS handshakes that failed, timed out included.", registry=registry
        )
        self.deadlines = Counter(
            "osqtwist_connection_deadlines", "Connections ended by a deadline, by phase.", ["phase"], registry=registry
        )
        self.enrolled = Counter("osqtwist_enrollments", "Enrollments.", ["proof"], registry=registry)
        self.refused = Counter(
            "osqtwist_refusals",
            "Requests refused because of who asks or what, by reason.",
            ["reason"],
            registry=registry,
        )
        self.configs = Counter(
            "osqtwist_configs", "Configs answered; etag 'ok' means the node had it.", ["etag"], registry=registry
        )
        self._count_readings(registry)
        self.store = StoreMetrics(registry)
        self.rollout_percent = Gauge(
            "osqtwist_rollout_percent",
            "Share of nodes that the version of the configuration that is tried is for, 0 if none is.",
            registry=registry,
        )
        self.rollout_nodes = Gauge(
            "osqtwist_rollout_nodes",
            "Canaries of the roll-out under way: all that got the version, and those in trouble.",
            ["state"],
            registry=registry,
        )
        self.rollout_changes = Counter(
            "osqtwist_rollout_changes",
            "Changes of which version of the configuration nodes get, as this process made them.",
            ["what"],
            registry=registry,
        )
        self.log_lines = Counter("osqtwist_log_lines", "Log lines stored, by type.", ["log_type"], registry=registry)
        self.log_lines_dead = Counter(
            "osqtwist_log_lines_dead", "Log lines put into the dead-letter stream.", registry=registry
        )
        self.log_batches_repeated = Counter(
            "osqtwist_log_batches_repeated",
            "Log batches that a node sent again though they were stored.",
            registry=registry,
        )
        self.parked_reads = Gauge("osqtwist_parked_reads", "Distributed reads held open now.", registry=registry)
        self.reads_ended = Counter(
            "osqtwist_reads_ended", "Distributed reads, by how they ended.", ["way"], registry=registry
        )
        self.open_queries = Gauge(
            "osqtwist_open_queries", "Distributed queries that nodes are offered.", registry=registry
        )
        self.queries_offered = Counter(
            "osqtwist_queries_offered", "Times a query was given to a node.", registry=registry
        )
        self.query_results = Counter(
            "osqtwist_query_results",
            "Results of distributed queries, by whether they were new.",
            ["new"],
            registry=registry,
        )
        self.carve_bytes = Counter("osqtwist_carve_bytes", "Bytes of carves written.", registry=registry)
        self.carves_completed = Counter("osqtwist_carves_completed", "Carves completed.", registry=registry)
        self.store_failures = Counter(
            "osqtwist_store_failures", "Requests that the store failed, by kind.", ["kind"], registry=registry
        )
        self.incidents = Counter(
            "osqtwist_incidents", "Unexpected errors, each with an id in the log.", registry=registry
        )
        self.log_buffer_bytes = Gauge("osqtwist_log_buffer_bytes", "Bytes in the log buffer.", registry=registry)
        self.log_buffer_budget_bytes = Gauge(
            "osqtwist_log_buffer_budget_bytes", "Byte budget of the log buffer, 0 for none.", registry=registry
        )
        self.log_buffer_shut = Gauge(
            "osqtwist_log_buffer_shut",
            "Whether the log buffer takes nothing: 1 from the budget down to the low mark.",
            registry=registry,
        )
        self.alerts = Gauge(
            "osqtwist_alerts",
            "Alerts of each rule: raised, repeated within the window, silenced.",
            ["rule", "outcome"],
            registry=registry,
        )
        self.ease_level = Gauge(
            "osqtwist_ease_level", "How far the habits of nodes are eased for the load's sake.", registry=registry
        )
        self.log_servers_away = Gauge(
            "osqtwist_log_servers_away", "Servers of the log buffer that do not answer.", registry=registry
        )
        self.dead_letters = Gauge("osqtwist_dead_letters", "Entries in the dead-letter stream.", registry=registry)
        self.dead_letters_dropped = Gauge(
            "osqtwist_dead_letters_dropped", "Entries of dead letters that made room for newer ones.", registry=registry
        )
        self.sink_lag_lines = Gauge(
            "osqtwist_sink_lag_lines", "Lines that a sink has not settled, at most.", ["sink"], registry=registry
        )
        self.sink_lag_bytes = Gauge(
            "osqtwist_sink_lag_bytes", "Bytes of batches that a sink has not settled.", ["sink"], registry=registry
        )
        self.sink_lag_seconds = Gauge(
            "osqtwist_sink_lag_seconds",
            "Age of the oldest batch that a sink has not settled.",
            ["sink"],
            registry=registry,
        )
        self.sink_lines = Gauge(
            "osqtwist_sink_lines", "Lines a sink took since its process started.", ["sink"], registry=registry
        )
        self.sink_refused = Gauge(
            "osqtwist_sink_refused_lines",
            "Lines a sink refused for good since its process started.",
            ["sink"],
            registry=registry,
        )
        self.sink_failures = Gauge(
            "osqtwist_sink_failures",
            "Deliveries that failed and were tried again since the sink's process started.",
            ["sink"],
            registry=registry,
        )
        self.sink_dead_letters = Gauge(
            "osqtwist_sink_dead_letters",
            "Entries of lines that a sink refused and that are kept.",
            ["sink"],
            registry=registry,
        )
        self.sink_up = Gauge(
            "osqtwist_sink_up",
            "1 if a delivery process serves the sink and its last delivery succeeded, or it is paused; else 0.",
            ["sink"],
            registry=registry,
        )
        self._count_fleet(registry)
        self._count_processes(registry)

    def _count_processes(self, registry: CollectorRegistry) -> None:
        self.workers = Gauge("osqtwist_workers", "Worker processes that serve nodes now.", registry=registry)
        self.worker_deaths = Counter(
            "osqtwist_worker_deaths", "Worker processes that ended without being asked to.", registry=registry
        )
        self.delivery_deaths = Counter(
            "osqtwist_delivery_deaths",
            "Times that the delivery process ended without being asked to.",
            registry=registry,
        )
        self.not_accepted = Counter(
            "osqtwist_connections_not_accepted",
            "Times that connections were left waiting, for want of file descriptors.",
            registry=registry,
        )
        self.clock_jumps = Counter(
            "osqtwist_clock_jumps", "Times that the clock of this machine was set.", ["direction"], registry=registry
        )
        self.disk_free = Gauge(
            "osqtwist_disk_free_bytes",
            "Bytes that are free where the state folder is, and where carves are.",
            ["folder"],
            registry=registry,
        )
        self.started = Gauge(
            "osqtwist_started_seconds", "Unix time at which the server was started.", registry=registry
        )
        self.store_up = Gauge("osqtwist_store_up", "Whether the store answers: 1 or 0.", registry=registry)
        self.certificate_expiry = Gauge(
            "osqtwist_server_certificate_expiry_seconds",
            "Unix time at which the server certificate ends.",
            registry=registry,
        )

    def _count_readings(self, registry: CollectorRegistry) -> None:
        self.config_reloads = Counter(
            "osqtwist_config_reloads", "Readings of the config folder, by result.", ["result"], registry=registry
        )
        self.certificates = CertificateMetrics(registry)
        # There from the start: of a series that begins with its first bad reading Prometheus sees no increase.
        for each in (self.config_reloads, self.certificates.reloads):
            each.labels(result="bad")

    def _count_fleet(self, registry: CollectorRegistry) -> None:
        self.node_certificates = Gauge(
            "osqtwist_node_certificates",
            "Nodes by when their newest certificate ends: expired, within 7 days, within 30 days, later.",
            ["ends"],
            registry=registry,
        )
        self.node_issuers = Gauge(
            "osqtwist_node_issuers",
            "Nodes by the issuer of their newest certificate; beyond the 20 of most nodes, other.",
            ["issuer"],
            registry=registry,
        )
        self.nodes_renewed = Gauge(
            "osqtwist_nodes_renewed", "Nodes that came with another certificate in the last 7 days.", registry=registry
        )
        self.nodes_online = Gauge("osqtwist_nodes_online", "Nodes seen in the last minute.", registry=registry)
        self.nodes_known = Gauge("osqtwist_nodes", "Nodes ever seen and not forgotten.", registry=registry)
        self.nodes_pending = Gauge(
            "osqtwist_nodes_pending", "New nodes that wait for an operator's approval.", registry=registry
        )
        self.node_clones = Gauge(
            "osqtwist_node_clones",
            "Pairs of machines that one name, key or certificate stood for in the last day.",
            registry=registry,
        )


class CertificateMetrics:
    """What is counted of certificates: their files, revocation lists, the deny list, OCSP."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reloads = Counter(
            "osqtwist_certificate_reloads", "Readings of certificate, CA and CRL files.", ["result"], registry=registry
        )
        self.crl_seconds_left = Gauge(
            "osqtwist_crl_seconds_left",
            "Seconds until the next update of a revocation list, negative once it is late, by issuer.",
            ["issuer"],
            registry=registry,
        )
        self.denials = Gauge("osqtwist_denials", "Denials of certificates in force.", registry=registry)
        self.put_out = Counter(
            "osqtwist_connections_put_out",
            "Open connections ended because whose they are is refused from then on.",
            registry=registry,
        )
        self.ocsp_answers = Counter(
            "osqtwist_ocsp_answers",
            "What OCSP responders said of a certificate: good, revoked, unknown, or nothing that counts.",
            ["answer"],
            registry=registry,
        )
        self.ocsp_unchecked = Counter(
            "osqtwist_ocsp_unchecked",
            "Requests with a certificate of which nobody says whether it is good, by what became of them.",
            ["result"],
            registry=registry,
        )


class StoreMetrics:
    """What is counted of connections to the store, by the server that they are to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connections_down = Gauge(
            "osqtwist_store_connections_down",
            "Connections to a server of the store that processes want and do not have: calls fail at once.",
            ["server"],
            registry=registry,
        )
        self.timeouts = Counter(
            "osqtwist_store_timeouts",
            "Calls that a server of the store did not answer in time.",
            ["server"],
            registry=registry,
        )
        self.losses = Counter(
            "osqtwist_store_losses",
            "Times that the store came back without its data; who was refused was put back.",
            registry=registry,
        )
        self.calls_refused = Counter(
            "osqtwist_store_calls_refused",
            "Calls that were not even made: away, on trial after one that was not answered in time, or too many.",
            ["server", "why"],
            registry=registry,
        )
