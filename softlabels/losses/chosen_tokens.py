"""On-policy distillation offline: from the teacher's log-probabilities of the tokens of a text (arXiv 2604.13010)."""

from __future__ import annotations

import torch
from torch import Tensor

from softlabels.errors import InvalidArgument
from softlabels.labels import DenseLabels, SoftLabels
from softlabels.losses.blocks import without_autocast
from softlabels.losses.matching import HardLabels, Mask, reduce, weights_of
from softlabels.losses.registry import loss

HEAD = "chosen"
"""Head that holds the log-probabilities."""


@loss(kinds=("tokens",), hard=True, temperature=False, labels_of=HEAD)
def chosen(
    student_logits: Tensor, labels: SoftLabels, tokens: HardLabels | None = None, *, mask: Mask = None
) -> Tensor:
    """Return half the squared difference of the log-probabilities of the text's own tokens, mean over positions.

    On text that the student wrote, the gradient of this loss is that of the reverse KL: the gradient of
    0.5 (log p - log q)^2 is -(log p - log q) times that of log q, so the difference is the advantage of a policy
    gradient. On other text the loss is still 0 where student and teacher agree on the tokens, but the tokens are those
    of another distribution.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> labels = DenseLabels(np.log([[0.5]]).astype(np.float32), "regression")
        >>> losses.chosen(torch.zeros(1, 2), labels, np.array([1])).item()
        0.0

    Args:
        student_logits: (N, C) logits of any float dtype, reduced in float32.
        labels: Log-probabilities that the teacher gives the tokens, dense labels of shape (N, 1).
        tokens: (N,) ids of the tokens; a position whose id is below 0 is left out.
        mask: N booleans, or weights of 0 or more. None: all positions count.

    Returns:
        A float32 scalar.

    Raises:
        InvalidArgument: There are no tokens, or arguments differ in length.
    """
    if tokens is None or not isinstance(labels, DenseLabels):
        raise InvalidArgument("chosen: needs log-probabilities of tokens and the tokens, got distributions; expected "
                              f"the head {HEAD!r} of a store of text")  # fmt: skip
    with without_autocast(student_logits):
        logits = student_logits.reshape(-1, student_logits.shape[-1])
        ids = torch.as_tensor(tokens, device=logits.device).reshape(-1).long()
        expected = torch.as_tensor(labels.values, device=logits.device).float().reshape(-1)
        if not len(logits) == len(ids) == len(expected):
            raise InvalidArgument(
                f"chosen: got {len(logits)} positions of the student, {len(expected)} log-probabilities and {len(ids)} "
                "tokens; expected equal numbers"
            )
        log_q = logits.gather(1, ids.clamp(min=0)[:, None])[:, 0].float() - torch.logsumexp(logits.float(), dim=-1)
        weights = weights_of(mask, log_q.detach()) * (ids >= 0)
        is_out = weights == 0
        difference = log_q.masked_fill(is_out, 0.0) - expected.masked_fill(is_out, 0.0)
        return reduce(0.5 * difference**2, weights)
