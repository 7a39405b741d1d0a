"""A control variate for dithered labels: the student, rounded by the offsets that its teacher was rounded by.

A label p^_v = s floor(p_v / s + u_v) of step s is right on average over u_v, and noisy: a rare class is drawn once in
many rows. With u_v and a guess of p_v a part of that noise can be predicted, and subtracted. The student is such a
guess, and it gets better as it learns.

Let F(t) be the probability, by the guess, that p_v / s is t or more. Given u_v, a class below the step is then expected
to have the label s F(1 - u_v). So

    g_v(u) = s (F(1 - u) - integral of F from 0 to 1)

has the mean 0 over u for any F, and p^ - g has the mean p. The gradient of the cross-entropy is q - (p^ - g). Its noise
falls with the distance of the student from the teacher. F is a Lomax distribution (Pareto II) of shape 2 and mean m =
q_v / s: F(t) = (m / (m + t))^2, whose integral is m / (1 + m). Its long tail is for students that are far away, whose g
would add noise otherwise. In the loss g is a constant, since it is an estimate of noise, not a function to descend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softlabels.encodings.dither import TURN, scaled_thresholds

if TYPE_CHECKING:
    from softlabels.labels import Dither
    from softlabels.losses.predictions import Predictions


TINY = 1e-30
"""Probability that makes no difference."""
ELEMENTS = 2**18
"""Probabilities that a CPU handles together: what is made of them stays in a core's cache."""


@dataclass(frozen=True)
class Coupling:
    """Offsets of the labels of N rows.

    Attributes:
        step: Step of the probabilities.
        offsets: (N,) int64, see ``softlabels.labels.Dither``.
    """

    step: float
    offsets: Tensor

    @staticmethod
    def of(dither: Dither | None, device: torch.device) -> Coupling | None:
        """Return the offsets of labels on a device; None if there are none.

        Args:
            dither: Offsets of the labels.
            device: Device of the student's logits.
        """
        if dither is None:
            return None
        return Coupling(dither.step, torch.as_tensor(dither.offsets, device=device))

    def rows(self, start: int, stop: int) -> Coupling:
        """Return the offsets of rows ``start`` to ``stop``."""
        return Coupling(self.step, self.offsets[start:stop])

    def expected_noise(self, q: Tensor) -> Tensor:
        """Return g, (n, C) float32: the error of the labels that the student expects, of mean 0 over the offsets.

        Example:
            >>> import torch
            >>> noise = Coupling(0.25, torch.tensor([2**31])).expected_noise(torch.tensor([[0.25, 0.0]]))
            >>> [round(number, 4) for number in noise[0].tolist()]
            [-0.0139, 0.0]

        Args:
            q: (n, C) float32, the student's probabilities.
        """
        # s (m / (m + t))^2 with m = q / s is s (q / (q + s t))^2, 0 where q is, also if t is 0.
        ratio = scaled_thresholds(self.offsets, q.shape[1])
        torch.add(q, ratio, alpha=self.step / TURN, out=ratio).add_(TINY)
        torch.div(q, ratio, out=ratio)
        return ratio.square_().addcdiv_(q, q + self.step, value=-1).mul_(self.step)

    def add_expected_noise(self, student: Predictions) -> Tensor:
        """Add g to the student's probabilities, in place, and return the sum of g log q of each row, (n,).

        The sum is NaN where the student rules a class out.

        Args:
            student: Predictions for the rows.
        """
        rows, classes = student.probs.shape
        size = max(1, ELEMENTS // classes) if student.probs.device.type == "cpu" else max(1, rows)
        sums = torch.empty_like(student.log_sum)
        for start in range(0, rows, size):
            block = slice(start, start + size)
            noise = Coupling(self.step, self.offsets[block]).expected_noise(student.probs[block])
            total = noise.sum(dim=-1)
            sums[block] = torch.linalg.vecdot(noise, student.centered[block]) - student.log_sum[block] * total
            student.probs[block].add_(noise)
        return sums
