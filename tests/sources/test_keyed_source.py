"""The members that sources share: keys, hard labels and splits."""

import pickle

import numpy as np
import pytest

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.keys import fingerprint
from softlabels.sources.class_labels import ClassLabels
from softlabels.sources.keyed_source import HASHED_ROWS, KeyedSource
from softlabels.sources.protocol import Columns
from softlabels.sources.split_names import Splits

KEYS = np.arange(64, dtype=np.uint8).reshape(4, 16)
ROWS = np.arange(4)
COLUMNS = Columns(inputs=("image",), label="kind")
LABELS = ClassLabels(np.array([1, 0, -1, 1], np.int32), own_names=("cat", "dog"), names=("cat", "dog"), classes=2)
SPLITS = Splits(("train", "test"), np.array([0, 0, 1, -1], np.int16))


@pytest.fixture
def labelled():
    return KeyedSource("pets", COLUMNS, KEYS, labels=LABELS, splits=SPLITS)


def test_keys_alone_are_a_source_without_labels_and_splits():
    source = KeyedSource("numbers", Columns(inputs=("x",)), KEYS)
    assert (len(source), source.classes, source.class_names, source.splits()) == (4, None, None, ())
    assert source.labels(ROWS) is None
    assert source.with_class_names(["cat"]) is source
    assert source.split(None).tolist() == [0, 1, 2, 3]
    with pytest.raises(InvalidArgument, match=r"numbers: no split 'test'; it has no split column"):
        source.split("test")
    with pytest.raises(InvalidArgument, match=r"numbers: no target 'logits'; it has: none"):
        source.target("logits", ROWS)


def test_hard_labels_are_a_target(labelled):
    assert labelled.targets["logits"].class_names == ("cat", "dog")
    assert labelled.target("logits", ROWS).tolist() == [1, 0, -1, 1]


def test_labels_without_a_class_are_no_target():
    labels = ClassLabels(np.full(4, -1, np.int32), own_names=None, names=None, classes=None)
    source = KeyedSource("pets", Columns(inputs=("image",), label="kind"), KEYS, labels=labels)
    assert dict(source.targets) == {}
    with pytest.raises(InvalidArgument, match="no target 'logits'"):
        source.target("logits", ROWS)


def test_classes_are_numbered_by_other_names(labelled):
    renamed = labelled.with_class_names(["dog", "cat"])
    assert (renamed.labels(ROWS).tolist(), labelled.labels(ROWS).tolist()) == ([0, 1, -1, 0], [1, 0, -1, 1])
    with pytest.raises(InvalidData, match="shown name"):
        KeyedSource("pets", COLUMNS, KEYS, labels=LABELS, name="shown name").with_class_names(["dog"])


def test_splits_have_many_spellings(labelled):
    assert labelled.split("Training").tolist() == [0, 1]
    assert labelled.splits() == ("test", "train")


def test_the_fingerprint_is_of_all_keys_in_order():
    keys = np.random.default_rng(0).integers(0, 256, (HASHED_ROWS + 3, 16), np.uint8)
    assert KeyedSource("many", Columns(inputs=("x",)), keys).fingerprint == fingerprint([keys])


def test_a_source_is_restored_with_arrays_of_its_own(tmp_path):
    keys = np.memmap(tmp_path / "keys", np.uint8, "w+", shape=KEYS.shape)
    keys[:] = KEYS
    source = KeyedSource("pets", COLUMNS, keys, labels=LABELS, splits=SPLITS)
    restored = pickle.loads(pickle.dumps(source))  # noqa: S301  made here
    keys[:] = 0  # what is in the file does not matter any more
    assert (restored.fingerprint, restored.keys(2).tolist()) == (fingerprint([KEYS]), KEYS[2:].tolist())
    assert restored.labels(ROWS).tolist() == [1, 0, -1, 1]
