"""Run directories: read back exactly, or refused with a typed error, in bounded memory."""

import contextlib
import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softlabels import models
from softlabels.errors import DataNotFound, InvalidArgument, RunCorrupt, SoftLabelsError, StorageFailed, StoreConflict
from softlabels.models import RUN_FILE, WEIGHTS_FILE, OutputHead, load_run, write_run
from softlabels.models.run_directory import record_from_bytes, record_to_bytes
from softlabels.models.run_files import make_folder, write_file
from softlabels.models.run_record import HeldOut, RunData, RunLabels, RunMetrics, RunModel, RunRecord
from softlabels.store.format import canonical_json

DATA = RunData(
    spec="digits",
    fingerprint="f" * 64,
    rows=100,
    inputs=("image",),
    label="label",
    shape=(3,),
    dtype="float32",
    class_names=("cat", "dög"),
    hard_labels="a" * 64,
    split="b" * 64,
    content=None,
    held_out=HeldOut(rule="keys", threshold=2**63, rows=10, trained_rows=90, sketch="0123456789abcdef" * 2),
)
LABELS = RunLabels(
    snapshot="c" * 64,
    teacher_spec="run:teacher",
    teacher_digest="d" * 64,
    encodings={"logits": "topk:4"},
    bytes_per_row=12.5,
)


def build(spec="mlp:width=2,depth=1", seed=0):
    return models.build(spec, input_shape=(3,), heads={"logits": OutputHead(classes=2)}, seed=seed)


def record_of(model, **changes):
    described = RunModel(spec=model.spec, config=model.config, digest=model.digest, covers=model.digest_covers)
    values = {
        "kind": "student",
        "model": described,
        "recipe": {"steps": None, "lr": 0.001, "seed": 0},
        "data": DATA,
        "labels": LABELS,
        "trainer": 2,
        "metrics": RunMetrics(steps=5, accuracy=0.5, held_out_rows=10),
    }
    return RunRecord(**(values | changes))


def save(folder, model=None, **changes):
    model = model or build()
    write_run(folder, record_of(model, **changes), model.module.state_dict())
    return model


def test_a_run_comes_back_as_it_was(tmp_path):
    model = save(tmp_path / "run")
    again = models.load(f"run:{tmp_path / 'run'}")
    assert again.digest == model.digest
    assert again.heads == model.heads
    assert again.run == record_of(model)
    inputs = np.ones((4, 3), np.float32)
    assert (again.predict(inputs)["logits"] == model.predict(inputs)["logits"]).all()
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == [WEIGHTS_FILE, RUN_FILE]


def test_a_run_for_other_inputs_is_refused(tmp_path):
    save(tmp_path)
    with pytest.raises(InvalidArgument, match=r"another input shape, got \(5,\); expected \(3,\)"):
        models.load(f"run:{tmp_path}", sample=np.zeros((1, 5)))


def test_a_run_that_has_not_finished_is_not_found(tmp_path):
    with pytest.raises(DataNotFound, match="no such directory"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(DataNotFound, match="training has not finished"):
        load_run(tmp_path)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-7])


def pickled(path):
    torch.save({"w": torch.zeros(2)}, path)


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def link_to_a_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def directory(path):
    path.unlink()
    path.mkdir()


def huge(path):
    with path.open("r+b") as file:
        file.truncate(2**40)


def long_header(path):
    path.write_bytes((90_000_000).to_bytes(8, "little") + b"{" + b" " * 100)


def nested(path):
    path.write_bytes(b"[" * 200_000)


def duplicate_key(path):
    path.write_bytes(path.read_bytes().replace(b'{"data"', b'{"trainer":2,"data"'))


def with_nan(path):
    path.write_bytes(path.read_bytes().replace(b"0.001", b"NaN"))


@pytest.mark.parametrize("name", [WEIGHTS_FILE, RUN_FILE])
@pytest.mark.parametrize("damage", [truncated, pickled, fifo, link_to_a_device, directory, huge, long_header, nested])
def test_a_damaged_file_is_refused(tmp_path, name, damage):
    save(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(RunCorrupt, match=name):
        load_run(tmp_path)


@pytest.mark.parametrize("damage", [duplicate_key, with_nan])
def test_json_that_no_writer_produces_is_refused(tmp_path, damage):
    save(tmp_path)
    damage(tmp_path / RUN_FILE)
    with pytest.raises(RunCorrupt, match="the run is damaged"):
        load_run(tmp_path)


def test_missing_weights_are_refused(tmp_path):
    save(tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(RunCorrupt, match="missing, got an incomplete run"):
        load_run(tmp_path)


def test_a_flipped_bit_in_any_byte_is_refused(tmp_path):
    save(tmp_path)
    for name in (WEIGHTS_FILE, RUN_FILE):
        original = (tmp_path / name).read_bytes()
        for position in range(len(original)):
            data = bytearray(original)
            data[position] ^= 1 << position % 8
            (tmp_path / name).write_bytes(data)
            with pytest.raises(RunCorrupt):
                load_run(tmp_path)
        (tmp_path / name).write_bytes(original)
    load_run(tmp_path)


def forge(folder, change):
    """Change the document of a run and sign it again, as somebody who knows the format would."""
    document = json.loads((folder / RUN_FILE).read_text())
    del document["digest"]
    change(document)
    document["digest"] = canonical_json.digest(document)
    (folder / RUN_FILE).write_bytes(canonical_json.to_bytes(document) + b"\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["options"].update(width=30_000),
        lambda config: config["options"].update(width=2**40),
        lambda config: config["options"].update(width=True),
        lambda config: config["options"].update(depth=256),
        lambda config: config.update(input_shape=[2**30, 2**30]),
        lambda config: config.update(input_shape="3"),
        lambda config: config["heads"]["logits"].update(classes=2**31 - 1),
        lambda config: config["heads"]["logits"].update(classes=2.5),
        lambda config: config["heads"]["logits"].update(shape=[None, None]),
        lambda config: config.update(kind="python"),
        lambda config: config.update(kind=[]),
        lambda config: config.update(version=2),
        lambda config: config.update(heads={}),
        lambda config: config.update(heads=[]),
        lambda config: config.pop("options"),
    ],
)
def test_a_declared_network_is_compared_with_the_weights_before_it_is_allocated(tmp_path, change):
    save(tmp_path)
    forge(tmp_path, lambda document: change(document["model"]["config"]))
    with pytest.raises(RunCorrupt):
        load_run(tmp_path)


def test_weights_larger_than_the_network_are_refused_before_they_are_read(tmp_path):
    """The file has a hole of 16 GiB, which takes no space on a disk."""
    save(tmp_path)
    with (tmp_path / WEIGHTS_FILE).open("r+b") as file:
        file.truncate(2**34)
    with pytest.raises(RunCorrupt, match="17,179,869,184 bytes"):
        load_run(tmp_path)


def test_an_option_of_a_later_version_is_refused(tmp_path):
    """It may change outputs without changing the shapes of the weights."""
    save(tmp_path)
    forge(tmp_path, lambda document: document["model"]["config"]["options"].update(stride=2))
    with pytest.raises(RunCorrupt, match="unknown option, got 'stride'; expected width, depth"):
        load_run(tmp_path)


@given(
    path=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    value=st.sampled_from([None, -1, 2**70, 0.5, "x", [], {}, True, [[]], "f" * 64]),
)
def test_forged_documents_are_typed_errors(tmp_path_factory, path, value):
    folder = tmp_path_factory.mktemp("run")
    saved = save(folder)

    def change(document):
        parent = document
        for index in path[:-1]:
            names = sorted(parent)
            child = parent[names[index % len(names)]]
            if not isinstance(child, dict) or not child:
                break
            parent = child
        parent[sorted(parent)[path[-1] % len(parent)]] = value

    forge(folder, change)
    loaded = None
    with contextlib.suppress(SoftLabelsError):
        loaded = load_run(folder)
    assert loaded is None or loaded.digest == saved.digest, "no field that the digest covers was changed"


def test_the_identity_changes_with_every_cause_and_not_with_names_or_results():
    record = record_of(build())
    same = [
        dataclasses.replace(record, metrics=None),
        dataclasses.replace(record, model=dataclasses.replace(record.model, digest=None)),
        dataclasses.replace(record, data=dataclasses.replace(DATA, spec="elsewhere.parquet")),
        dataclasses.replace(record, labels=dataclasses.replace(LABELS, teacher_spec="run:moved")),
    ]
    assert {other.identity for other in same} == {record.identity}
    other = build("mlp:width=3,depth=1")
    changed = [
        dataclasses.replace(record, kind="teacher"),
        dataclasses.replace(record, labels=None),
        dataclasses.replace(record, trainer=3),
        dataclasses.replace(record, recipe={**record.recipe, "seed": 1}),
        dataclasses.replace(record, model=dataclasses.replace(record.model, config=other.config)),
        dataclasses.replace(
            record, model=dataclasses.replace(record.model, config={**record.model.config, "version": 2})
        ),
        dataclasses.replace(record, model=dataclasses.replace(record.model, initial="e" * 64)),
        dataclasses.replace(record, labels=dataclasses.replace(LABELS, snapshot="e" * 64)),
        *(
            dataclasses.replace(record, data=dataclasses.replace(DATA, **{name: value}))
            for name, value in {
                "fingerprint": "0" * 64,
                "hard_labels": "0" * 64,
                "split": "0" * 64,
                "content": "0" * 64,
                "label": "other",
                "class_names": ("dög", "cat"),
                "inputs": ("x",),
                "dtype": "float64",
            }.items()
        ),
    ]
    identities = [record.identity, *(other.identity for other in changed)]
    assert len({*identities}) == len(identities)
    assert "recipe.seed is 1, not 0" in record.difference(changed[3])


def test_a_description_survives_its_document(tmp_path):
    record = record_of(build())
    assert record_from_bytes(tmp_path, record_to_bytes(record)) == record
    long = dataclasses.replace(
        record, data=dataclasses.replace(DATA, class_names=tuple("x" * 60_000 for _ in range(99)))
    )
    with pytest.raises(InvalidArgument, match="description of the run: too large"):
        record_to_bytes(long)


def test_tied_weights_are_saved(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 3, bias=False)
            self.second = torch.nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight

    data = models.run_directory.tensors_to_bytes(Tied().state_dict())
    tensors = models.run_directory.tensors_from_bytes(tmp_path, data)
    assert (tensors["first.weight"] == tensors["second.weight"]).all()


def test_a_directory_that_cannot_be_made_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "dangling"):
        with pytest.raises(StoreConflict, match="file or link is in the way"):
            make_folder(path)
    with pytest.raises(StorageFailed, match="cannot be written"):
        make_folder(tmp_path / ("x" * 300))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    import resource
    import signal

    write_file(tmp_path, "file", b"old")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StorageFailed, match="File too large"):
            write_file(tmp_path, "file", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_a_removed_directory_is_named(tmp_path):
    with pytest.raises(StorageFailed, match="the run directory was removed while it was in use"):
        write_file(tmp_path / "gone", "file", b"data")
