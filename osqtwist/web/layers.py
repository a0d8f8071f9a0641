"""Operations about the configuration that is served."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from osqtwist.layerview import LayerView, ServedLayers
from osqtwist.operator import Role
from osqtwist.web.operations import Call, Operation


@attrs.frozen
class LayerOperations:
    """Layers: what each says and whom it is for."""

    view: LayerView

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        return (Operation("GET", "/api/v1/config/layers", self.layers, Role.VIEWER),)

    async def layers(self, call: Call) -> ServedLayers:
        """The layers in force, in their order: whom each is for, what it says, how many nodes get it."""
        return await self.view.rows()
