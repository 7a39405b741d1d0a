"""Outputs per pixel at the lower resolution of downsampled labels.

A head with ``downsample`` n stores the mean distribution of each square of n x n pixels of the teacher. The outputs of
a student are reduced in the same way before they are compared.
"""

from __future__ import annotations

import math

from torch import Tensor

from softlabels.errors import InvalidArgument
from softlabels.labels import DISTRIBUTIONS, DenseLabels, HeadKind, SoftLabels


def pool(outputs: Tensor, side: int, kind: HeadKind = "pixels") -> Tensor:
    """Return outputs at a lower resolution: the mean of each square of ``side`` x ``side`` pixels.

    The mean of distributions is that of their probabilities at T = 1; its logits are their logarithms.

    Example:
        >>> import torch
        >>> pool(torch.tensor([[4.0, 0.0], [0.0, 4.0]]).reshape(1, 1, 2, 2).repeat(1, 2, 1, 1), 2).exp().tolist()
        [[[[0.5, 0.5]]]]

    Args:
        outputs: (B, H, W, C) outputs of any float dtype.
        side: Height and width of a square in pixels; divides H and W.
        kind: Kind of the head: logits, or numbers.

    Returns:
        (B, H / side, W / side, C) float32 log-probabilities, or numbers.

    Raises:
        InvalidArgument: There are no pixels, or the squares do not fill the image.
    """
    if side == 1:
        return outputs
    if outputs.ndim != 4 or outputs.shape[1] % side or outputs.shape[2] % side:
        raise InvalidArgument(
            f"downsample: {side} does not divide the image, got outputs of shape {tuple(outputs.shape)}; expected "
            f"(B, H, W, C) with H and W multiples of {side}"
        )
    is_distribution = kind in DISTRIBUTIONS
    values = outputs.float().log_softmax(dim=-1) if is_distribution else outputs.float()
    batch, height, width, classes = values.shape
    squares = values.reshape(batch, height // side, side, width // side, side, classes)
    if not is_distribution:
        return squares.mean(dim=(2, 4))
    return squares.logsumexp(dim=(2, 4)) - 2 * math.log(side)


def pool_like(outputs: Tensor, labels: SoftLabels) -> Tensor:
    """Return outputs at the resolution of labels, if they are labels of pixels at a fraction of it.

    Args:
        outputs: Outputs of a head for a batch.
        labels: Labels of the batch.
    """
    if isinstance(labels, DenseLabels):
        shape, kind = tuple(labels.values.shape[1:-1]), labels.kind
    else:
        shape, kind = labels.shape, "pixels"
    if len(shape) != 2 or outputs.ndim != 4:
        return outputs
    side = outputs.shape[1] // shape[0]
    is_fraction = side > 1 and tuple(outputs.shape[1:3]) == (shape[0] * side, shape[1] * side)
    return pool(outputs, side, kind) if is_fraction else outputs
