"""One way of building units: generate and sl.create give the same labels for the same outputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import softlabels as sl
from softlabels.errors import InvalidLogits
from softlabels.generation.label_writer import LabelWriter
from softlabels.generation.row_plan import RowPlan
from softlabels.generation.unit_builder import UnitBuilder
from softlabels.models import OutputHead
from softlabels.sources import DatasetSource, as_source
from softlabels.store import DataRecord, create_or_open
from tests.generation.outputs import HEADS, LENGTHS, ROWS, heads_of, named_outputs, teacher_of, token_source

ENCODINGS = {
    "classes": ("dense:f32", "dense:f16", "dense:bf16", "dense:q8", "topk:3:f16", "topk:3:d4", "adaptive:0.05:d16",
                "sampled:20", "threshold:0.1", "counts:20:0.005:2"),
    "tokens": ("dense:f16", "topk:3:f16", "adaptive:0.05:d4", "sampled:20", "threshold:0.1", "counts:20:0:2"),
    "pixels": ("dense:f16", "dense:q8"),
    "regression": ("dense:f32", "dense:f16"),
    "embedding": ("dense:f16", "dense:bf16", "dense:q8:scaled"),
}  # fmt: skip
CASES = [(kind, encoding) for kind, encodings in ENCODINGS.items() for encoding in encodings]


def columns_of(path):
    """All columns of a sealed store, row by row of chunks."""
    store = sl.open(path)
    chunks = [store.read_chunk(number) for number in range(store.chunks)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def writer_like(store, path, heads, options):
    """A writer by ``sl.create``; if the store has a codebook, with that one, since pilots of positions differ."""
    if not store.codebooks():
        return sl.create(path, heads=heads, **options)
    data = DataRecord(spec="appended", fingerprint=None, rows=None)
    return LabelWriter(
        create_or_open(path, replace(store.descriptor, rows=None, data=data, document=None), store.codebooks())
    )


@pytest.mark.parametrize("shard_format", ["zarr", "parquet"])
@pytest.mark.parametrize(("kind", "encoding"), CASES)
def test_generate_and_create_store_the_same_bytes(tmp_path, kind, encoding, shard_format):
    outputs, source = named_outputs(kind), token_source()
    options = {"shard_format": shard_format, "unit_rows": 16, "seed": 5}
    teacher = teacher_of(kind)
    result = sl.generate(source, teacher=teacher, out=tmp_path / "a", encoding=encoding, batch_size=8, **options)
    assert (result.rows, result.encodings[kind].split(":")[0]) == (ROWS, encoding.split(":")[0])
    with writer_like(sl.open(tmp_path / "a"), tmp_path / "b", heads_of(kind, encoding), options) as writer:
        for start in range(0, ROWS, 8):
            rows = range(start, min(start + 8, ROWS))
            writer.append(source.keys(rows.start, rows.stop), {kind: [outputs[row] for row in rows]
                          if kind == "tokens" else np.stack([outputs[row] for row in rows])})  # fmt: skip
    generated, created = columns_of(tmp_path / "a"), columns_of(tmp_path / "b")
    assert list(generated) == list(created)
    for name, column in generated.items():
        assert column.dtype == created[name].dtype
        assert column.tobytes() == created[name].tobytes(), name
    assert sl.verify(tmp_path / "a", deep=True).ok


def test_a_teacher_with_heads_of_every_kind_is_stored_by_its_defaults(tmp_path):
    source = token_source()
    teacher = teacher_of(None)
    result = sl.generate(
        source, teacher=teacher, out=tmp_path / "s", encoding={"classes": "topk:2", "*": "topk:4:d4"}, unit_rows=16,
        temperatures=(1.0, 2.0),
    )  # fmt: skip
    assert result.encodings == {
        "classes": "topk:2:f16", "tokens": "topk:4:d4", "pixels": "adaptive:0.01:d4",
        "regression": "dense:f32", "embedding": "dense:f16",
    }  # fmt: skip
    store = sl.open(tmp_path / "s")
    assert store.heads["tokens"].ragged
    assert store.heads["tokens"].temperatures == (1.0, 2.0)
    assert store.heads["regression"].temperatures == (1.0,)
    for kind in ("regression", "embedding"):
        expected = np.stack(named_outputs(kind))
        np.testing.assert_allclose(store.read(range(ROWS), head=kind).values, expected, rtol=1e-3, atol=1e-3)
    outputs = torch.from_numpy(np.stack(named_outputs("pixels"))).double()
    teacher_probs = outputs.softmax(-1).numpy()
    stored_probs = np.exp(store.read(range(ROWS), head="pixels").log_probs(1.0))
    np.testing.assert_allclose(stored_probs, teacher_probs, atol=0.15)  # steps of a quarter nat
    labels = store.read(range(ROWS), head="tokens")
    assert labels.lengths.tolist() == LENGTHS.tolist()
    assert (labels.ids[:, 0] == np.concatenate(named_outputs("tokens")).argmax(axis=1)).all()
    assert set(result.fidelities) == {"classes", "tokens", "pixels"}
    assert sl.verify(tmp_path / "s", deep=True).ok


def test_tokens_of_one_length_become_ragged_rows(tmp_path):
    """A causal language model returns (B, L, C); lists of likely tokens need ragged rows."""
    rng = np.random.default_rng(3)
    weights = torch.tensor(rng.normal(size=(6, 4 * 40)).astype(np.float32))
    inputs = rng.normal(size=(30, 6)).astype(np.float32)
    sl.generate(inputs, teacher=lambda x: (x @ weights).reshape(len(x), 4, 40), out=tmp_path / "s", encoding="topk:3")
    store = sl.open(tmp_path / "s")
    assert (store.heads["logits"].kind, store.heads["logits"].shape) == ("tokens", (None,))
    labels = store.read(range(30))
    assert labels.lengths.tolist() == [4] * 30
    expected = (torch.tensor(inputs) @ weights).reshape(120, 40).argmax(1)
    assert (labels.ids[:, 0] == expected.numpy()).all()


@settings(max_examples=15)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 2**31))
def test_no_memory_of_the_caller_is_kept(tmp_path_factory, sizes, seed):
    """The caller overwrites every buffer after every call; the store holds what was there at the call."""
    rng = np.random.default_rng(seed)
    logits = torch.empty(9, 7)
    keys = np.empty((9, 16), np.uint8)
    path = tmp_path_factory.mktemp("s") / "s"
    expected_values, expected_keys = [], []
    head = sl.Head(classes=7, encoding="dense:f32")
    with sl.create(path, heads={"logits": head}, unit_rows=8) as writer:
        for count in sizes:
            logits.copy_(torch.tensor(rng.normal(size=(9, 7))))
            keys[:] = rng.integers(0, 256, keys.shape, np.uint8)
            expected_values.append(logits[:count].clone().numpy())
            expected_keys.append(keys[:count].copy())
            writer.append(keys[:count], {"logits": logits[:count]})
            logits.fill_(-1.0)
            keys.fill(0)
    store = sl.open(path)
    assert store.read(range(store.rows)).values.tobytes() == np.concatenate(expected_values).tobytes()
    assert np.asarray(store.keys()).tobytes() == np.concatenate(expected_keys).tobytes()


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(0, 2**31))
def test_a_teacher_may_reuse_its_output_buffer_and_change_its_inputs(tmp_path_factory, batch_size, seed):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(60, 6)).astype(np.float32)
    weights = torch.tensor(rng.normal(size=(6, 7)).astype(np.float32))
    buffer = torch.empty(64, 7)

    def teacher(batch):
        batch.mul_(0.5)  # preprocessing in place
        return torch.matmul(batch, weights, out=buffer[: len(batch)])

    source, before = as_source(inputs), inputs.copy()
    path = tmp_path_factory.mktemp("s") / "s"
    sl.generate(source, teacher=teacher, out=path, encoding="dense:f32", batch_size=batch_size, gate=False)
    assert inputs.tobytes() == before.tobytes()
    np.testing.assert_allclose(sl.open(path).read(range(60)).values, (inputs * 0.5) @ weights.numpy(), atol=1e-5)


def test_a_batch_that_is_refused_leaves_no_trace(tmp_path):
    heads = {
        "a": sl.Head(classes=3, encoding="topk:1"),
        "b": sl.Head(classes=1, kind="regression", encoding="dense:f32"),
    }
    good = {"a": np.eye(3, dtype=np.float32), "b": np.ones((3, 1), np.float32)}
    with sl.create(tmp_path / "t", heads=heads) as writer:
        writer.append(["x", "y", "z"], good)
    with sl.create(tmp_path / "s", heads=heads) as writer:
        writer.append(["x", "y", "z"], good)
        with pytest.raises(InvalidLogits):
            writer.append(["u", "v", "w"], good | {"b": np.full((3, 1), np.nan, np.float32)})
        assert writer.missing(["u", "v", "w"]).tolist() == [0, 1, 2]
    store, other = sl.open(tmp_path / "s"), sl.open(tmp_path / "t")
    assert store.rows == 3
    assert store.prior("a").tobytes() == other.prior("a").tobytes()


def test_outputs_that_need_gradients_are_stored(tmp_path):
    """The loop of README.md with a plain network in training mode."""
    network = torch.nn.Linear(6, 20)
    images = torch.randn(10, 6)
    with sl.create(tmp_path / "s", heads={"logits": sl.Head(classes=20, encoding="topk:3")}) as writer:
        assert writer.append(range(10), {"logits": network(images)}) == 10
    assert sl.open(tmp_path / "s").rows == 10


@pytest.mark.parametrize("views", [1, 3])
def test_rows_are_pairs_of_example_and_view(views):
    source = as_source(np.arange(10, dtype=np.float32)[:, None])
    plan = RowPlan(source, views)
    keys, numbers = plan.names(views + 1, 4 * views + 2) if views > 1 else plan.names(2, 6)
    rows = np.arange(views + 1, 4 * views + 2) if views > 1 else np.arange(2, 6)
    assert len(plan) == 10 * views
    np.testing.assert_array_equal(keys, source.keys()[rows // views])
    np.testing.assert_array_equal(numbers, rows % views)
    np.testing.assert_array_equal(plan.inputs(rows)[:, 0], rows // views)


def test_views_reach_the_store(tmp_path):
    source = as_source(np.arange(4, dtype=np.float32)[:, None])
    head = sl.Head(classes=2, encoding="dense:f32")
    with sl.create(tmp_path / "s", heads={"logits": head}) as writer:
        keys, views = RowPlan(source, 2).names(0, 8)
        writer.append(keys, {"logits": np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)}, views=views)
    assert columns_of(tmp_path / "s")["view"].tolist() == [0, 1] * 4
    store = create_or_open(tmp_path / "s", sl.open(tmp_path / "s").descriptor)
    with UnitBuilder(store, 1) as builder:
        assert (builder.unit, builder.rows) == (1, 0)


def test_a_data_set_with_any_structure_of_inputs_is_labelled(tmp_path):
    """Inputs may be dictionaries of tensors, as a data set of Hugging Face or torch collates them."""
    examples = [{"x": torch.randn(5), "scale": torch.tensor(2.0)} for _ in range(12)]
    source = DatasetSource(examples, ids=[f"example {i}" for i in range(12)])
    teacher = _ScaledTeacher()
    sl.generate(source, teacher=teacher, out=tmp_path / "s", encoding="dense:f32", batch_size=5)
    expected = np.stack([(example["x"] * example["scale"]).numpy() for example in examples])
    np.testing.assert_allclose(sl.open(tmp_path / "s").read(range(12)).values, expected, rtol=1e-6)


class _ScaledTeacher:
    heads = {"logits": OutputHead(classes=5)}  # noqa: RUF012  declared as a model of the user would

    def __call__(self, inputs):
        return inputs["x"] * inputs["scale"][:, None]


def test_heads_cover_every_kind():
    assert set(HEADS) == set(ENCODINGS) == {"classes", "tokens", "pixels", "regression", "embedding"}
