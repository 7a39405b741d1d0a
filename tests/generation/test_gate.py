"""The sanity gate: which teachers it stops, and what it says."""

import numpy as np
import pytest
import torch

from softlabels import models
from softlabels.errors import InvalidArgument, InvalidLogits, TeacherRejected
from softlabels.generation import check_teacher, generate
from softlabels.sources import open_source


@pytest.fixture
def source(digits_path):
    return open_source(digits_path)


def teacher(function, source, classes=10):
    return models.as_model(function, sample=source.inputs(np.zeros(1, np.int64)))


def look(inputs):
    """Ten logits that depend on the input."""
    return inputs.float().flatten(1)[:, 10:20]


def test_a_teacher_that_looks_at_its_input_passes(source):
    assert check_teacher(teacher(look, source), source, classes=10) is None


def test_uniform_outputs_are_refused(source):
    flat = teacher(lambda inputs: inputs.float().flatten(1).sum(1, keepdim=True).expand(-1, 10), source)
    with pytest.raises(TeacherRejected, match=r"no opinion.*--no-gate"):
        check_teacher(flat, source, classes=10)


def test_outputs_that_do_not_depend_on_the_input_are_refused(source):
    deaf = teacher(lambda inputs: torch.arange(10.0).expand(len(inputs), 10), source)
    with pytest.raises(TeacherRejected, match="does not look at its input"):
        check_teacher(deaf, source, classes=10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_the_row(source, value):
    def broken(inputs):
        logits = look(inputs).clone()
        logits[-1, 3] = value
        return logits

    with pytest.raises(InvalidLogits, match=rf"row {len(source) - 1} are not finite"):
        check_teacher(teacher(broken, source), source, classes=10)


def test_minus_infinity_rules_a_class_out_and_is_allowed(source):
    def masked(inputs):
        logits = look(inputs).clone()
        logits[:, 0] = -torch.inf
        return logits

    assert check_teacher(teacher(masked, source), source, classes=10) is None


def test_random_outputs_are_refused(source):
    generator = torch.Generator().manual_seed(0)
    noisy = teacher(lambda inputs: look(inputs) + torch.randn(len(inputs), 10, generator=generator), source)
    with pytest.raises(TeacherRejected, match="differently each time"):
        check_teacher(noisy, source, classes=10)


@pytest.mark.parametrize("classes", [5, 12])
def test_another_class_count_than_the_labels_is_refused(source, classes):
    other = teacher(lambda inputs: inputs.float().flatten(1)[:, 10 : 10 + classes], source)
    with pytest.raises(InvalidArgument, match=rf"teacher has {classes} classes, the labels of .* show 10"):
        check_teacher(other, source, classes=classes)


def test_more_classes_than_the_labels_show_pass_when_said(source):
    wide = teacher(lambda inputs: inputs.float().flatten(1)[:, 10:22], source)
    assert check_teacher(wide, source, classes=12, extra_classes=True) is None


def test_a_refused_teacher_leaves_no_store(source, tmp_path):
    out = tmp_path / "labels"
    with pytest.raises(TeacherRejected):
        generate(source, teacher=lambda inputs: torch.zeros(len(inputs), 10), out=out)
    assert not out.exists()
