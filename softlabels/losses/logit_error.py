"""The squared difference of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from softlabels.labels import SoftLabels, SparseLabels, same_temperature
from softlabels.losses.blocks import Differentiated
from softlabels.losses.matching import Mask, mean_over_rows, refuse_samples
from softlabels.losses.registry import loss
from softlabels.losses.targets import SparseTargets, Targets


@loss(temperature=False)
def logit_mse(student_logits: Tensor, labels: SoftLabels, *, mask: Mask = None) -> Tensor:
    """Return the mean squared difference of logits (Ba and Caruana 2014), mean over rows.

    Each side is taken less its mean over the classes compared, since softmax ignores a constant per row. All classes of
    dense labels are compared, and the listed ones of sparse labels, of whose other classes only the mass is known.
    Classes that the teacher rules out are left out. The loss is infinite if the student rules out another one.

    Example:
        >>> import numpy as np, torch
        >>> from softlabels import losses
        >>> from softlabels.labels import DenseLabels
        >>> losses.logit_mse(torch.tensor([[3.0, 1.0]]), DenseLabels(np.zeros((1, 2), np.float32))).item()
        1.0

    Args:
        student_logits: (..., C) logits of any float dtype.
        labels: Labels of the same rows.
        mask: Weights of the rows, as for ``kl``.

    Raises:
        InvalidArgument: As ``kl``; also for unbiased labels, which hold no logits.
    """
    refuse_samples("the MSE of logits", labels)
    temperature = 1.0
    if isinstance(labels, SparseLabels) and not any(same_temperature(1.0, t) for t in labels.temperatures):
        temperature = labels.temperatures[0]
    return mean_over_rows(
        student_logits, labels, LOGIT_MSE, temperature=temperature, mask=mask, scale_by_temperature=False
    )


def _value(log_q: Tensor, targets: Targets) -> Tensor:
    if isinstance(targets, SparseTargets):
        student, teacher = log_q.gather(1, targets.ids), targets.log_p
    else:
        student, teacher = log_q, targets.log_probs(log_q)
    # NaN on either side is compared, so that it is seen.
    is_compared = ~teacher.isneginf()
    count = is_compared.sum(dim=-1, keepdim=True)
    is_infinite = (is_compared & student.isneginf()).any(dim=-1)
    is_compared = is_compared & ~student.isneginf()
    difference = torch.where(
        is_compared, torch.where(is_compared, student, 0.0) - torch.where(is_compared, teacher, 0.0), 0.0
    )
    centred = torch.where(is_compared, difference - difference.sum(dim=-1, keepdim=True) / count, 0.0)
    return torch.where(is_infinite, torch.inf, (centred**2).sum(dim=-1) / count[:, 0])


LOGIT_MSE = Differentiated(_value)
