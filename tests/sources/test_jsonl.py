"""JSON lines: long lines, late types, byte order marks, and text that looks like a time."""

import json

import numpy as np
import pytest

from softlabels.errors import InvalidData
from softlabels.sources import open_source


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_source(path)


def test_a_line_above_a_mebibyte_is_read(tmp_path):
    image = np.arange(400_000).reshape(2, 200_000)
    source = lines(tmp_path / "d.jsonl", *({"image": row.tolist(), "label": i} for i, row in enumerate(image)))
    assert (source.inputs(np.arange(2)) == image).all()


def test_types_are_those_of_all_lines(tmp_path):
    rows = [{"x": [i, i], "label": None, "note": "n" * 200} for i in range(8000)]
    source = lines(tmp_path / "d.jsonl", *rows, {"x": [0.5, 1], "label": 3, "note": ""})
    assert source.inputs(np.array([8000])).tolist() == [[0.5, 1.0]]
    assert source.labels(np.array([0, 8000])).tolist() == [-1, 3]


def test_texts_like_times_are_class_names_and_splits(tmp_path):
    rows = [{"x": i, "label": f"2024-01-0{i}", "split": "2024-01-01"} for i in (1, 2)]
    source = lines(tmp_path / "d.jsonl", *rows)
    assert source.class_names == ("2024-01-01", "2024-01-02")
    assert source.splits() == ("2024-01-01",)


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "d.jsonl").write_text('\ufeff{"x": [1, 2]}\n{"x": [3, 4]}')
    assert open_source(tmp_path / "d.jsonl").inputs(np.arange(2)).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"x": [1, NaN]}\n', "row 0: the input holds NaN"),
        ('{"x": 1, "x": 2}\n', "cannot be read as JSON lines"),
        ('{"x": 1, "label": 0}\n{"x": 1, "label": "cat"}\n', "cannot be read as JSON lines"),
        ('[{"x": 1}]', "line 1: expected one JSON object per line, got '\\[{"),
        ("null\n", "line 1: expected one JSON object per line, got 'null'"),  # Arrow crashes on these two
        ('{"x": 1}\n' * 200_000 + " null\n" * 400_000, "line 200001: expected one JSON object"),
        ("\ufeff\n \n" + " " * 2**20 + "null\n", "line 3: expected one JSON object per line, got 'null'"),
        ('{"x": [1, 2]}\n{"x": null}\n', "row 1: the value is null"),
        ('{"x": [1, 2]}\n{"x": [1]}\n', "row 1: values must have one shape"),
        ("", "cannot be read as JSON lines"),
    ],
)
def test_what_cannot_be_read_is_a_typed_error(tmp_path, text, message):
    (tmp_path / "d.jsonl").write_text(text)
    with pytest.raises(InvalidData, match=message):
        open_source(tmp_path / "d.jsonl")


def test_an_id_that_is_neither_text_nor_number_names_its_row(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"x": 1, "id": 1.5}\n{"x": 2, "id": null}\n')
    with pytest.raises(InvalidData, match="row 1: the id is missing"):
        open_source(tmp_path / "d.jsonl", id="id")
