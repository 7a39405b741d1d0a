"""Targets: ground truth of several heads, from columns of classes, numbers and masks."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softlabels.errors import ColumnMissing, InvalidArgument, InvalidData, UnreadableRow
from softlabels.sources import DistinctSource, as_source, describe_source, open_source

ROWS = 7
MASKS = (np.arange(ROWS * 6).reshape(ROWS, 2, 3) % 4).astype(np.uint8)
ANGLES = np.linspace(-3, 3, ROWS).astype(np.float32)


def nested(array):
    column = pa.array(array.reshape(-1))
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


@pytest.fixture
def drive(tmp_path):
    """A Parquet file in small row groups: image, mask, angle in degrees, vector, weather and label."""
    masks = MASKS.copy()
    masks[2, 0, 0] = 255
    columns = {
        "image": nested(np.arange(ROWS * 4, dtype=np.uint8).reshape(ROWS, 2, 2)),
        "mask": nested(masks),
        "angle": pa.array([None, *ANGLES[1:]], pa.float32()),
        "path": pa.array([[1.0, 2.0]] * (ROWS - 1) + [None], pa.list_(pa.float64())),
        "weather": pa.array(["sun", "rain"] * 3 + [None]),
        "label": pa.array(np.arange(ROWS) % 3),
    }
    table = pa.table(columns)
    field = pa.field("angle", pa.float32(), metadata={"unit": "degrees"})
    table = table.cast(table.schema.set(table.schema.get_field_index("angle"), field))
    pq.write_table(table, tmp_path / "drive.parquet", row_group_size=2)
    return tmp_path / "drive.parquet"


TARGETS = {"road": "mask", "steering": "angle", "path": "path", "weather": "weather"}


def test_targets_are_described_by_head_and_kind(drive):
    source = open_source(drive, targets=TARGETS)
    assert list(source.targets) == ["logits", "road", "steering", "path", "weather"]
    road, steering, path, weather = (source.targets[name] for name in TARGETS)
    assert (road.kind, road.classes, road.shape, road.column) == ("pixels", 4, (2, 3), "mask")
    assert (steering.kind, steering.classes, steering.unit) == ("regression", 1, "degrees")
    assert (path.kind, path.classes, weather.class_names) == ("regression", 2, ("rain", "sun"))
    assert source.targets["logits"].classes == source.classes == 3
    assert "target road: mask, 4 classes per pixel of 2x3" in str(describe_source(source))
    assert "target steering: angle, a number in degrees" in str(describe_source(source))
    assert describe_source(source).to_json()["targets"]["steering"]["unit"] == "degrees"


@pytest.mark.parametrize("change", [lambda s: s, lambda s: pickle.loads(pickle.dumps(s)), DistinctSource])  # noqa: S301
def test_target_returns_the_values_of_rows_in_their_order(drive, change):
    source = change(open_source(drive, targets=TARGETS))
    rows = np.array([6, 0, 2, 2])
    expected = MASKS[rows].astype(np.int64)
    expected[2:, 0, 0] = -1
    road = source.target("road", rows)
    assert road.dtype == np.int64
    np.testing.assert_array_equal(road, expected)
    steering = source.target("steering", rows)
    assert steering.dtype == np.float32
    np.testing.assert_array_equal(steering[:, 0], [ANGLES[6], np.nan, ANGLES[2], ANGLES[2]])
    np.testing.assert_array_equal(source.target("path", rows), [[np.nan, np.nan], [1, 2], [1, 2], [1, 2]])
    assert source.target("weather", rows).tolist() == [-1, 1, 1, 1]
    assert source.target("logits", rows).tolist() == source.labels(rows).tolist() == [0, 0, 2, 2]


def test_shuffled_reading_of_masks_decodes_a_bounded_number_of_rows(drive):
    source = open_source(drive, targets={"road": "mask"})
    for row in [0, 6, 1, 5, 2, 4, 3] * 20:
        assert source.target("road", np.array([row]))[0, 1, 1] == MASKS[row, 1, 1]
        assert source.inputs(np.array([row]))[0, 0, 0] == row * 4
    assert source.decoded_rows <= 8 * ROWS


def test_arrays_have_targets():
    source = as_source({"x": np.zeros((ROWS, 3)), "mask": MASKS, "label": np.arange(ROWS)}, targets={"road": "mask"})
    np.testing.assert_array_equal(source.target("road", np.array([3, 1])), MASKS[[3, 1]])
    assert source.columns.inputs == ("x",)


def test_kind_behind_the_column_decides_between_classes_and_numbers():
    columns = {"x": np.zeros((3, 2)), "age": np.array([30, 40, 41])}
    assert as_source(columns, targets={"age": "age"}).targets["age"].classes == 42
    source = as_source(columns, targets={"age": "age:regression"})
    assert source.target("age", np.arange(3)).tolist() == [[30.0], [40.0], [41.0]]


def test_the_target_logits_is_the_label():
    columns = {"x": np.zeros((3, 2)), "digit": np.array([1, 0, 1])}
    source = as_source(columns, targets={"logits": "digit"})
    assert source.columns.label == "digit"
    assert source.labels(np.arange(3)).tolist() == [1, 0, 1]
    with pytest.raises(InvalidArgument, match="hard labels are the target 'logits'"):
        as_source(columns, label="x", targets={"logits": "digit"})


def test_a_source_without_labels_has_no_targets():
    source = as_source(np.zeros((3, 2)))
    assert dict(source.targets) == {}
    with pytest.raises(InvalidArgument, match="no target 'road'; it has: none"):
        source.target("road", np.arange(1))


@pytest.mark.parametrize(
    ("values", "option", "message"),
    [
        (pa.array([1.0, float("inf"), 2.0]), "y", "row 1: not finite as float32, got inf"),
        (pa.array([1.0, 1e300, 2.0]), "y", "row 1: not finite as float32, got 1e"),
        (pa.array([[1.0], [1.0, 2.0], [1.0]]), "y", "row 1: vectors must have one width"),
        (pa.array([[[1]], [[40_000]], [[1]]]), "y", "row 1: not a mask of class numbers, got 40000"),
        (pa.array([[[1]], [[-2]], [[1]]]), "y", "row 1: not a mask of class numbers, got -2"),
        (pa.array([[[1]], None, [[1]]]), "y", "row 1: the value is null"),
        (pa.array([[[1.5]], [[1.5]], [[1.5]]]), "y", "cannot be a target, got list"),
        (pa.array([["a"]] * 3), "y", "cannot be a target, got list"),
        (pa.array(["a", "b", "c"]), "y:regression", "row 0: not a number"),
    ],
)
def test_values_that_are_no_target_are_refused_with_their_row(values, option, message):
    table = pa.table({"x": [[1.0], [2.0], [3.0]], "y": values})
    with pytest.raises(InvalidData, match=message):
        as_source(table, targets={"head": option}, label=False)


def test_a_column_has_one_role():
    columns = {"x": np.zeros((3, 2)), "y": np.array([1, 0, 1])}
    with pytest.raises(InvalidArgument, match="a column has one role, got 'y'"):
        as_source(columns, label="y", targets={"head": "y"})
    with pytest.raises(ColumnMissing, match="no column 'z'"):
        as_source(columns, targets={"head": "z"})


def test_unreadable_rows_travel_between_processes():
    error = UnreadableRow.of("photos, row 3: truncated", np.array([3, 5]), "truncated")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (again.rows, again.reason, str(again)) == ((3, 5), "truncated", "photos, row 3: truncated")
