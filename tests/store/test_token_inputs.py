"""Token ids, marks and the tokenizer in a store: what comes out is what went in, and damage is an error."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from blake3 import blake3

import softlabels as sl
from softlabels.errors import InvalidArgument, StoreConflict, StoreCorrupt, StoreUnsupported
from softlabels.keys import content_keys
from softlabels.labels import Head
from softlabels.sources.store_tokens import StoreTokens
from softlabels.store import DataRecord, Descriptor, TeacherRecord, create_or_open, merge, seal, verify
from softlabels.store.format import canonical_json, descriptor
from softlabels.store.format.descriptor import parse_descriptor
from softlabels.store.format.token_inputs import TokenInputs

CLASSES = 300
TOKENIZER = b'{"format":"softlabels-tokenizer"}'
DIGEST = blake3(TOKENIZER).hexdigest()
HEADS = {"logits": Head(encoding="dense:f32", classes=3, kind="tokens", shape=(None,))}


def rows_of(count, seed=0):
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        ids = generator.integers(0, CLASSES, generator.integers(2, 9))
        marks = np.full(len(ids), 2, np.uint8)
        marks[0], marks[-1] = 3, 0
        rows.append((ids, marks, generator.normal(size=(len(ids) - 1, 3)).astype(np.float32)))
    return rows


def columns_of(rows):
    lengths = np.array([len(ids) for ids, _, _ in rows], np.uint32)
    return {
        "key": np.concatenate([content_keys(ids[None].astype(np.int64)) for ids, _, _ in rows]),
        "view": np.zeros(len(rows), np.uint32),
        "inputs/length": lengths,
        "inputs/ids": np.concatenate([ids for ids, _, _ in rows]).astype(np.uint16),
        "inputs/marks": np.concatenate([marks for _, marks, _ in rows]),
        "logits/length": lengths - 1,
        "logits/values": np.concatenate([values for _, _, values in rows]),
    }


def descriptor_of(count, **changes):
    values = {
        "rows": count, "unit_rows": 8, "chunk_rows": 3, "heads": HEADS,
        "teacher": TeacherRecord(spec="teacher", digest="ab"),
        "data": DataRecord(spec="text", fingerprint="cd", rows=count),
        "inputs": TokenInputs(vocabulary=CLASSES, tokenizer=DIGEST),
    }  # fmt: skip
    return Descriptor(**values | changes)


def write(path, rows, **changes):
    layout = descriptor_of(len(rows), **changes)
    store = create_or_open(path, layout, tokenizer=TOKENIZER)
    for unit in range(layout.units):
        numbers = layout.unit_range(unit)
        with store.begin(unit) as writer:
            writer.append(columns_of(rows[numbers.start : numbers.stop]))
            writer.commit()
    seal(path)
    return sl.open(path)


@pytest.mark.parametrize("shard_format", ["zarr", "parquet"])
def test_token_ids_marks_and_tokenizer_come_back(tmp_path, shard_format):
    rows = rows_of(21)
    store = write(tmp_path / "store", rows, shard_format=shard_format)
    chosen = np.array([20, 0, 7, 8])
    ids, lengths, marks = store.read_inputs(chosen)
    assert ids.tolist() == np.concatenate([rows[row][0] for row in chosen]).tolist()
    assert marks.tolist() == np.concatenate([rows[row][1] for row in chosen]).tolist()
    assert lengths.tolist() == [len(rows[row][0]) for row in chosen]
    assert store.read(chosen).values.tolist() == np.concatenate([rows[row][2] for row in chosen]).tolist()
    assert store.tokenizer_document() == TOKENIZER
    assert not verify(tmp_path / "store").bad


def test_zarr_opens_the_ids_as_an_array(tmp_path):
    zarr = pytest.importorskip("zarr")
    rows = rows_of(3)
    write(tmp_path / "store", rows)
    shard = next((tmp_path / "store" / "shards").rglob("*.zip"))
    with zarr.storage.ZipStore(shard) as file:
        ids = zarr.open_group(file, mode="r")["inputs/ids"][:]
    assert ids[: sum(len(row[0]) for row in rows)].tolist() == np.concatenate([row[0] for row in rows]).tolist()


def test_stores_of_one_tokenizer_merge_with_their_tokens(tmp_path):
    first, second = rows_of(5, seed=1), rows_of(4, seed=2)
    write(tmp_path / "a", first)
    write(tmp_path / "b", second)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    store = sl.open(tmp_path / "c")
    ids, _, marks = store.read_inputs(np.arange(9))
    assert ids.tolist() == np.concatenate([row[0] for row in first + second]).tolist()
    assert marks.tolist() == np.concatenate([row[1] for row in first + second]).tolist()
    assert store.tokenizer_document() == TOKENIZER
    write(tmp_path / "d", second, inputs=TokenInputs(vocabulary=CLASSES))
    with pytest.raises(StoreConflict, match="other inputs"):
        merge([tmp_path / "a", tmp_path / "d"], tmp_path / "e")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda columns: columns["inputs/ids"].fill(CLASSES), "not below the vocabulary of 300"),
        (lambda columns: columns["inputs/marks"].fill(8), "mark 8 is above 7"),
        (lambda columns: columns["inputs/marks"].fill(2), "positions in row 0 of the chunk, but"),
    ],
)
def test_values_that_no_encoder_writes_are_refused(tmp_path, change, problem):
    columns = columns_of(rows_of(2))
    change(columns)
    store = create_or_open(tmp_path / "store", descriptor_of(2), tokenizer=TOKENIZER)
    with store.begin(0) as writer:
        writer.append(columns)
        writer.commit()
    seal(tmp_path / "store")
    with pytest.raises(StoreCorrupt, match=problem):
        sl.open(tmp_path / "store").read_chunk(0)


def test_a_damaged_tokenizer_is_an_error(tmp_path):
    store = write(tmp_path / "store", rows_of(2))
    path = next((tmp_path / "store" / "tokenizers").iterdir())
    path.chmod(0o600)
    path.write_bytes(TOKENIZER + b" ")
    with pytest.raises(StoreCorrupt, match="tokenizers"):
        store.tokenizer_document()
    assert [problem.path for problem in verify(tmp_path / "store").bad]
    path.unlink()
    with pytest.raises(StoreCorrupt, match="tokenizers"):
        store.tokenizer_document()


def test_a_store_without_inputs_has_none(sealed):
    store = sl.open(sealed)
    assert store.inputs is None
    assert store.tokenizer_document() is None
    with pytest.raises(InvalidArgument, match="holds labels alone"):
        store.read_inputs(np.arange(2))


def test_the_tokenizer_must_be_the_one_that_is_named(tmp_path):
    with pytest.raises(InvalidArgument, match="another document"):
        create_or_open(tmp_path / "store", descriptor_of(2), tokenizer=b"other")
    with pytest.raises(InvalidArgument, match="another document"):
        create_or_open(tmp_path / "store", descriptor_of(2))


def test_a_head_cannot_have_the_name_of_the_inputs():
    with pytest.raises(InvalidArgument, match="Rename the head"):
        descriptor_of(2, heads={"Inputs": HEADS["logits"]})
    assert descriptor_of(2, heads={"inputs": HEADS["logits"]}, inputs=None).columns()["inputs/length"]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "pixels"}, {"vocabulary": 0}, {"vocabulary": "3"}, {"dtype": "uint32"}, {"tokenizer": "x"},
        {"vocabulary": 2**31}, {"written_by": 3}, {"written_by": "x" * 201},
    ],
)  # fmt: skip
def test_damaged_sections_are_refused(change):
    document = json.loads(json.dumps(descriptor_of(2).to_json()))
    document["inputs"] |= change
    with pytest.raises(ValueError, match=r"inputs|vocabulary|written_by"):
        parse_descriptor(canonical_json.to_bytes(document))


def test_readers_without_the_feature_refuse(monkeypatch):
    monkeypatch.setattr(descriptor, "KNOWN", ("codebook",))
    with pytest.raises(StoreUnsupported, match="inputs"):
        parse_descriptor(canonical_json.to_bytes(descriptor_of(2).to_json()))


def test_a_descriptor_comes_back_from_its_document():
    for inputs in (TokenInputs(vocabulary=70_000), TokenInputs(vocabulary=5, tokenizer=DIGEST, written_by="me"), None):
        written = descriptor_of(2, inputs=inputs)
        assert parse_descriptor(canonical_json.to_bytes(written.to_json())) == replace(written, document=None)
    assert descriptor_of(2).columns()["inputs/ids"].entry_bytes == 2


def test_the_tokens_of_a_store_are_a_source_for_its_labels(tmp_path):
    rows = rows_of(21)
    store = write(tmp_path / "store", rows, inputs=TokenInputs(vocabulary=CLASSES))
    source = StoreTokens(store)
    assert (source.keys() == store.keys()).all()
    loader = sl.loader(store, inputs=source, batch_size=4, seed=3, check="all")
    seen = 0
    for batch in loader:
        lengths = batch.inputs.lengths
        assert batch.inputs.values.tolist() == np.concatenate([rows[row][0] for row in batch.rows]).tolist()
        assert batch.inputs.marks.tolist() == np.concatenate([rows[row][1] for row in batch.rows]).tolist()
        assert batch.targets["logits"].lengths.tolist() == (lengths - 1).tolist()
        seen += len(batch)
    assert seen == 21
    copied = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert copied.inputs(np.array([5, 2])).values.tolist() == source.inputs(np.array([5, 2])).values.tolist()


def test_a_store_of_labels_alone_is_no_source(sealed):
    with pytest.raises(InvalidArgument, match="holds labels alone"):
        StoreTokens(sl.open(sealed))
