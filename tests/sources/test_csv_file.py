"""CSV: what people mean is read, and what is ambiguous is an error that names the cell or the line."""

import csv

import numpy as np
import pytest

from softlabels.errors import ColumnMissing, InvalidArgument, InvalidData
from softlabels.sources import open_source


@pytest.fixture
def opened(tmp_path):
    def open_text(text, encoding="utf-8", **options):
        (tmp_path / "d.csv").write_bytes(text.encode(encoding))
        return open_source(tmp_path / "d.csv", **options)

    return open_text


@pytest.mark.parametrize(
    ("text", "inputs", "labels"),
    [
        ("\ufeffa,b,label\n1,2,0\n3,4,1\n", ("a", "b"), [0, 1]),
        ("\n\na,b,label\r\n1,2,0\r\n3,4,1\r\n", ("a", "b"), [0, 1]),
        (" a, b, Label \n1,2,0\n3,4,1\n", ("a", "b"), [0, 1]),
        (",a,b,label\n0,1,2,0\n1,3,4,1\n", ("a", "b"), [0, 1]),
        ("Unnamed: 0,a,b,label\n0,1,2,0\n1,3,4,1\n", ("a", "b"), [0, 1]),
        ("a,b,label,\n1,2,0,\n3,4,1,\n", ("a", "b"), [0, 1]),
        ("a,a,label\n1,2,0\n3,4,1\n", ("a", "a.1"), [0, 1]),
        ("id,a,b,label\n7,1,2,0\n8,3,4,1\n", ("a", "b"), [0, 1]),
        ("a,b,when,label\n1,2,2024-01-01,0\n3,4,2024-01-02,1\n", ("a", "b"), [0, 1]),
        ("a,b,note,label\n1,2,one,0\n3,4,,1\n", ("a", "b"), [0, 1]),
        ("a,b,label\n1,2,true\n3,4,false\n", ("a", "b"), [1, 0]),
        ("a,b,label\n1,2,0.0\n3,4,\n", ("a", "b"), [0, -1]),
        ('a,b,label\n1,2,"0"\n3,4,"10"\n', ("a", "b"), [0, 10]),
        ("a,b,label\n1,2,\n3,4,cat\n", ("a", "b"), [-1, 0]),
        ("x,y,z,label\n1,9,2,0\n3,9,4,1\n", ("x", "y", "z"), [0, 1]),
        ("0,1,label\n1,2,0\n3,4,1\n", ("0", "1"), [0, 1]),
        ("1990,1991,label\n1,2,0\n3,4,1\n", ("1990", "1991"), [0, 1]),
    ],
)
def test_files_as_they_are_written_are_read(opened, text, inputs, labels):
    source = opened(text)
    assert source.columns.inputs == inputs
    assert source.labels(np.arange(2)).tolist() == labels
    assert source.inputs(np.arange(2)).reshape(2, -1)[:, [0, -1]].tolist() == [[1, 2], [3, 4]]


def test_other_encodings_matter_only_where_they_are_used(opened):
    text = "a,note,label\n1,café,x\n2,b,y\n"
    assert opened(text, "latin-1").columns.inputs == ("a",)
    with pytest.raises(InvalidData, match="not UTF-8"):
        opened("a,label\n1,café\n2,b\n", "latin-1")
    with pytest.raises(InvalidData, match="UTF-16"):
        opened(text, "utf-16")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a,b,label\n1,2,0\n3,?,1\n", InvalidData, r"column 'b': .* most values are numbers, but not '\?'"),
        ("a,b,label\n1,2,0\n3,N/A?,1\n", InvalidData, "but not 'N/A"),
        ('a,b,label\n"1,000",2,0\n"2,500",4,1\n', InvalidData, "column 'a': .* but not '1,000'"),
        ('a,b,label\n"1,5",2,0\n"2,5",4,1\n', InvalidData, "but not '1,5'"),
        ('a,b,label\n"1.234,5",2,0\n"2.345,6",4,1\n', InvalidData, r"but not '1\.234,5'"),
        ('a,label\n1,"0\n2,1\n', InvalidData, "row 0: a quote is not closed"),
        ("a,b,label\n1,12%,0\n2,7%,1\n", InvalidData, "but not '12%'"),
        ("a,b,label\n1,,0\n3,,1\n", InvalidData, "column 'b': .* it holds no values"),
        ("a,label,label\n1,0,0\n2,1,1\n", InvalidData, "column names must be unique, got 'label'"),
        ("a,Label,LABEL\n1,0,0\n2,1,1\n", InvalidArgument, "several columns could be the label, got 'Label', 'LABEL'"),
        ("1.5,2.5,0\n3,4,1\n5,6,1\n", InvalidData, "line 1: expected names of columns, got the values 1.5, 2.5, 0"),
        ("3,3\n3,4\n5,6\n", InvalidData, "line 1: expected names"),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n", InvalidData, "line 1: expected names"),
        ("1,2,cat\n3,4,cat\n", InvalidData, "line 1: expected names"),
        ("a;b;label\n1;2;0\n", InvalidData, "separated by semicolons"),
        ("a\tb\tlabel\n1\t2\t0\n", InvalidData, "separated by tabs"),
        ("a,b,label\n1,2\n3,4,1\n", InvalidData, "cannot be read as CSV"),
        ("a,b,label\n", InvalidData, "has no rows"),
        ("", InvalidData, "has no rows"),
        ("a,b,label\n1,nan,0\n3,4,1\n", InvalidData, "column 'b', row 0: the value is null"),
        ("a,b,label\n1,,0\n3,4,1\n", InvalidData, "column 'b', row 0: the value is null"),
        ("a,y\n1,0.37\n2,0.5\n", InvalidData, "column 'y', row 0: the label 0.37 is not a whole number.*label=False"),
        ("note,label\none,1\n", ColumnMissing, "no column can be a model's input"),
    ],
)
def test_what_cannot_be_used_is_an_error_with_the_place(opened, text, error, message):
    with pytest.raises(error, match=message):
        opened(text)


def test_naming_the_inputs_leaves_odd_columns_out(opened):
    source = opened("a,b,c,label\n1,?,2,0\n3,4,5,1\n", input="a,c")
    assert source.inputs(np.arange(2)).tolist() == [[1, 2], [3, 5]]
    assert [column.name for column in source.columns.unused] == ["b"]


def test_no_label_leaves_a_column_with_a_label_name_out_unless_it_is_an_input(opened):
    text = "x,y\n1,0.5\n2,1.5\n"
    source = opened(text, label=False)
    assert (source.columns.label, source.columns.inputs, source.classes) == (None, ("x",), None)
    assert source.columns.unused[0].reason == "named like a label; use it with label= or input="
    assert opened(text, input=["x", "y"]).input_shape == (2,)


def test_one_numeric_column_is_a_vector_of_one(opened):
    assert opened("a,label\n1,0\n2,1\n").input_shape == (1,)


def test_types_are_those_of_all_rows(opened):
    rows = "".join(f"{i},{i % 3},{'text ' * 20}\n" for i in range(30_000))
    source = opened("a,label,note\n" + rows + "0.5,,\n")
    assert source.inputs(np.array([30_000, 1])).tolist() == [[0.5], [1.0]]
    assert source.labels(np.array([30_000, 1])).tolist() == [-1, 1]


def test_newlines_in_quotes_and_rows_above_a_mebibyte_are_read(tmp_path):
    with (tmp_path / "d.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["note", "a", "label"])
        writer.writerows([["one\ntwo " * 20, i, i % 2] for i in range(10_000)])
        writer.writerow(["long " * 300_000, 7, 1])
    source = open_source(tmp_path / "d.csv")
    assert len(source) == 10_001
    assert source.inputs(np.array([10_000])).tolist() == [[7]]


@pytest.mark.parametrize(
    "options", [{"input": "a", "label": "a"}, {"input": "a,b", "id": "b"}, {"label": "b", "id": "b"}]
)
def test_a_column_has_one_role(opened, options):
    with pytest.raises(InvalidArgument, match=r"a column has one role, got '[ab]'"):
        opened("a,b\n1,2\n3,4\n", **options)
