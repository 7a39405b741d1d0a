"""Students of several heads: losses by name for each, hard targets under the same names, and typed errors."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

import softlabels as sl
from softlabels import losses
from softlabels.errors import InvalidArgument, TrainingFailed
from softlabels.loading import Batch
from softlabels.models import OutputHead
from softlabels.sources import as_source
from softlabels.training import train_student, train_teacher
from softlabels.training.tasks import Objective, Objectives, Term
from softlabels.training.tasks.loss_spec import LossSpec

RECIPE = {"steps": 6, "batch_size": 16}
ROWS = 120


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    labels = np.arange(ROWS) % 3
    x = (rng.normal(size=(ROWS, 4)) + 4 * (labels[:, None] == np.arange(4))).astype(np.float32)
    return {
        "x": x,
        "kind": labels,
        "wide": x[:, :2] * 2,
        "angle": (x[:, :1] * [0.5] + 1).astype(np.float32),
        "split": np.where(np.arange(ROWS) < 90, "train", "test"),
    }


@pytest.fixture(scope="module")
def data(columns):
    return as_source(columns, input="x", label=False, targets={"kind": "kind", "angle": "angle"})


@pytest.fixture(scope="module")
def labels(data, columns, tmp_path_factory):
    """Soft labels of three heads: classes, a regression and an embedding."""
    path = tmp_path_factory.mktemp("heads") / "labels"
    heads = {
        "kind": sl.Head(classes=3, encoding="topk:2", temperatures=(1.0, 2.0)),
        "angle": sl.Head(classes=1, kind="regression", encoding="dense:f32"),
        "feature": sl.Head(classes=4, kind="embedding", encoding="dense:f32"),
    }
    outputs = {
        "kind": torch.from_numpy(columns["x"][:, :3]),
        "angle": torch.from_numpy(columns["angle"]),
        "feature": torch.from_numpy(columns["x"]),
    }
    with sl.create(path, heads=heads) as writer:
        writer.append(np.asarray(data.keys()), outputs)
    return path


def test_every_head_of_the_store_is_learned_with_its_own_loss(labels, data, tmp_path):
    lines = []
    student = train_student(
        labels, data, "mlp:width=16,depth=1", tmp_path / "run",
        loss={"kind": "kl+0.5*logit_mse", "angle": "huber:delta=2"},
        weight={"angle": 0.1}, alpha={"kind": 0.8}, steps=400, lr=1e-2, announce=lines.append,
    )  # fmt: skip
    assert set(student.heads) == {"kind", "angle", "feature"}
    assert student.run.objectives == {
        "kind": "0.8 * kl at T = 2 + 0.4 * logit_mse + 0.2 * cross_entropy",
        "angle": "0.1 * (0.9 * huber delta=2 + 0.1 * huber to targets)",
        "feature": "cosine",
    }
    assert lines == ["minimise " + " + ".join(f"{head}: {text}" for head, text in student.run.objectives.items())]
    figures = student.run.metrics.figures
    assert figures["kind.accuracy"] > 0.8
    assert figures["kind.agreement"] > 0.8
    assert figures["angle.error"] < 0.5
    assert set(figures) == {"loss", "kind.kl", "kind.agreement", "kind.accuracy", "angle.error", "feature.retrieval"}


def test_a_head_of_weight_zero_is_not_trained(labels, data, tmp_path):
    runs = [
        train_student(
            labels, data, "mlp:width=4,depth=1", tmp_path / str(i), weight={"angle": w, "feature": 0.0}, **RECIPE
        )
        for i, w in enumerate((0.0, 1.0))
    ]
    layers = [run.module.state_dict() for run in runs]
    assert any((layers[0][name] != layers[1][name]).any() for name in layers[0])
    with pytest.raises(InvalidArgument, match="nothing to minimise, got a weight of 0 for every head"):
        train_student(labels, data, "mlp", tmp_path / "none", weight=0.0, **RECIPE)


def test_a_network_of_the_user_learns_the_heads_that_it_returns(labels, data, tmp_path):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 5)

        def forward(self, x):
            values = self.layer(x)
            return {"kind": values[:, :3], "angle": values[:, 3:4], "other": values[:, 4:]}

    student = train_student(labels, data, Two(), tmp_path / "run", **RECIPE)
    assert set(student.heads) == set(student.run.objectives) == {"kind", "angle"}
    only = train_student(labels, data, Two(), tmp_path / "only", heads=["angle"], **RECIPE)
    assert set(only.heads) == {"angle"}
    with pytest.raises(
        InvalidArgument, match="has no head of the labels, got logits; expected one of angle, feature, kind"
    ):
        train_student(labels, data, torch.nn.Linear(4, 3), tmp_path / "none", **RECIPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "kl"}, "head 'angle': loss kl is not possible, got a head of regression; expected cosine, huber"),
        ({"loss": {"kind": "mse"}}, "head 'kind': loss mse is not possible, got a head of classes; expected .*kl"),
        ({"loss": {"road": "kl"}}, "loss: no head 'road' is learned, got road=kl; expected angle, feature, kind"),
        ({"loss": {"kind": "distillation"}}, "loss: cannot be a term, got 'distillation'; expected kl"),
        ({"loss": {"kind": "kl+"}}, "loss: a name is missing, got 'kl[+]'"),
        ({"loss": {"kind": "0*kl"}}, "loss: not a number above 0, got '0' in '0[*]kl'"),
        ({"loss": {"kind": "kl:delta=1"}}, "loss kl: unknown option, got 'delta'; expected none"),
        ({"heads": ["road"]}, "no head 'road', got angle, feature, kind"),
        ({"temperature": {"kind": 3.0}}, "no tail mass at temperature 3"),
        ({"alpha": {"feature": 0.0}}, "alpha: uses hard labels alone, got 0 for head 'feature'"),
    ],
)
def test_losses_that_do_not_fit_are_refused_before_the_first_step(labels, data, tmp_path, options, message):
    with pytest.raises(InvalidArgument, match=message):
        train_student(labels, data, "mlp:width=4,depth=1", tmp_path / "run", **RECIPE, **options)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_losses_that_these_labels_lack_are_named_with_those_that_are_possible(data, columns, tmp_path):
    with sl.create(tmp_path / "labels", heads={"kind": sl.Head(classes=3, encoding="sampled:4")}) as writer:
        writer.append(np.asarray(data.keys()), {"kind": torch.from_numpy(columns["x"][:, :3])})
    with pytest.raises(
        InvalidArgument, match=r"loss reverse_kl is not possible, got .*; expected cross_entropy, kl\. Choose"
    ):
        train_student(tmp_path / "labels", data, "mlp", tmp_path / "run", loss="reverse_kl", **RECIPE)


def test_a_teacher_learns_every_target(data, tmp_path):
    teacher = train_teacher(data, "mlp:width=16,depth=1", tmp_path / "run", steps=300, lr=1e-2, loss={"angle": "huber"})
    assert teacher.heads == {"kind": OutputHead(classes=3), "angle": OutputHead(classes=1, kind="regression")}
    assert teacher.run.objectives == {"kind": "cross_entropy", "angle": "huber to targets"}
    assert teacher.run.metrics.figures["kind.accuracy"] > 0.8
    assert teacher.run.metrics.figures["angle.error"] < 0.5


def test_a_target_that_does_not_fit_its_head_is_refused(labels, columns, tmp_path):
    other = as_source(columns, input="x", label=False, targets={"kind": "kind", "angle": "wide"})
    with pytest.raises(InvalidArgument, match="the target of head 'angle' does not fit, got regression of 2 classes"):
        train_student(labels, other, "mlp", tmp_path / "run", **RECIPE)


@pytest.mark.parametrize(
    ("data", "size", "advice"),
    [
        ("roads:20,size=16x24", None, "Name that size, as in data='roads:20,size=16x24'$"),
        ("roads:20", 16, "Open the data at that size, with size=16$"),
    ],
)
def test_masks_of_another_size_than_the_labels_are_refused_with_the_size_to_name(tmp_path, data, size, advice):
    source = sl.open_source(data, size=size)
    heads = {"road": OutputHead(kind="pixels", classes=5, shape=source.targets["road"].shape)}

    def teacher(images):
        return {"road": images.float().mean(dim=-1, keepdim=True) * torch.arange(5)}

    teacher.heads = heads
    sl.generate(source, teacher=teacher, out=tmp_path / "labels", gate=False)
    with pytest.raises(InvalidArgument, match=rf"roads:20: the masks .* got \(64, 96\); expected .*{advice}"):
        train_student(tmp_path / "labels", "roads:20", "unet:width=4,depth=2", tmp_path / "run", steps=1)


def test_a_run_is_trained_further_with_its_weights(labels, data, tmp_path):
    first = train_student(labels, data, "mlp:width=4,depth=1", tmp_path / "first", heads=["kind"], **RECIPE)
    more = train_student(labels, data, f"run:{tmp_path / 'first'}", tmp_path / "more", steps=1, lr=1e-12)
    assert more.run.model.start == first.digest
    assert more.spec == f"run:{tmp_path / 'more'}"
    before, after = (model.module.state_dict() for model in (first, more))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert sl.models.load(f"run:{tmp_path / 'more'}").digest == more.digest
    with pytest.raises(InvalidArgument, match="has no head of the labels, got kind; expected one of angle"):
        train_student(labels, data, f"run:{tmp_path / 'first'}", tmp_path / "none", heads=["angle"], **RECIPE)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=5),
    st.floats(0.0, 1.0),
)
def test_shares_of_a_step_add_up_to_the_loss_of_all_rows(sizes, alpha):
    """Whatever the sizes of the shares, and however many of their rows have a hard label."""
    rng = np.random.default_rng(len(sizes))
    total = sum(size for size, _ in sizes)
    hard = np.full(total, -1)
    start = 0
    for size, labelled in sizes:
        hard[start : start + min(size, labelled)] = rng.integers(0, 3, min(size, labelled))
        start += size
    logits, soft = torch.from_numpy(rng.normal(size=(2, total, 3)).astype(np.float32))

    def kl(outputs, batch):
        return functional.kl_div(
            outputs["a"].log_softmax(1), soft[batch.rows].log_softmax(1), log_target=True, reduction="batchmean"
        )

    terms = (
        Term(name="kl", loss=kl, count=len, weight=alpha),
        Term(
            name="hard", weight=1 - alpha, count=lambda batch: float((hard[batch.rows] >= 0).sum()),
            loss=lambda outputs, batch: losses.cross_entropy(outputs["a"], hard[batch.rows]),
        ),
    )  # fmt: skip
    objectives = Objectives([Objective(head="a", terms=terms, weight=2.0)])
    bounds = np.cumsum([0, *[size for size, _ in sizes]])
    batches = [Batch(epoch=0, step=0, rows=np.arange(a, b)) for a, b in pairwise(bounds)]
    totals = sum(objectives.counts(batch) for batch in batches)
    shares = sum(float(objectives.share({"a": logits[batch.rows]}, batch, totals)) for batch in batches)
    everything = Batch(epoch=0, step=0, rows=np.arange(total))
    assert shares == pytest.approx(float(objectives({"a": logits}, everything)), abs=1e-5)


@given(
    st.lists(
        st.tuples(st.sampled_from(["kl", "mse", "huber:delta=2", "dkd:other_weight=4"]), st.floats(0.01, 100)),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_losses_as_text_come_back(entries):
    text = "+".join(f"{weight:g}*{name}" for name, weight in entries)
    assert str(LossSpec.parse(str(LossSpec.parse(text)))) == str(LossSpec.parse(text))


def test_a_gradient_that_is_not_finite_stops_and_leaves_the_checkpoint(data, tmp_path):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)
            self.steps = 0

        def forward(self, x):
            self.steps += 1
            outputs = self.layer(x)
            # The square root has an infinite gradient at 0.
            return outputs + (self.layer.bias.sum() * 0).sqrt() if self.steps > 4 else outputs

    only = as_source({"x": np.eye(4, dtype=np.float32).repeat(8, 0), "label": np.arange(32) % 3})
    with pytest.raises(TrainingFailed, match=r"gradient at step 4: not finite, got norm nan \(rows \d"):
        train_teacher(only, Broken(), tmp_path / "run", steps=8, checkpoint_seconds=0.0)
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_rows_with_outputs_that_are_not_finite_are_named(data, tmp_path):
    x = np.eye(4, dtype=np.float32).repeat(8, 0)
    x[17] = 7

    class Poisoned(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.where(x.sum(1, keepdim=True) > 5, torch.nan, 0.0)

    only = as_source({"x": x, "label": np.arange(32) % 3, "split": np.full(32, "train")})
    with pytest.raises(TrainingFailed, match=r"loss at step 0: not finite, got nan \(rows 17\)"):
        train_teacher(only, Poisoned(4, 3), tmp_path / "run", steps=8, batch_size=32)
