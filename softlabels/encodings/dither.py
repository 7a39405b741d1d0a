"""Dither: offsets of rounding that the reader of a label knows, so that the student can be rounded like its teacher.

A probability p is stored as a number of steps n = floor(p / step + u), whose mean over u from [0, 1) is p / step. The
offset u of class v in the item with offset b is frac(b + v F), F = 0x9E3779B9 / 2^32, the golden ratio in 32 bits (a
Kronecker sequence). b is a scrambled radical inverse of a counter (``softlabels.rng.counters``). So a row draws about
as many classes as the next one, and a class is drawn about as often in any 256 successive counters, and among every
second or tenth of them. Both are known after decoding, which makes a control variate: see
``softlabels.losses.coupling``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softlabels.lru import LruCache

if TYPE_CHECKING:
    from torch import Tensor

DITHER = "dither"
"""Column of the offset of each item."""
GOLDEN = 0x9E3779B9
"""2^32 over the golden ratio."""
TURN = 2.0**31
"""Number of parts of an offset that ``scaled_thresholds`` tells apart."""
DIGIT = np.uint8(159)
"""Factor of the digits of counters, an odd number near 256 over the golden ratio."""

_STEPS: LruCache[tuple[int, str], Tensor] = LruCache(8)


class Draws(NamedTuple):
    """Classes that are drawn, by row and class: row, class and number of draws of each, (n,)."""

    row: NDArray[np.int64]
    ids: NDArray[np.int64]
    counts: NDArray[np.int64]


def offsets_of(counters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the offset of each counter: its four bytes in reverse order, each times 159 modulo 256.

    The highest byte takes each value once in 256 successive counters. Their multiples of the golden ratio are spread
    evenly also among every second, fourth or tenth counter, which the plain digits are not: those of even counters
    would all be in one half. The bytes take few to store, since the highest has a period of 256, and the next ones
    change every 256 or 65,536 counters.

    Example:
        >>> import numpy as np
        >>> (offsets_of(np.arange(4, dtype=np.uint32)) / 2**32).round(2).tolist()
        [0.0, 0.62, 0.24, 0.86]

    Args:
        counters: (B,) uint32.
    """
    digits = counters.astype("<u4").view(np.uint8) * DIGIT
    return digits.view(">u4").astype(np.uint32)


def class_offsets(offsets: NDArray[np.uint32], ids: NDArray[np.integer]) -> NDArray[np.uint32]:
    """Return 2^32 u of classes, (n,).

    Example:
        >>> import numpy as np
        >>> (class_offsets(np.array([2**31], np.uint32), np.arange(2)) / 2**32).round(3).tolist()
        [0.5, 0.118]

    Args:
        offsets: (n,) uint32, offsets of the items that the classes belong to.
        ids: (n,) class ids.
    """
    turned = ids.astype(np.uint32)
    turned *= np.uint32(GOLDEN)  # modulo 2^32
    turned += offsets
    return turned


def scaled_thresholds(offsets: Tensor, classes: int) -> Tensor:
    """Return 2^31 (1 - u) of each item and class, (B, C) float32, to two units modulo 2^31.

    A probability below the step is rounded up from step (1 - u) on.

    Example:
        >>> import torch
        >>> (scaled_thresholds(torch.tensor([0, 2**31]), 1) / 2**31).tolist()
        [[1.0], [0.5]]

    Args:
        offsets: (B,) int64, offsets of the items, 0 to 2^32 - 1.
        classes: Number of classes C.
    """
    import torch

    name = classes, str(offsets.device)
    steps = _STEPS.get(name)
    if steps is None:
        # 2^32 (1 - u) less 1 for the offset 0, without its last bit: 31 bits leave room for the sign of int32.
        parts = 2**32 - 1 - (np.arange(classes, dtype=np.uint64) * np.uint64(GOLDEN)) % np.uint64(2**32)
        steps = torch.from_numpy((parts >> np.uint64(1)).astype(np.int32)).to(offsets.device)
        _STEPS.put(name, steps)
    start = (((2**32 - offsets) % 2**32) >> 1).to(torch.int32)[:, None]
    # int32 wraps, and the mask makes it a sum modulo 2^31.
    return (steps + start).bitwise_and_(2**31 - 1).float()


def draw(
    weights: Tensor, scale: Tensor, counters: NDArray[np.uint32], max_listed: int
) -> tuple[NDArray[np.uint32], Draws]:
    """Draw each class floor(p / step + u) times, and return the offset of each row, (B,), with the draws.

    A row whose offset draws more classes than fit takes the next offset of a Kronecker sequence instead.

    Example:
        >>> import numpy as np, torch
        >>> p, draws = torch.tensor([[0.7, 0.1, 0.2]]), torch.tensor([[4.0]])
        >>> draw(p, draws, np.array([1], np.uint32), 3)[1].counts.tolist()
        [3, 1]

    Args:
        weights: (B, C) float32, what the probabilities are in proportion to.
        scale: (B, 1) float32, p / step of a weight of 1.
        counters: (B,) uint32, counters of the rows (``softlabels.rng.counters``).
        max_listed: Greatest number of classes of a row; about 1 / step are drawn.
    """
    import torch

    from softlabels.encodings.logits import to_numpy, true_places

    offsets, classes = offsets_of(counters), weights.shape[1]
    while True:
        least = scaled_thresholds(torch.from_numpy(offsets.astype(np.int64)).to(weights.device), classes)
        places = true_places(least.addcmul_(weights, scale, value=-TURN) <= 0)
        row, ids = np.divmod(to_numpy(places), classes)
        # Once more in float64, by which no class of weight 0 is drawn.
        steps = to_numpy(weights.reshape(-1)[places]).astype(np.float64) * to_numpy(scale)[row, 0]
        counts = np.floor(steps + class_offsets(offsets[row], ids) / 2**32).astype(np.int64)
        is_drawn = counts > 0
        draws = Draws(row[is_drawn], ids[is_drawn], counts[is_drawn])
        is_crowded = np.bincount(draws.row, minlength=len(offsets)) > max_listed
        if not is_crowded.any():
            return offsets, draws
        offsets[is_crowded] += np.uint32(GOLDEN)
