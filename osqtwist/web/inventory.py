"""Operations about nodes and their certificates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypedDict

import attrs
import msgspec

from osqtwist.certificateradar import IssuerRow, NodeCertificateRow
from osqtwist.clones import CloneRow, clone_row
from osqtwist.inventory import Inventory, NodeConfig, NodeForgotten, NodePage, NodeRevoked, NodeTags
from osqtwist.node import TAG_PATTERN
from osqtwist.nodechanges import LONGEST_NOTE, NodeChanges, NodeNoted, NodeRekeyed, NodesMerged
from osqtwist.noderow import NodeStory
from osqtwist.operator import Role
from osqtwist.targeting import Target
from osqtwist.web.operations import Call, Limit, Offset, Operation

_Days = Annotated[int, msgspec.Meta(ge=0, le=36500, description="days from now")]

_Tag = Annotated[str, msgspec.Meta(pattern=f"^{TAG_PATTERN.pattern}$")]


class NodesWanted(msgspec.Struct, forbid_unknown_fields=True):
    """Which nodes to list: those heard of in the last minute, those of an expression."""

    online: bool = False
    where: str = ""
    limit: Limit = 100
    offset: Offset = 0


class CertificatesWanted(msgspec.Struct, forbid_unknown_fields=True):
    """Certificates that end so soon."""

    within: _Days = 30
    limit: Limit = 100


class RenewedWanted(msgspec.Struct, forbid_unknown_fields=True):
    """Certificates that are so new."""

    within: Annotated[int, msgspec.Meta(ge=0, le=36500, description="days until now")] = 7
    limit: Limit = 100


class RevokeOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Why a node is refused."""

    reason: Annotated[str, msgspec.Meta(max_length=500)] = ""


class TagOrder(msgspec.Struct, forbid_unknown_fields=True):
    """A change of tags; what is in both is removed."""

    add: tuple[_Tag, ...] = ()
    remove: tuple[_Tag, ...] = ()


class MergeOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Which node goes on; ``force``: also if the other was heard of in the last minute."""

    into: str
    force: bool = False


class NoteOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What to remember of a node."""

    note: Annotated[str, msgspec.Meta(max_length=LONGEST_NOTE)]


class FoundClones(TypedDict):
    """Clones, the newest first."""

    clones: list[CloneRow]


class FoundCertificates(TypedDict):
    """Certificates that nodes showed last."""

    certificates: list[NodeCertificateRow]


class FoundIssuers(TypedDict):
    """Issuers, that of the most nodes first."""

    issuers: list[IssuerRow]


@attrs.frozen
class NodeOperations:
    """Nodes: looked up, tagged, revoked, merged, forgotten."""

    inventory: Inventory
    changes: NodeChanges

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        node = "/api/v1/nodes/{node}"
        return (
            Operation("GET", "/api/v1/nodes", self.nodes, Role.VIEWER, query=NodesWanted),
            Operation("GET", node, self.node, Role.VIEWER),
            Operation("GET", f"{node}/config", self.node_config, Role.VIEWER),
            Operation("POST", f"{node}/revoke", self.revoke, Role.OPERATOR, body=RevokeOrder),
            Operation("POST", f"{node}/restore", self.restore, Role.OPERATOR),
            Operation("POST", f"{node}/tags", self.tag, Role.OPERATOR, body=TagOrder),
            Operation("POST", f"{node}/note", self.annotate, Role.OPERATOR, body=NoteOrder),
            Operation("POST", f"{node}/rekey", self.rekey, Role.OPERATOR),
            Operation("POST", f"{node}/merge", self.merge, Role.ADMIN, body=MergeOrder),
            Operation("POST", f"{node}/forget", self.forget, Role.ADMIN),
            Operation("GET", "/api/v1/clones", self.clones, Role.VIEWER),
            Operation("GET", "/api/v1/certificates", self.certificates, Role.VIEWER, query=CertificatesWanted),
            Operation("GET", "/api/v1/certificates/renewed", self.renewed, Role.VIEWER, query=RenewedWanted),
            Operation("GET", "/api/v1/certificates/issuers", self.issuers, Role.VIEWER),
        )

    async def nodes(self, call: Call) -> NodePage:
        """Nodes, the one heard of last first; a page that few match may be short, or empty, and not the last."""
        wanted: NodesWanted = call.query
        return await self.inventory.nodes(wanted.offset, wanted.limit, wanted.online, Target(where=wanted.where))

    async def node(self, call: Call) -> NodeStory:
        """One node, by id, name or host identifier."""
        return await self.inventory.node(call.path["node"])

    async def node_config(self, call: Call) -> NodeConfig:
        """Its config, the layers it is made of, and why of these: what of each target decided."""
        return await self.inventory.config_of(call.path["node"])

    async def revoke(self, call: Call) -> NodeRevoked:
        """Refuse the node from now on."""
        return await self.inventory.revoke(call.path["node"], call.body.reason)

    async def restore(self, call: Call) -> NodeRevoked:
        """Take that back."""
        return await self.inventory.restore(call.path["node"])

    async def tag(self, call: Call) -> NodeTags:
        """Give the node tags, take some away: `{"add": [...], "remove": [...]}`."""
        return await self.inventory.tag(call.path["node"], call.body.add, call.body.remove)

    async def annotate(self, call: Call) -> NodeNoted:
        """Replace the note of the node."""
        return await self.changes.annotate(call.path["node"], call.body.note)

    async def rekey(self, call: Call) -> NodeRekeyed:
        """Refuse the keys that the node has: who uses one enrolls again."""
        return await self.changes.rekey(call.path["node"])

    async def merge(self, call: Call) -> NodesMerged:
        """Have another node take over from this one, whose keys are refused from now on: `{"into": NODE}`."""
        return await self.changes.merge(call.path["node"], call.body.into, call.body.force)

    async def clones(self, call: Call) -> FoundClones:
        """Machines that share a host identifier, a key or a certificate, the newest first."""
        return {"clones": [clone_row(each) for each in self.inventory.clones.found()]}

    async def forget(self, call: Call) -> NodeForgotten:
        """Keep nothing of the node any more."""
        return await self.inventory.forget(call.path["node"])

    async def certificates(self, call: Call) -> FoundCertificates:
        """Certificates of nodes that end `within` so many days, or have ended: the first to end first."""
        return {"certificates": await self.inventory.certificates.ending(call.query.within, call.query.limit)}

    async def renewed(self, call: Call) -> FoundCertificates:
        """Nodes that came with another certificate in the last so many days, and the one that each had before."""
        return {"certificates": await self.inventory.certificates.renewed(call.query.within, call.query.limit)}

    async def issuers(self, call: Call) -> FoundIssuers:
        """Who issued the certificates that nodes showed last, and to how many nodes."""
        return {"issuers": await self.inventory.certificates.issuers()}
