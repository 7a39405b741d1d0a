"""The sanity gate and the checks of later batches: which teachers are refused, and that sound ones are not."""

import numpy as np
import pytest
import torch
from torch import nn

import softlabels as sl
from softlabels.errors import InvalidArgument, InvalidLogits, ModelFailed, TeacherRejected
from softlabels.generation import check_teacher, generate
from softlabels.models import OutputHead, as_model
from softlabels.sources import TokenSource, open_source

FILLS = (-1e4, -65504.0, -1e9, float(np.finfo(np.float32).min), -float("inf"), -100.0)
RNG = np.random.default_rng(0)
WEIGHTS = torch.tensor(RNG.normal(size=(8, 12)).astype(np.float32))
INPUTS = RNG.normal(size=(300, 8)).astype(np.float32)


@pytest.fixture
def source(digits_path):
    return open_source(digits_path)


def teacher(function, source):
    return as_model(function, sample=source.inputs(np.zeros(1, np.int64)))


def pixels(inputs):
    """Ten logits that depend on the input."""
    return inputs.float().flatten(1)[:, 10:20]


def test_a_teacher_that_depends_on_its_input_passes(source):
    assert check_teacher(teacher(pixels, source), source) is None


def test_uniform_outputs_are_refused(source):
    flat = teacher(lambda inputs: inputs.float().flatten(1).sum(1, keepdim=True).expand(-1, 10), source)
    with pytest.raises(TeacherRejected, match=r"the same logit.*gate=False"):
        check_teacher(flat, source)


def test_outputs_that_do_not_depend_on_the_input_are_refused(source):
    blind = teacher(lambda inputs: torch.arange(10.0).expand(len(inputs), 10), source)
    with pytest.raises(TeacherRejected, match="does not depend on the input"):
        check_teacher(blind, source)


def test_a_single_class_that_is_not_ruled_out_is_no_output(source):
    only = teacher(lambda inputs: torch.where(torch.arange(10) == 0, pixels(inputs), -torch.inf), source)
    with pytest.raises(TeacherRejected, match="does not depend on the input"):
        check_teacher(only, source)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_the_row(source, value):
    def broken(inputs):
        logits = pixels(inputs).clone()
        logits[-1, 3] = value
        return logits

    with pytest.raises(InvalidLogits, match=rf"row {len(source) - 1} are not finite"):
        check_teacher(teacher(broken, source), source)


def test_random_outputs_are_refused(source):
    generator = torch.Generator().manual_seed(0)
    noisy = teacher(lambda inputs: pixels(inputs) + torch.randn(len(inputs), 10, generator=generator), source)
    with pytest.raises(TeacherRejected, match="differs from pass to pass"):
        check_teacher(noisy, source)


@pytest.mark.parametrize("classes", [5, 12])
def test_another_class_count_than_the_labels_is_refused(source, classes):
    other = teacher(lambda inputs: inputs.float().flatten(1)[:, 10 : 10 + classes], source)
    with pytest.raises(InvalidArgument, match=rf"teacher has {classes} classes, the labels of .* show 10"):
        check_teacher(other, source)


def test_extra_classes_pass_with_the_option(source):
    wide = teacher(lambda inputs: inputs.float().flatten(1)[:, 10:22], source)
    assert check_teacher(wide, source, extra_classes=True) is None


def test_a_refused_teacher_leaves_no_store(source, tmp_path):
    with pytest.raises(TeacherRejected):
        generate(source, teacher=lambda inputs: torch.zeros(len(inputs), 10), out=tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


def filled(function, fill):
    """A teacher that rules out four classes by a large negative number."""

    def outputs(inputs):
        logits = function(inputs)
        logits[:, 8:] = fill
        return logits

    return outputs


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda inputs: inputs @ WEIGHTS, None),
        (lambda inputs: nn.functional.dropout(inputs, 0.5) @ WEIGHTS, "differs from pass to pass"),
        (lambda inputs: torch.zeros(len(inputs), 12), "the same logit"),
        (lambda inputs: WEIGHTS[:1].expand(len(inputs), 12).clone(), "does not depend on the input"),
    ],
    ids=["sound", "dropout", "uniform", "blind"],
)
def test_fills_neither_hide_a_fault_nor_refuse_a_sound_teacher(tmp_path, fill, function, message):
    """Tolerances follow the classes that have probability, not the largest value."""
    if message is None:
        assert generate(INPUTS, teacher=filled(function, fill), out=tmp_path / "s", encoding="topk:4").rows == 300
        return
    with pytest.raises(TeacherRejected, match=message):
        generate(INPUTS, teacher=filled(function, fill), out=tmp_path / "s")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda inputs: (4 * (inputs @ WEIGHTS)).softmax(-1), "returns probabilities"),
        (lambda inputs: (inputs @ WEIGHTS).softmax(-1).half(), "returns probabilities"),
        (lambda inputs: (inputs @ WEIGHTS)[:, :1], "a single output"),
        (lambda inputs: (inputs - inputs.mean(0)) @ WEIGHTS, "depends on the batch"),
    ],
    ids=["softmax", "softmax in half precision", "single output", "batch mean"],
)
@pytest.mark.parametrize("batch_size", [16, 100])
def test_outputs_that_cannot_be_labels_are_refused(tmp_path, function, message, batch_size):
    with pytest.raises(TeacherRejected, match=message):
        generate(INPUTS, teacher=function, out=tmp_path / "s", batch_size=batch_size)


class Through:
    """A function of the user over a network; nobody switches that to evaluation mode."""

    def __init__(self, network):
        self.network = [network]

    def __call__(self, inputs):
        return self.network[0](inputs)


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Unflatten(1, (4, 2))],
    ids=["batch statistics", "dropout", "batch statistics of several values"],
)
def test_a_function_over_a_network_in_training_mode_is_refused(tmp_path, layer):
    network = nn.Sequential(layer, nn.Linear(8, 5))
    if isinstance(layer, nn.Unflatten):  # with several values per channel, batch statistics of a single row exist
        network = nn.Sequential(layer, nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(8, 5))
    nn.init.normal_(network[-1].weight)
    with pytest.raises((TeacherRejected, ModelFailed)):
        generate(INPUTS, teacher=Through(network), out=tmp_path / "s", batch_size=16)


@pytest.mark.parametrize(
    "function",
    [
        lambda inputs: (inputs @ WEIGHTS).log_softmax(-1),
        lambda inputs: (inputs @ WEIGHTS).bfloat16(),
        lambda inputs: 60 * (inputs @ WEIGHTS),
        lambda inputs: 1e-3 * (inputs @ WEIGHTS),
        lambda inputs: inputs @ WEIGHTS + 1e4,
    ],
    ids=["log-probabilities", "half precision", "certain", "uncertain", "offset"],
)
def test_sound_teachers_pass(tmp_path, function):
    assert generate(INPUTS, teacher=function, out=tmp_path / "s").rows == 300


class Later:
    """A teacher that is sound in the gate and behaves otherwise in later batches."""

    def __init__(self, function):
        self.function = function
        self.calls = 0
        self.last = None

    def __call__(self, inputs):
        self.calls += 1
        logits = inputs @ WEIGHTS
        if self.calls >= 6:
            logits = self.function(logits, self.last)
        self.last = logits
        return logits


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits, _: torch.zeros_like(logits), "the same logit in rows"),
        (lambda logits, last: last if len(last) == len(logits) else logits, "outputs of the batch before"),
        (lambda logits, _: logits[:, :4], "another shape"),
        (lambda logits, _: logits[:-1], "row"),
    ],
    ids=["dead", "stale", "another width", "fewer rows"],
)
def test_a_teacher_that_breaks_in_a_later_batch_is_refused(tmp_path, function, message):
    with pytest.raises((TeacherRejected, InvalidLogits), match=message):
        generate(INPUTS, teacher=Later(function), out=tmp_path / "s", batch_size=50)
    assert not list((tmp_path / "s").rglob("records/**/*.json"))


def test_equal_batches_of_equal_inputs_are_no_fault(tmp_path):
    repeated = np.tile(INPUTS[:50], (4, 1))
    assert generate(repeated, teacher=lambda inputs: inputs @ WEIGHTS, out=tmp_path / "s", batch_size=50).rows == 200


def test_every_head_is_checked(tmp_path):
    """Numbers may be constant in one component, and pixels and ragged tokens are looked at in a few positions."""
    heads = {
        "speed": OutputHead(classes=2, kind="regression"),
        "mask": OutputHead(classes=3, kind="pixels", shape=(2, 2)),
    }

    def outputs(inputs):
        speed = torch.stack([inputs[:, 0], torch.zeros(len(inputs))], dim=1)
        return {"speed": speed, "mask": inputs[:, :4].reshape(-1, 2, 2, 1) * torch.arange(3.0)}

    outputs.heads = heads
    assert generate(INPUTS, teacher=outputs, out=tmp_path / "s").rows == 300

    def blind(inputs):
        return outputs(inputs) | {"speed": torch.ones(len(inputs), 2)}

    blind.heads = heads
    with pytest.raises(TeacherRejected, match="'speed' has the same output"):
        generate(INPUTS, teacher=blind, out=tmp_path / "t")


def test_token_teachers_pass_and_flat_ones_do_not(tmp_path):
    sequences = [RNG.integers(0, 50, length) for length in RNG.integers(2, 9, 40)]
    table = torch.tensor(RNG.normal(size=(50, 30)).astype(np.float32))
    source = TokenSource(sequences)
    assert generate(source, teacher=lambda inputs: table[inputs.values], out=tmp_path / "s").rows == 40
    with pytest.raises(TeacherRejected, match="the same logit"):
        generate(source, teacher=lambda inputs: torch.zeros(len(inputs.values), 30), out=tmp_path / "t")


def test_a_user_s_network_keeps_its_modes(tmp_path):
    network = nn.Sequential(nn.Linear(8, 12), nn.Dropout(0.5), nn.BatchNorm1d(12))
    network[1].eval()
    generate(INPUTS, teacher=network, out=tmp_path / "s")
    assert [layer.training for layer in network.modules()] == [True, True, False, True]
    assert sl.open(tmp_path / "s").rows == 300
