"""Labels of two teachers never mix in a store: a few stored rows are predicted again before work continues."""

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels.errors import StoreConflict
from softlabels.generation import generate
from softlabels.models import as_model
from softlabels.store import open_storage
from softlabels.store.format import paths
from tests.generation.outputs import teacher_of, token_source

INPUTS = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
ENCODINGS = ("dense:f32", "dense:q8", "topk:1", "topk:3:d4", "adaptive:0.01:d4", "sampled:50", "threshold:0.05",
             "counts:50:0.01:4", "counts:50:0:4")  # fmt: skip


def weights_of(seed):
    return torch.tensor(np.random.default_rng(seed).normal(size=(8, 12)).astype(np.float32))


class Loaded:
    """A teacher whose weights come from a file, which no digest covers."""

    def __init__(self, weights, scale=1.0):
        self.weights = weights
        self.scale = scale

    def __call__(self, inputs):
        return self.scale * (inputs @ self.weights)


def model(weights, scale=1.0):
    """Two such teachers have one digest, as two files under one name do."""
    loaded = as_model(Loaded(weights_of(0), scale), sample=INPUTS[:2], spec="python:loaded:teacher")
    loaded.module.function.weights = weights
    return loaded


def interrupt(path, units=(2, 3)):
    """Leave a store as a killed run does."""
    for unit in units:
        (path / paths.record_path(unit)).unlink()
    for directory in ("snapshots", "probe"):
        for file in (path / directory).iterdir():
            file.unlink()


@pytest.mark.parametrize("scale", [1.0, 8.0], ids=["uncertain", "certain"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_other_weights_under_the_same_digest_are_refused_on_resuming(tmp_path, encoding, scale):
    options = {"out": tmp_path / "s", "encoding": encoding, "unit_rows": 100}
    first = model(weights_of(0), scale)
    generate(INPUTS, teacher=first, **options)
    interrupt(tmp_path / "s")
    other = model(weights_of(1), scale)
    assert other.digest == first.digest
    with pytest.raises(StoreConflict, match=r"labels are of another teacher.*teacher_version="):
        generate(INPUTS, teacher=other, **options)
    assert list(paths.committed_units(open_storage(tmp_path / "s"))) == [0, 1], "no unit was added"
    assert generate(INPUTS, teacher=first, **options).new_units == 2
    assert sl.verify(tmp_path / "s", deep=True).ok


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_rounding_and_another_batch_size_are_no_other_teacher(tmp_path, encoding):
    """Half precision on another accelerator moves logits by a hundredth."""
    generate(INPUTS, teacher=model(weights_of(0)), out=tmp_path / "s", encoding=encoding, unit_rows=100)
    interrupt(tmp_path / "s")
    noise = 5e-3 * weights_of(2)
    result = generate(
        INPUTS, teacher=model(weights_of(0) + noise), out=tmp_path / "s", encoding=encoding, unit_rows=100, batch_size=7
    )
    assert result.missing_units == 0


def test_other_weights_are_refused_on_reuse(tmp_path):
    generate(INPUTS[:200], teacher=model(weights_of(0)), out=tmp_path / "old", encoding="topk:3")
    options = {"encoding": "topk:3", "reuse": [tmp_path / "old"]}
    with pytest.raises(StoreConflict, match=r"old: the labels are of another teacher"):
        generate(INPUTS, teacher=model(weights_of(1)), out=tmp_path / "new", **options)
    result = generate(INPUTS, teacher=model(weights_of(0)), out=tmp_path / "new", **options)
    assert (result.rows, result.reused_rows) == (400, 200)


def test_versions_tell_teachers_of_one_digest_apart(tmp_path):
    options = {"out": tmp_path / "s", "encoding": "topk:3", "unit_rows": 100}
    generate(INPUTS, teacher=model(weights_of(0)), teacher_version="May", **options)
    assert sl.open(tmp_path / "s").descriptor.teacher.version == "May"
    for version in (None, "June"):
        with pytest.raises(StoreConflict, match="version May"):
            generate(INPUTS, teacher=model(weights_of(0)), teacher_version=version, **options)
    with pytest.raises(StoreConflict):
        generate(INPUTS, teacher=model(weights_of(0)), out=tmp_path / "t", encoding="topk:3", reuse=[tmp_path / "s"])
    assert generate(INPUTS, teacher=model(weights_of(0)), teacher_version="May", **options).new_units == 0


@pytest.mark.parametrize(("kind", "encoding"), [
    ("tokens", "topk:3"), ("pixels", "dense:f16"), ("regression", "dense:f32"), ("embedding", "dense:f16"),
])  # fmt: skip
def test_heads_of_every_kind_are_compared(tmp_path, kind, encoding):
    source, teacher = token_source(), teacher_of(kind)
    loaded = as_model(teacher, sample=source.inputs(np.arange(2)), spec="python:loaded:teacher")
    options = {"out": tmp_path / "s", "encoding": encoding, "unit_rows": 10}
    generate(source, teacher=loaded, **options)
    interrupt(tmp_path / "s")
    outputs = teacher.outputs
    teacher.outputs = lambda name, inputs: outputs(name, inputs).flip(-1)
    with pytest.raises(StoreConflict, match=f"head '{kind}' differs"):
        generate(source, teacher=loaded, **options)
    teacher.outputs = outputs
    assert generate(source, teacher=loaded, **options).missing_units == 0


def test_a_store_records_what_was_labelled_and_what_the_digest_covers(tmp_path, digits):
    generate(digits, teacher=lambda inputs: inputs.float().flatten(1)[:, 10:20], out=tmp_path / "s")
    descriptor = sl.open(tmp_path / "s").descriptor
    data = descriptor.data
    assert (data.columns, data.dtype, data.shape, data.label, data.classes) == (
        ("image",),
        "uint8",
        (8, 8),
        "label",
        10,
    )
    assert any("source text" in text for text in descriptor.teacher.covers)
    assert any("not covered" in text for text in descriptor.teacher.covers)
