"""Class numbers belong to the run: names have one order, and other files are mapped onto them by name."""

import pickle
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.sources import DistinctSource, as_source, open_source, order_names
from softlabels.sources.class_labels import LabelReader

NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Z", "C"]), min_size=1, max_size=4).map(
        lambda text: unicodedata.normalize("NFC", text)
    ),
    min_size=1,
    max_size=6,
    unique=True,
)


def source(labels, **options):
    rows = np.arange(len(labels), dtype=np.float64)
    return as_source(pa.table({"x": rows, "label": labels}), **options)


def read(values):
    reader = LabelReader(len(values), "data, column 'label'")
    reader.append(values, 0)
    return reader.finish().take(np.arange(len(values))).tolist()


@given(names=NAMES, data=st.data())
def test_a_file_with_fewer_classes_in_another_order_has_the_same_numbers(names, data):
    full = source(names)
    rows = data.draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=12))
    other = source([names[row] for row in rows], class_names=full.class_names)
    numbers = dict(zip(names, full.labels(np.arange(len(names))).tolist(), strict=True))
    assert other.labels(np.arange(len(rows))).tolist() == [numbers[names[row]] for row in rows]
    assert (other.classes, other.class_names) == (full.classes, full.class_names)


def test_names_that_are_numbers_are_ordered_by_value():
    assert order_names(["10", "9", "-1", "2.5"]) == ("-1", "2.5", "9", "10")
    assert source(["10", "2", "2"]).class_names == ("2", "10")
    assert order_names(["b10", "b2", "a"]) == ("a", "b10", "b2")


def test_unicode_forms_and_surrounding_blanks_make_no_other_class():
    assert source([unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]).classes == 1
    assert source(["cat", " cat "]).class_names == ("cat",)


def test_blank_and_null_labels_are_missing():
    labels = source(["cat", "", "  ", None])
    assert labels.labels(np.arange(4)).tolist() == [0, -1, -1, -1]
    assert labels.classes == 1


def test_a_name_that_the_run_does_not_know_is_an_error_that_lists_it():
    with pytest.raises(InvalidData, match=r"1 labels are not among the class names, got 'ox'; expected 'cat', 'dog'"):
        source(["cat", "ox"], class_names=["cat", "dog"])
    with pytest.raises(InvalidArgument, match="class names must be different texts"):
        source(["cat"], class_names=["cat", "cat"])


def test_plain_numbers_are_mapped_by_name_where_names_are_numbers_else_by_position():
    numbers = source(pa.array([10, 2, None]))
    assert numbers.with_class_names(["2", "10"]).labels(np.arange(3)).tolist() == [1, 0, -1]
    assert source([0, 1]).with_class_names(["cat", "dog", "ox"]).labels(np.arange(2)).tolist() == [0, 1]
    assert source([0, 1]).with_class_names(["cat", "dog", "ox"]).classes == 3
    with pytest.raises(InvalidData, match="got '2'; expected 'cat', 'dog'"):
        source([0, 2]).with_class_names(["cat", "dog"])


def test_text_numbers_are_numbers_where_the_run_has_no_names():
    assert source(["10", "2"]).with_class_names(None).labels(np.arange(2)).tolist() == [10, 2]
    with pytest.raises(InvalidData, match="labels must be class numbers, got 'cat'"):
        source(["cat", "2"]).with_class_names(None)


def test_names_recorded_by_datasets_are_used_and_mapped(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"x": datasets.Value("float32"), "label": datasets.ClassLabel(names=["dog", "cat"])})
    data = datasets.Dataset.from_dict({"x": [1.0, 2.0], "label": [0, 1]}, features=features)
    data.to_parquet(tmp_path / "d.parquet")
    opened = open_source(tmp_path / "d.parquet")
    assert opened.class_names == ("dog", "cat")
    assert opened.labels(np.arange(2)).tolist() == [0, 1]
    assert opened.with_class_names(["cat", "dog"]).labels(np.arange(2)).tolist() == [1, 0]
    assert as_source(data).class_names == ("dog", "cat")


def test_the_mapping_survives_wrapping_and_pickling():
    renamed = DistinctSource(source(["b", "a"])).with_class_names(["b", "z", "a"])
    assert renamed.labels(np.arange(2)).tolist() == [0, 2]
    assert pickle.loads(pickle.dumps(renamed)).labels(np.arange(2)).tolist() == [0, 2]  # noqa: S301  our own bytes


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (pa.array([True, False, None]), [1, 0, -1]),
        (pa.array([1.0, float("nan"), 0.0]), [1, -1, 0]),
        (pa.array([1, -1, None], pa.int8()), [1, -1, -1]),
        (pa.array([2, 0], pa.uint64()), [2, 0]),
        (pa.array([2, None], pa.uint8()), [2, -1]),
        (pa.array([b"b", b"a"]), [1, 0]),
        (pa.nulls(2), [-1, -1]),
        (pa.array([[1], [0]]), [1, 0]),
        (pa.array([1, 0], pa.float16()), [1, 0]),
    ],
)
def test_labels_are_understood_where_it_is_safe(values, labels):
    assert read(values) == labels


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([0.0, 0.5]), "row 1: the label 0.5 is not a whole number"),
        (pa.array([0, -100]), "row 1: the label -100 is negative"),
        (pa.array([0, 10**12]), "row 1: the label 1000000000000 is too large"),
        (pa.array([0, 2**63 + 1], pa.uint64()), "row 1: the label 9223372036854775809 is too large"),
        (pa.array([0.0, float("inf")]), "row 1: the label inf is too large"),
        (pa.array([[0, 1], [1, 0]]), r"row 0: expected one value per row, got a list of 2.*argmax of one-hot"),
        (pa.array([1, 2], pa.timestamp("s")), r"labels must be whole numbers or text, got timestamp\[s\]"),
        (pa.array([b"\xff"]), "not UTF-8 text"),
    ],
)
def test_what_is_no_label_is_an_error_that_names_the_row(values, message):
    with pytest.raises(InvalidData, match=message):
        read(values)


def test_labels_of_one_column_in_a_file_of_several_row_groups_have_one_numbering(tmp_path):
    pq.write_table(
        pa.table({"x": [1.0, 2.0, 3.0, 4.0], "label": ["d", "c", "b", "a"]}), tmp_path / "d.parquet", row_group_size=1
    )
    assert open_source(tmp_path / "d.parquet").labels(np.arange(4)).tolist() == [3, 2, 1, 0]


def test_numbers_that_count_from_one_are_not_taken_for_positions():
    """They would be shifted by one without a word."""
    with pytest.raises(InvalidData, match="lack 0, got 1 to 2; expected positions from 0 in 'cat', 'dog', 'ox'"):
        source([1, 2, 1]).with_class_names(["cat", "dog", "ox"])
