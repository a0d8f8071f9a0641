"""Log posts: admitted, sorted into good lines and dead letters, and kept before they are acknowledged."""

from __future__ import annotations

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from osqtwist.admission import Admission
from osqtwist.authentication import Caller
from osqtwist.canarywatch import CanaryWatch
from osqtwist.logbatch import LogBatch
from osqtwist.loginterfaces import ILogBuffer
from osqtwist.metrics import Metrics
from osqtwist.tagfindings import TagFindings
from osqtwist.targeting import NodeFacts
from osqtwist.wire import LogRequest, begins_with, post_of, sort_lines


@attrs.frozen
class LogIntake:
    """
    Takes log posts into the buffer.

    :ivar max_line_bytes: longer lines go to the dead letters; osquery's own limit is 1 MiB.
    :ivar findings: looks for the results of tag queries.
    :ivar canaries: looks for what is wrong while a new version of the configuration is tried.
    """

    clock: IReactorTime
    buffer: ILogBuffer
    admission: Admission
    metrics: Metrics
    max_line_bytes: int
    findings: TagFindings
    canaries: CanaryWatch

    async def accept(self, caller: Caller, facts: NodeFacts, request: LogRequest, address: str) -> int:
        """
        Keep a post's lines; answers with how many when the store has them.

        Firing is the promise that the node may delete them.

        :raise NotNow: it is not this node's turn; nothing was kept.
        :raise BufferFull: nothing was kept.
        :raise StoreUnavailable: the same, as far as is known; the node sends them again.
        """
        if not request.data:
            return 0
        post = post_of(request)
        batch = self._batch(caller, facts, request, address, post.digest)
        size = batch.size
        self.admission.enter(caller.node_id, size)
        try:
            appended = await self.buffer.append(batch, post)
            while earlier := appended.earlier:
                if begins_with(request, earlier):
                    rest = msgspec.structs.replace(request, data=request.data[earlier.lines :])
                    batch = self._batch(caller, facts, rest, address, post_of(rest).digest)
                appended = await self.buffer.append(batch, msgspec.structs.replace(post, after=earlier.digest))
        finally:
            self.admission.leave(size)
        await self.findings.take(facts, batch.data, request.data)
        if self.canaries.run and request.log_type == "status":
            self.canaries.look(facts, request.data)
        if appended.is_duplicate or batch.lines < post.lines:
            self.metrics.log_batches_repeated.inc()
        if appended.is_duplicate:
            return 0
        if batch.count:
            self.metrics.log_lines.labels(log_type=request.log_type).inc(batch.count)
        self.metrics.log_lines_dead.inc(len(batch.dead))
        return batch.lines

    def _batch(self, caller: Caller, facts: NodeFacts, request: LogRequest, address: str, digest: str) -> LogBatch:
        data, count, dead = sort_lines(request, self.max_line_bytes)
        certificate = caller.certificate
        return LogBatch(
            node_id=caller.node_id,
            node_name=facts.name,
            log_type=request.log_type,
            data=data,
            count=count,
            digest=digest,
            received_at=self.clock.seconds(),
            address=address,
            identity=certificate.value if certificate else "",
            issuer=certificate.issuer if certificate else "",
            serial=certificate.serial if certificate else "",
            tags=tuple(sorted(facts.tags)),
            dead=dead,
        )
