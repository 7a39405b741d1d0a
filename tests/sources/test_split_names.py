"""Splits: usual spellings mean train, validation and test; blank cells are missing."""

import numpy as np
import pyarrow as pa
import pytest

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.sources import as_source
from softlabels.training.splits import split_rows


def source(split):
    return as_source(pa.table({"x": np.arange(len(split), dtype=np.float64), "split": split}))


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "Test"), ("TRAINING", "testing"), (" train", "test "), ("trn", "tst"), ("tr", "te")],
)
def test_spellings_of_train_and_test_are_understood(train, test):
    opened = source([train, test, train])
    assert opened.splits() == ("test", "train")
    assert opened.split("train").tolist() == opened.split(train).tolist() == [0, 2]
    rows, held_out = split_rows(opened)
    assert (rows.tolist(), held_out.tolist()) == ([0, 2], [1])


def test_validation_has_spellings_too_and_is_not_trained_on():
    assert source(["train", "dev", "Val", "valid"]).split("validation").tolist() == [1, 2, 3]
    assert split_rows(source(["train", "dev"]))[0].tolist() == [0]


def test_other_names_can_be_chosen_but_not_trained_on_by_default():
    opened = source(["Fold 1", "Fold 2"])
    assert opened.split("Fold 2").tolist() == [1]
    with pytest.raises(InvalidArgument, match="no split is called train, got Fold 1, Fold 2"):
        split_rows(opened)
    with pytest.raises(InvalidArgument, match="no split 'fold 1'; its splits are Fold 1, Fold 2"):
        opened.split("fold 1")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pa.array([0, 1]), ("0", "1")),
        (pa.array([0.0, None]), ("0",)),
        (pa.array([True, False]), ("False", "True")),
        (pa.array([b"train", b"test"]), ("test", "train")),
        (pa.array(["train", "test"]).dictionary_encode(), ("test", "train")),
        (pa.array([["train"], ["test"]]), ("test", "train")),
        (pa.array(["train", "", " ", None]), ("train",)),
        (pa.nulls(2), ()),
    ],
)
def test_columns_of_splits_are_understood_whatever_their_type(values, names):
    assert source(values).splits() == names


def test_measurements_called_split_are_no_splits():
    with pytest.raises(InvalidData, match=r"splits must be text or whole numbers, got 0\.5"):
        source([0.5, 1.5])
    with pytest.raises(InvalidData, match="splits must be text or whole numbers, got struct"):
        source(pa.array([{"a": 1}, {"a": 2}]))
    with pytest.raises(InvalidData, match="more than 1,000 different splits"):
        source([str(row) for row in range(1001)])
