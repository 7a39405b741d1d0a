"""Records of teacher and data: absent fields are not written, and only identities decide if work is the same."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import softlabels as sl
from softlabels.errors import StoreConflict
from softlabels.store import DataRecord, TeacherRecord, create_or_open
from softlabels.store.format.fields import Fields
from softlabels_cli import inspect
from tests.corpus import forging

TEXT = st.text(max_size=8)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
TEACHERS = st.builds(
    TeacherRecord, spec=TEXT, digest=st.none() | TEXT, covers=TEXTS, version=st.none() | TEXT
)  # fmt: skip
COUNTS = st.none() | st.integers(0, 2**40)
DATA = st.builds(
    DataRecord, spec=TEXT, fingerprint=st.none() | TEXT, rows=COUNTS, columns=TEXTS, ignored=TEXTS,
    label=st.none() | TEXT, split=st.none() | TEXT, dtype=st.none() | TEXT,
    shape=st.none() | st.lists(COUNTS, max_size=3).map(tuple), classes=COUNTS, class_names=TEXTS,
)  # fmt: skip


@given(record=TEACHERS | DATA)
def test_a_record_comes_back_from_its_document(record):
    assert type(record).from_fields(Fields(record.to_json())) == record


def test_a_record_of_the_first_version_is_written_as_before():
    assert TeacherRecord(spec="t", digest=None).to_json() == {"spec": "t", "digest": None}
    assert DataRecord(spec="x", fingerprint=None, rows=None).to_json() == {
        "spec": "x", "fingerprint": None, "rows": None,
    }  # fmt: skip


def test_a_more_detailed_description_of_the_same_work_opens_the_store(tmp_path):
    descriptor = forging.descriptor("topk-zarr")
    storage = create_or_open(tmp_path / "s", descriptor).storage
    again = replace(
        descriptor,
        teacher=TeacherRecord(spec="elsewhere/teacher", digest="d", covers=("weights",)),
        data=replace(descriptor.data, spec="elsewhere/x.npz", columns=("a", "b"), classes=300),
    )
    assert create_or_open(storage, again).descriptor.teacher == descriptor.teacher


@pytest.mark.parametrize(
    "teacher",
    [
        TeacherRecord(spec="run:teacher", digest="e"),
        TeacherRecord(spec="run:teacher", digest="d", version="2"),
        TeacherRecord(spec="run:teacher", digest=None),
    ],
)
def test_another_teacher_is_refused(tmp_path, teacher):
    storage = create_or_open(tmp_path / "s", forging.descriptor("topk-zarr")).storage
    with pytest.raises(StoreConflict, match=r"its teacher is run:teacher \(digest d\), here it would be run:teacher"):
        create_or_open(storage, forging.descriptor("topk-zarr", teacher=teacher))


def test_a_merged_store_keeps_the_fields_in_which_its_data_agree(tmp_path):
    parts = [
        DataRecord(spec=name, fingerprint=name, rows=forging.ROWS, columns=("a", "b"), split=name)
        for name in ("x", "y")
    ]
    stores = [
        forging.make(
            tmp_path / source.spec, "topk-zarr", data=source,
            spoil=lambda arrays, index=index: arrays["key"].__setitem__((slice(None), 1), index),
        )
        for index, source in enumerate(parts)
    ]  # fmt: skip
    sl.merge(stores, tmp_path / "out")
    merged = sl.open(tmp_path / "out").descriptor.data
    assert (merged.spec, merged.columns, merged.split) == ("x + y", ("a", "b"), None)
    assert merged.rows == sl.open(tmp_path / "out").rows


def test_inspect_shows_the_provenance(tmp_path):
    teacher = TeacherRecord(spec="python:t.py:net", digest="ab12", covers=("weights", "source"), version="May")
    data = DataRecord(
        spec="iris.csv", fingerprint="f", rows=forging.ROWS, columns=("petal", "sepal"), ignored=("note",),
        label="species", split="train", dtype="float32", shape=(2,), classes=3,
        class_names=("setosa", "virginica", "versicolor"),
    )  # fmt: skip
    root = forging.make(tmp_path / "s", "topk-zarr", teacher=teacher, data=data)
    shown = CliRunner().invoke(inspect.command, [str(root)]).output
    for line in (
        "python:t.py:net, version May, digest ab12", "the digest covers weights, source",
        "iris.csv, 12 rows, fingerprint f",
        "split train", "columns petal, sepal", "ignored note", "input float32 (2)",
        "3 classes in column species: setosa, virginica, versicolor",
    ):  # fmt: skip
        assert line in shown
    described = json.loads(CliRunner().invoke(inspect.command, [str(root), "--json"]).output)
    assert (described["schema_version"], described["teacher"], described["data"]) == (
        1, teacher.to_json(), data.to_json(),
    )  # fmt: skip
