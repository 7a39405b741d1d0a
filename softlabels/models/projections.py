"""Linear layers from features to the heads of a built-in network."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from softlabels.errors import InvalidArgument
from softlabels.models.heads import OutputHead


class Projections(nn.Module):
    """One linear layer per head.

    Args:
        features: Width of the features.
        heads: Outputs to compute.

    Raises:
        InvalidArgument: There is no head, or a head has ragged rows.
    """

    def __init__(self, features: int, heads: Mapping[str, OutputHead]) -> None:
        super().__init__()
        if not heads:
            raise InvalidArgument("network: there are no heads; expected one at least")
        for name, head in heads.items():
            if head.ragged:
                raise InvalidArgument(
                    f"network: head {name!r} has ragged rows; expected a fixed shape. Text needs gpt: or hf:PATH"
                )
        self._heads = dict(heads)
        # By number: names of heads may contain dots, names of modules may not.
        self.layers = nn.ModuleList(nn.Linear(features, math.prod(_sides(head))) for head in heads.values())

    def forward(self, features: Tensor) -> Tensor | dict[str, Tensor]:
        """Return (B, *shape, C): the tensor itself for one head, by name for several.

        Args:
            features: (B, features) float32.
        """
        outputs = {
            name: layer(features).unflatten(1, _sides(head))
            for (name, head), layer in zip(self._heads.items(), self.layers, strict=True)
        }
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def _sides(head: OutputHead) -> tuple[int, ...]:
    return (*[side for side in head.shape if side is not None], head.classes)
