"""Standardisation of inputs, as the first layer of the built-in networks.

Preprocessing travels with the weights: the mean and the standard deviation of the training data are buffers, and the
digest covers them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CONSTANT = 1e-6
"""Standard deviations below this share of the mean are rounding errors of a constant feature."""


def statistics_shape(input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the mean and the standard deviation for inputs of ``input_shape``.

    Columns of a table and channels of an image have a mean each; a number and a grey image (H, W) have one.

    Args:
        input_shape: Shape of one input.

    Example:
        >>> statistics_shape((4,)), statistics_shape((8, 8)), statistics_shape((32, 32, 3))
        ((4,), (), (3,))
    """
    return () if len(input_shape) in {0, 2} else input_shape[-1:]


@dataclass(frozen=True)
class InputStatistics:
    """Mean and standard deviation of training inputs.

    Attributes:
        mean: Means, a float64 array of shape ``statistics_shape(input_shape)``.
        std: Array of the same shape; 1 for constant features.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, inputs: NDArray[np.generic]) -> InputStatistics:
        """Return the statistics of a sample of inputs.

        Args:
            inputs: (n, *input_shape) inputs of any numeric dtype.

        Example:
            >>> InputStatistics.of(np.array([[0.0, 100.0], [2.0, 300.0]])).mean.tolist()
            [1.0, 200.0]
        """
        values = inputs.astype(np.float64)
        axes = tuple(range(values.ndim - len(statistics_shape(inputs.shape[1:]))))
        mean, std = np.asarray(values.mean(axis=axes)), np.asarray(values.std(axis=axes))
        return cls(mean, np.where(std > CONSTANT * np.abs(mean), std, 1.0))


class Standardize(nn.Module):
    """Layer that computes (inputs - mean) / std in float32.

    Args:
        input_shape: Shape of one input; see ``statistics_shape`` for what has a mean of its own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, input_shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(statistics_shape(input_shape)))
        self.register_buffer("std", torch.ones(statistics_shape(input_shape)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return standardised float32 inputs.

        Args:
            inputs: (B, *input_shape) of any numeric dtype.
        """
        return (inputs.float() - self.mean) / self.std


def set_statistics(module: nn.Module, statistics: InputStatistics) -> None:
    """Set the statistics of every Standardize layer of a network.

    Args:
        module: Network to change.
        statistics: Mean and standard deviation of its training inputs.
    """
    for layer in module.modules():
        if isinstance(layer, Standardize):
            layer.mean.copy_(torch.from_numpy(np.asarray(statistics.mean)))
            layer.std.copy_(torch.from_numpy(np.asarray(statistics.std)))
