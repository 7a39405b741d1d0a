"""The control variate of dithered labels: nothing on average, and less noise the better the student."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softlabels import encodings, losses
from softlabels.encodings import Codebook
from softlabels.labels import Dither, Head
from softlabels.losses.coupling import Coupling

CLASSES, DRAWS = 40, 8
EVENLY = torch.arange(0, 2**32, 2**20, dtype=torch.int64)
"""4,096 offsets; of each class they make thresholds that are as far apart."""


@given(draws=st.integers(1, 255), q=st.floats(1e-9, 1.0))
def test_the_expected_error_has_the_mean_0_for_any_student(draws, q):
    """So the gradient is right on average, however wrong the student is.

    The sum over thresholds has an error of its own, of less than a step of the function.
    """
    coupling = Coupling(1 / draws, EVENLY)
    noise = coupling.expected_noise(torch.full((len(EVENLY), 3), q))
    assert noise.dtype == torch.float32
    assert (noise.double().mean(dim=0).abs() * draws <= 1 / len(EVENLY)).all()


def labels_of(logits, rows):
    """Dithered labels of ``rows`` copies of one teacher."""
    encoding = encodings.parse(f"counts:{DRAWS}:0:2:dither", classes=CLASSES)
    book = Codebook(np.full((1, 2, CLASSES), 1 / CLASSES, np.float32))
    head = Head(encoding=encoding.spec, classes=CLASSES)
    arrays = encoding.encode(
        logits.expand(rows, CLASSES).contiguous(), head, np.arange(rows), counters=np.arange(rows, dtype=np.uint32),
        codebook=book,
    ).arrays  # fmt: skip
    return encoding.decode(arrays, head, book.priors)


def rows_gradient(student, labels):
    """Gradient of each row's loss with respect to its logits, (B, C)."""
    leaf = student.clone().requires_grad_()
    (len(leaf) * losses.kl(leaf, labels)).backward()
    return leaf.grad


def gradients(student, labels):
    """Gradient of each row's loss with respect to its own copy of the student's logits, (B, C)."""
    return rows_gradient(student.expand(len(labels.ids), CLASSES), labels)


@pytest.mark.parametrize("distance", [0.0, 0.3, 1.0, 3.0])
def test_the_gradient_is_that_of_full_kd_on_average_with_less_noise(distance):
    """Of a student as good as the teacher a third of the noise is left; of one that is far away it is no more."""
    generator = torch.Generator().manual_seed(0)
    teacher = 2 * torch.randn(1, CLASSES, generator=generator)
    student = teacher + distance * torch.randn(1, CLASSES, generator=generator)
    labels = labels_of(teacher, 4096)
    exact = student.softmax(-1) - teacher.softmax(-1)
    coupled, plain = gradients(student, labels), gradients(student, replace(labels, dither=None))
    assert (coupled.mean(dim=0) - exact[0]).abs().max() < 2e-4
    noise, independent = ((one - exact).square().sum(dim=-1).mean().item() for one in (coupled, plain))
    assert noise < {0.0: 0.5, 0.3: 0.55, 1.0: 0.75, 3.0: 1.05}[distance] * independent


def test_rows_are_coupled_by_their_own_offsets():
    """Also those of a mask, and of a layer whose logits are made a block at a time."""
    generator = torch.Generator().manual_seed(1)
    teacher = 2 * torch.randn(1, CLASSES, generator=generator)
    labels = labels_of(teacher, 12)
    student = torch.randn(12, CLASSES, generator=generator)
    one_by_one = torch.stack([losses.kl(student[[row]], labels.take(np.array([row]))) for row in range(12)])
    mask = torch.arange(12) % 3 != 0
    assert losses.kl(student, labels, mask=mask).item() == pytest.approx(one_by_one[mask].mean().item(), rel=1e-5)
    shuffled = labels.take(np.arange(12)[::-1].copy())
    assert losses.kl(student.flip(0), shuffled).item() == pytest.approx(one_by_one.mean().item(), rel=1e-5)
    wrong = replace(labels, dither=Dither(1 / DRAWS, labels.dither.offsets[::-1].copy()))
    assert abs(losses.kl(student, wrong).item() - one_by_one.mean().item()) > 1e-4


def test_classes_that_the_student_rules_out_add_nothing():
    teacher = 2 * torch.randn(1, CLASSES, generator=torch.Generator().manual_seed(2))
    teacher[0, :5] = -torch.inf
    labels = labels_of(teacher, 64)
    student = torch.zeros(64, CLASSES)
    student[:, :5] = -torch.inf
    leaf = student.clone().requires_grad_()
    loss = losses.kl(leaf, labels)
    loss.backward()
    assert loss.isfinite()
    assert leaf.grad.isfinite().all()
    assert (leaf.grad[:, :5] == 0).all()


def test_a_student_that_learns_its_labels_by_heart_stays_nearer_to_the_teacher():
    """Logits of each row of their own, fitted to one draw for a long time: the noise that they end with."""
    generator = torch.Generator().manual_seed(4)
    teacher = 2.5 * torch.randn(1, CLASSES, generator=generator)
    labels = labels_of(teacher, 64)
    error = []
    for learned in (labels, replace(labels, dither=None)):
        student = torch.zeros(64, CLASSES)
        for _ in range(150):
            student -= 2 * rows_gradient(student, learned)
        error.append((student.softmax(-1) - teacher.softmax(-1)).square().sum(dim=-1).mean().item())
    assert error[0] < 0.6 * error[1]
