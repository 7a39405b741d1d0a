"""Class numbers that do not occur are named, and refused where they cannot be classes."""

import numpy as np
import pytest

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.generation import generate
from softlabels.sources import as_source, describe_gaps, describe_source, missing_classes
from softlabels.training import train_teacher


def data(labels):
    return as_source(
        {"x": np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32), "label": np.array(labels)}
    )


def test_numbers_that_do_not_occur_are_named_with_what_to_do():
    source = data([3, 5, 10, 20] * 5)
    assert len(missing_classes(source)) == 17
    text = str(describe_source(source))
    assert "warning: 17 of 21 class numbers do not occur (0 to 2, 4, 6 to 9, 11 to 19)" in text
    assert "use their names as labels" in text
    assert "17 of 21" in describe_source(source).to_json()["gaps"]


@pytest.mark.parametrize("labels", [[0, 1, 2] * 7, [0, 1, -1] * 7, ["3", "5", "20"] * 7])
def test_classes_without_gaps_and_named_ones_have_no_warning(labels):
    source = data(labels)
    assert describe_gaps(source) is None
    assert "warning" not in str(describe_source(source))


def test_many_gaps_are_abbreviated():
    assert "(0, 2, 4, 6, ...)" in str(describe_gaps(data(list(range(1, 41, 2)))))


def test_a_teacher_of_another_class_count_is_refused_with_the_gaps(tmp_path):
    with pytest.raises(InvalidArgument, match=r"3 classes, the labels .* show 21: 17 of 21 class numbers do not occur"):
        generate(data([3, 5, 10, 20] * 5), teacher=lambda x: x[:, :3], out=tmp_path / "labels")


def test_identifiers_are_not_trained_on_as_classes(tmp_path):
    with pytest.raises(InvalidData, match="numbers up to 70,019 in 18 rows; expected classes counted from 0"):
        train_teacher(data(range(70_000, 70_020)), "mlp:width=4,depth=1", tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()
