"""What every process has that serves nodes: made of the files that the settings name, for one process or many."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import IService
from twisted.logger import Logger

from osqtwist.announcement import SAMPLE_CONFIG
from osqtwist.assembly import Parts, assemble, node_site
from osqtwist.configfolder import ConfigFolder
from osqtwist.enrollsecret import EnrollSecrets, parse_enroll_secrets
from osqtwist.front import NodePorts
from osqtwist.identity import IdentityCache
from osqtwist.identityrules import read_identity_rules
from osqtwist.interfaces import IStores
from osqtwist.metrics import Metrics
from osqtwist.namedpeers import NamedPeers
from osqtwist.nodekey import NodeKeys, render_signing_keys
from osqtwist.passedcertificates import ProxiedIdentities, Verification
from osqtwist.ports import BoundPort
from osqtwist.reloading import SecretsFile
from osqtwist.rolloutfollowing import RolloutFollower
from osqtwist.settings import BadSetting, Settings
from osqtwist.signingkeys import SigningKeysFile
from osqtwist.statefolder import CARVES, SIGNING_KEYS, StateFolder
from osqtwist.storage.redis_url import RedisPlace
from osqtwist.storing import server_stores
from osqtwist.tls import CredentialWatch, LoadedTLS, PeerIdentities, ReloadingServerTLS
from osqtwist.tlsfiles import TLSFiles
from osqtwist.tracing import Traces
from osqtwist.web.eviction import Eviction
from osqtwist.workers import GoodFiles

_log = Logger()


@attrs.frozen
class NodeSide:
    """
    What every process has that serves nodes.

    :ivar follower: has the configuration follow roll-outs; it must begin before nodes are served.
    :ivar proxied: who nodes behind proxies are, where proxies may say so.
    :ivar watches: what looks for changed files, :attr:`reloads` what reads them again at once.
    """

    stores: IStores
    parts: Parts
    tls: ReloadingServerTLS
    configuration: ConfigFolder
    follower: RolloutFollower
    signing_keys: SigningKeysFile
    watches: list[IService]
    reloads: list[Callable[[], object]]
    secrets: SecretsFile | None
    proxied: ProxiedIdentities | None = None

    @classmethod
    def of(
        cls,
        reactor: Any,
        settings: Settings,
        state: StateFolder,
        place: RedisPlace,
        secret_path: Path | None,
        metrics: Metrics,
        traces: Traces,
        serves_nodes: bool,
        spare: GoodFiles = GoodFiles(),
    ) -> NodeSide:
        """
        Read every file that the settings name.

        :param serves_nodes: whether this process does, or others of it do.
        :param spare: what to go by where a file cannot be used.

        :raise BadSetting: and the others of :data:`osqtwist.launch.EXPECTED`.
        """
        tls = ReloadingServerTLS(
            _tls_files(settings),
            lambda ok, loaded: count_reload(metrics, ok, loaded),
            spare={Path(path): content for path, content in spare.tls.items()},
        )
        secrets, secrets_file = EnrollSecrets(), None
        if secret_path:
            text = _read_secrets(secret_path, spare.secrets)
            secrets.of_file = parse_enroll_secrets(text)
            secrets_file = SecretsFile(reactor, secret_path, secrets, text)
        if settings.client_auth == "none" and not secrets.of_file:
            _log.warn("--client-auth is none and there is no --enroll-secret-path: osqtwist secret add lets nodes in")
        folder = ConfigFolder(
            reactor,
            Path(settings.config).absolute() if settings.config else SAMPLE_CONFIG,
            lambda ok: metrics.config_reloads.labels(result=_word(ok)).inc(),
            spare.config,
        )
        stores = traces.stores(server_stores(reactor, settings, place, metrics.store))
        node_keys = NodeKeys(state.signing_keys(spare.signing_keys))
        keys_file = SigningKeysFile(reactor, state.path / SIGNING_KEYS, state, node_keys)
        identities, proxied = _identities(settings, tls)
        parts = assemble(
            reactor,
            settings,
            stores,
            folder.configuration,
            proxied or identities,
            secrets,
            node_keys,
            state.path / CARVES,
            metrics,
            process=f"{socket.gethostname()}/{os.getpid()}" if serves_nodes else "",
            traces=traces,
        )
        follower = RolloutFollower(reactor, stores, folder, parts.api.canaries, metrics)
        watches: list[IService] = [folder, follower, keys_file, CredentialWatch(reactor, tls)]
        reloads: list[Callable[[], object]] = [lambda: tls.reload("SIGHUP"), folder.reload, keys_file.reload]
        if secrets_file:
            watches.append(secrets_file)
            reloads.append(secrets_file.reload)
        return cls(stores, parts, tls, folder, follower, keys_file, watches, reloads, secrets_file, proxied)

    def good_files(self) -> GoodFiles:
        """What was in the files when it was last good."""
        return GoodFiles(
            {str(path): content for path, content in self.tls.good.items()},
            dict(self.configuration.good),
            self.secrets.good if self.secrets else "",
            render_signing_keys(self.parts.api.authentication.node_keys.signing_keys),
        )

    def front(self, reactor: Any, settings: Settings, ports: list[BoundPort]) -> NodePorts:
        """Serve nodes on these ports, in this process."""
        api, prefixes = self.parts.api, settings.route_prefix
        api.distributed.queued = lambda: sum(port.queued for port in ports)
        site = node_site(reactor, settings, api.app(prefixes).resource(), api.metrics, api.endpoints(prefixes))
        proxied = self.proxied
        if proxied:
            site.arriving = proxied.arrive
        Eviction(site, api, self.tls, proxied.verification if proxied else None).begin()
        peers, passing = proxied.peers if proxied else NamedPeers(), NamedPeers.parse(settings.proxy_protocol)
        site.proxies = peers.and_those_of(passing)
        return NodePorts(reactor, ports, site, self.tls, peers, passing)


def _identities(settings: Settings, tls: ReloadingServerTLS) -> tuple[PeerIdentities, ProxiedIdentities | None]:
    """Who is who on connections of nodes, and on those of proxies, if any may speak for nodes."""
    direct = PeerIdentities(IdentityCache(read_identity_rules(settings.identity), settings.certificate_tags))
    proxy = settings.trusted_proxy
    if proxy is None:
        return direct, None
    is_required = settings.client_auth == "required"
    peers = NamedPeers.parse(proxy.peers)
    return direct, ProxiedIdentities(direct, Verification(tls), proxy, peers, is_required)


def _tls_files(settings: Settings) -> TLSFiles:
    def path(text: str) -> Path | None:
        return Path(text).absolute() if text else None

    return TLSFiles(
        cert=path(settings.cert),
        key=path(settings.key),
        client_ca=path(settings.client_ca),
        client_crl=path(settings.client_crl),
        client_auth=settings.client_auth,
        stale_crl=settings.stale_crl,
    )


def count_reload(metrics: Metrics, is_good: bool, loaded: LoadedTLS) -> None:
    metrics.certificates.reloads.labels(result=_word(is_good)).inc()
    if loaded.not_after < math.inf:
        metrics.certificate_expiry.set(loaded.not_after)
    metrics.certificates.crl_seconds_left.clear()
    for each in loaded.lists.lists:
        metrics.certificates.crl_seconds_left.labels(issuer=each.issuer).set_function(
            partial(_seconds_to, each.next_update)
        )


def _seconds_to(moment: float) -> float:
    return moment - time.time()


def _word(is_good: bool) -> str:
    return "good" if is_good else "bad"


def _read_secrets(path: Path, spare: str) -> str:
    """The text of the secrets' file, if they can be read in it; else the spare one."""
    try:
        text = path.read_text("utf-8")
        parse_enroll_secrets(text)
    except (OSError, ValueError) as problem:
        trouble = problem.strerror if isinstance(problem, OSError) else problem
        if not spare:
            raise BadSetting(f"--enroll-secret-path {path}: {trouble}") from None
        _log.error("enroll secrets stay as they were: {path}: {trouble}", path=str(path), trouble=trouble)
        return spare
    return text
