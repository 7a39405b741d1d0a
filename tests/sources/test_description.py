"""The description of a source says what is used, what is not, and why."""

import json

import numpy as np

from softlabels.sources import DistinctSource, TokenSource, describe_source, open_source


def test_unused_columns_have_a_reason(tmp_path):
    (tmp_path / "d.csv").write_text(
        ",id,a,when,note,Label,split\n0,7,1.5,2024-01-01,one,cat,Train\n1,8,2.5,2024-01-02,two,dog,test\n"
    )
    description = describe_source(open_source(tmp_path / "d.csv"))
    assert description.to_json() == {
        "spec": str(tmp_path / "d.csv"),
        "rows": 2,
        "inputs": ["a"],
        "input_shape": [1],
        "input_dtype": "float64",
        "label": "Label",
        "id": None,
        "split": "split",
        "splits": {"test": 1, "train": 1},
        "classes": 2,
        "class_names": ["cat", "dog"],
        "targets": {
            "logits": {
                "kind": "classes",
                "classes": 2,
                "shape": [],
                "class_names": ["cat", "dog"],
                "unit": None,
                "column": "Label",
            }
        },
        "gaps": None,
        "unused": {
            "Unnamed: 0": "index of a pandas frame",
            "id": "names rows; use it with id= or input=",
            "when": "date32[day]",
            "note": "text",
        },
    }
    assert str(description).splitlines() == [
        f"{tmp_path / 'd.csv'}: 2 rows, named by content",
        "  input: a (float64, 1)",
        "  label: Label, 2 classes (cat, dog)",
        "  splits: test 1, train 1",
        (
            "  not used: Unnamed: 0 (index of a pandas frame), id (names rows; use it with id= or input=), "
            "when (date32[day]), note (text)"
        ),
    ]


def test_every_source_has_a_description(digits):
    for source in (digits, DistinctSource(digits), TokenSource([[1, 2]])):
        description = describe_source(source)
        assert json.loads(json.dumps(description.to_json()))["rows"] == len(source)
        assert np.dtype(description.input_dtype) == source.input_dtype
