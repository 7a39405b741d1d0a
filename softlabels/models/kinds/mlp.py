"""``mlp``: a multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from softlabels.models.heads import OutputHead
from softlabels.models.kind import Kind, ModelSpec, Option
from softlabels.models.projections import Projections
from softlabels.models.standardize import Standardize


class MLP(nn.Module):
    """Fully connected layers with GELU.

    Args:
        input_shape: Shape of one input; it is flattened.
        heads: Outputs to compute.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
    """

    def __init__(
        self, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead], *, width: int, depth: int
    ) -> None:
        super().__init__()
        self.standardize = Standardize(input_shape)
        sizes = [math.prod(input_shape), *[width] * depth]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.heads = Projections(sizes[-1], heads)

    def forward(self, inputs: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the outputs: a tensor for one head, a dictionary for several.

        Args:
            inputs: (B, *input_shape) of any numeric dtype.
        """
        outputs: Tensor | dict[str, Tensor] = self.heads(self.layers(self.standardize(inputs).flatten(1)))
        return outputs


def build(spec: ModelSpec, input_shape: tuple[int, ...], heads: Mapping[str, OutputHead]) -> nn.Module:
    """Return a freshly initialised network."""
    return MLP(input_shape, heads, width=int(spec.options["width"]), depth=int(spec.options["depth"]))


KIND = Kind(
    name="mlp",
    form="mlp:width=128,depth=2",
    options={"width": Option(default=128), "depth": Option(default=2, maximum=256)},
    build=build,
)
