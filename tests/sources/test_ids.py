"""Ids: their text names rows, whatever the file; missing, blank, repeated and compound ones are errors."""

import csv
import json
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softlabels.errors import InvalidData
from softlabels.keys import id_keys
from softlabels.sources import DatasetSource, TokenSource, as_source, open_source

ALIKE = ["0123", "123", "1.10", "1.1", "10e2", "1000", "12345678901234567890", "12345678901234567891"]
"""Texts that are different ids although some are equal as numbers."""


def source(ids):
    return as_source(pa.table({"x": np.arange(len(ids), dtype=np.float64), "name": ids}), id="name")


def test_ids_of_a_csv_are_their_text(tmp_path):
    (tmp_path / "d.csv").write_text("x,id\n" + "".join(f"{i},{text}\n" for i, text in enumerate(ALIKE)))
    opened = open_source(tmp_path / "d.csv", id="id")
    assert (opened.keys() == id_keys(ALIKE)).all()
    assert opened.columns.inputs == ("x",)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n",;\t'), min_size=1)
        .filter(str.strip)
        .filter(lambda text: len(text) < 20),
        unique=True,
        min_size=1,
        max_size=8,
    )
)
def test_any_text_in_a_csv_names_its_row(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("ids") / "d.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["x", "id"], *enumerate(texts)])
    assert (open_source(path, id="id").keys() == id_keys(texts)).all()


@given(st.lists(st.integers(-(2**70), 2**70), unique=True, min_size=1, max_size=10))
def test_whole_numbers_of_json_lines_are_exact(tmp_path_factory, numbers):
    path = tmp_path_factory.mktemp("ids") / "d.jsonl"
    path.write_text("".join(json.dumps({"x": i, "id": number}) + "\n" for i, number in enumerate(numbers)))
    assert (open_source(path, id="id").keys() == id_keys(numbers)).all()


def test_numbers_of_json_lines_are_named_by_their_digits_and_texts_stay_texts(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("".join(f'{{"x": {i}, "id": {text}}}\n' for i, text in enumerate(ALIKE[1:])))
    assert (open_source(path, id="id").keys() == id_keys(ALIKE[1:])).all()
    path.write_text('{"x": 1, "id": "2024-01-01"}\n{"x": 2, "id": "2024-01-02"}\n')
    assert (open_source(path, id="id").keys() == id_keys(["2024-01-01", "2024-01-02"])).all()


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([7, 2**60 + 1]), ["7", str(2**60 + 1)]),
        (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
        (pa.array(["b", "a"], pa.string_view()), ["b", "a"]),
        (pa.array([b"b", b"a"]), ["b", "a"]),
        (pa.array([Decimal(10**30), Decimal(1)], pa.decimal128(38, 0)), [str(10**30), "1"]),
    ],
)
def test_ids_are_text_whatever_their_type(values, texts):
    assert (source(values).keys() == id_keys(texts)).all()


def test_uuids_are_their_usual_text_and_other_values_of_16_bytes_are_keys():
    names = [uuid.UUID(int=number) for number in (1, 2)]
    storage = pa.array([name.bytes for name in names], pa.binary(16))
    assert (source(pa.ExtensionArray.from_storage(pa.uuid(), storage)).keys() == id_keys(names)).all()
    assert source(storage).keys()[1].tobytes() == names[1].bytes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", None], "row 1: the id is missing"),
        (["a", ""], "row 1: the id is blank"),
        (["b", "a", "b"], "rows 0 and 2 have the same id"),
        ([1.0, 2.0], "ids must be text or whole numbers, got double"),
        ([True, False], "got bool"),
        ([[1], [2]], "got large_list"),
        (pa.array([1, 2], pa.timestamp("us", tz="Mars/Olympus")), "got timestamp"),
        (pa.array([b"\xff", b"a"]), "must be UTF-8 text or 16 bytes"),
    ],
)
def test_ids_that_name_no_row_are_errors(values, message):
    with pytest.raises(InvalidData, match=message):
        source(values)


def test_repeated_ids_are_found_across_row_groups(tmp_path):
    table = pa.table({"x": [1.0, 2.0, 3.0], "id": ["a", "b", "a"]})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=1)
    with pytest.raises(InvalidData, match="column 'id': ids must be unique, but rows 0 and 2"):
        open_source(tmp_path / "d.parquet", id="id")


def test_datasets_and_token_sequences_refuse_repeated_keys():
    keys = np.zeros((2, 16), np.uint8)
    with pytest.raises(InvalidData, match="rows 0 and 1 have the same id"):
        DatasetSource([1, 2], ids=keys)
    with pytest.raises(InvalidData, match="rows 0 and 1 have the same id"):
        TokenSource([[1, 2], [3, 4]], ids=keys)
