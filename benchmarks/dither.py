"""Measure the noise that is left in the gradient when a student predicts the draws of its labels.

    python benchmarks/dither.py [--teacher flat sharp] [--draws 6]     # a minute of one core each

A student of benchmarks/students.py learns from the live teacher. After some steps the teacher's distributions are drawn
with offsets, and the noise E ||p^ - g - p||^2 is compared with that of labels alone, E ||p^ - p||^2, for guesses g by
several distributions of p around the student (docs/fidelity.md, eq. 8).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import language_model
import numpy as np
import students
import torch
from student_model import Adam, StudentGPT, gradient, logits_of
from torch import Tensor

from softlabels import losses
from softlabels.encodings.dither import TURN, offsets_of, scaled_thresholds
from softlabels.labels import DenseLabels, Dither
from softlabels.losses.coupling import Coupling

MEASURED = (60, 120, 240)
"""Numbers of steps after which the student is measured."""


def rounded(m: Tensor, t: Tensor) -> Tensor:
    """Return the error if p is just q: the student is rounded as the teacher."""
    return torch.floor(m + 1 - t) - m


def lognormal(deviation: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the expected error by a lognormal distribution of p with the mean q."""
    half = deviation**2 / 2

    def noise(m: Tensor, t: Tensor) -> Tensor:
        log_m = m.clamp_min(1e-30).log()
        chance = torch.special.ndtr((log_m - half - t.log()) / deviation)
        below = torch.special.ndtr((log_m - half) / deviation)
        return chance - m * torch.special.ndtr((-log_m - half) / deviation) - below

    return noise


GUESSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "p = q": rounded,
    "lognormal 0.5": lognormal(0.5),
    "lognormal 0.8": lognormal(0.8),
    "lognormal 1.2": lognormal(1.2),
}


def main() -> None:
    """Train a student, and print its distance and what is left of the noise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", choices=list(students.SHARPNESS), nargs="*", default=list(students.SHARPNESS))
    parser.add_argument("--draws", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.teacher:
        setup = students.Setup(name)
        teacher = students.teacher_of(setup)
        torch.manual_seed(0)
        model = StudentGPT()
        optimizer = Adam(model)
        order = np.random.default_rng(0).permutation(setup.steps)
        for step, number in enumerate(order):
            rows = np.arange(number * setup.batch, (number + 1) * setup.batch)
            logits = logits_of(model, torch.from_numpy(teacher.data[rows]))
            of_teacher = teacher.of(rows).flatten(0, 1)
            if step + 1 in MEASURED:
                print(
                    name, step + 1, report(of_teacher.softmax(-1), logits.detach().float().softmax(-1), options.draws)
                )
            one = gradient(losses.kl(logits, DenseLabels(of_teacher.numpy())), model)
            optimizer.step(one, one, language_model.learning_rate(step, len(order), setup.lr, students.WARM_UP))


def report(p: Tensor, q: Tensor, draws: int) -> str:
    """Return the KL of a student and the share of the noise that each guess leaves."""
    step, offsets = 1 / draws, torch.from_numpy(offsets_of(np.arange(len(p), dtype=np.uint32)).astype(np.int64))
    t = (scaled_thresholds(offsets, p.shape[1]) / TURN).clamp_min(1 / TURN)
    labels = torch.floor(p / step + 1 - t) * step
    alone = (labels - p).square().sum(-1).mean()
    variates = {"eq. 8": Coupling.of(Dither(step, offsets.numpy()), p.device).expected_noise(q)}  # type: ignore[union-attr]
    variates |= {name: step * guess(q / step, t) for name, guess in GUESSES.items()}
    shares = ", ".join(f"{name} {(labels - g - p).square().sum(-1).mean() / alone:.2f}" for name, g in variates.items())
    kl = (p * (p.clamp_min(1e-30).log() - q.clamp_min(1e-30).log())).sum(-1).mean()
    return f"steps: KL {kl:.2f}, noise of labels {alone:.4f}; left by {shares}"


if __name__ == "__main__":
    main()
