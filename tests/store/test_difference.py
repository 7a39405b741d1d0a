"""Differences of documents in messages."""

import pytest

import softlabels as sl
from softlabels.errors import StoreConflict
from softlabels.labels import Head
from softlabels.store import DataRecord, TeacherRecord, create_or_open
from softlabels.store.format.difference import difference
from tests.corpus import forging


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"rows": 5, "seed": 0}, {"rows": 5, "seed": 1}, "its seed is 0, here it would be 1"),
        ({"rows": None}, {"rows": 5}, "its rows is absent, here it would be 5"),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1, "d": 3}}}, "its a.b.d is 2, here it would be 3"),
        (
            {"heads": {"x": {"k": 1}}},
            {"heads": {"y": {"k": 1}}},
            "its heads.y is absent, here it would be k 1; other differences: heads.x",
        ),
        (
            {"rows": 1, "seed": 2, "teacher": "a"},
            {"rows": 2, "seed": 3, "teacher": "b"},
            "its teacher is a, here it would be b; other differences: rows, seed",
        ),
        ({"t": [1.0, 2.0]}, {"t": [1.0]}, "its t is 1.0, 2.0, here it would be 1.0"),
        ({"t": []}, {"t": {}}, "its t is empty, here it would be empty"),
        ({"old": 1}, {}, "its old is 1, here it would be absent"),
        ({"long": "x" * 500}, {"long": "y"}, f"its long is {'x' * 100}, here it would be y"),
    ],
)
def test_the_most_telling_difference_is_named_by_its_path(before, after, message):
    assert difference(before, after) == message


def test_another_head_is_named_by_what_differs(tmp_path):
    head = Head(encoding="topk:3:f16", classes=300, temperatures=(1.0, 2.0))
    create_or_open(tmp_path / "s", forging.descriptor("topk-zarr"))
    with pytest.raises(StoreConflict, match=r"its heads\.logits\.temperatures is 1\.0, here it would be 1\.0, 2\.0"):
        create_or_open(tmp_path / "s", forging.descriptor("topk-zarr", heads={"logits": head}))


def test_a_head_that_cannot_be_reused_is_named_by_what_differs(tmp_path):
    heads = {"logits": Head(encoding="topk:4:f16", classes=300)}
    stores = [forging.make(tmp_path / "a", "topk-zarr"), tmp_path / "b"]
    writer = create_or_open(stores[1], forging.descriptor("topk-zarr", heads=heads))
    for unit in writer.missing():
        with writer.begin(unit) as open_unit:
            columns = forging.columns("topk-zarr", writer.descriptor.unit_range(unit))
            for name in ("logits/ids", "logits/values"):
                columns[name] = columns[name][:, [0, 1, 2, 2]]
            columns["logits/ids"][:, 3] = 299
            open_unit.append(columns)
            open_unit.commit()
    sl.seal(stores[1])
    with pytest.raises(StoreConflict, match=r"head 'logits': its encoding is topk:4:f16, here it would be topk:3"):
        sl.merge(stores, tmp_path / "all")


def test_another_teacher_and_other_data_are_named_by_their_users_names(tmp_path):
    create_or_open(tmp_path / "s", forging.descriptor("topk-zarr"))
    teacher = TeacherRecord(spec="run:other", digest="cd" * 32, version="May")
    data = DataRecord(spec="more.csv", fingerprint="ef" * 32, rows=forging.descriptor("topk-zarr").rows)
    with pytest.raises(StoreConflict, match=r"here it would be run:other \(digest cdcdcdcdcdcd, version May\)"):
        create_or_open(tmp_path / "s", forging.descriptor("topk-zarr", teacher=teacher))
    with pytest.raises(
        StoreConflict, match=r"its data is .* here it would be more\.csv \([0-9]+ rows, fingerprint efef"
    ):
        create_or_open(tmp_path / "s", forging.descriptor("topk-zarr", data=data))
