"""Sources of text: files, columns, pairs and chats; every kind of bad input is an error that names the row."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers.processors import TemplateProcessing

from softlabels.errors import ColumnMissing, InvalidArgument, InvalidData
from softlabels.keys import content_keys
from softlabels.sources import as_source, open_source
from softlabels.text import LABELLED, START, Tokenizer
from softlabels.text.options import TextOptions
from softlabels.text.rows import SECOND

TEXTS = ["def read(path):", "to be or not to be", "that is the question", "return path"]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
CHATS = [
    [{"role": "user", "content": "Largest planet?"}, {"role": "assistant", "content": "Jupiter."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
     {"role": "assistant", "content": "Hello."}],
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    base = Tokenizer.train(TEXTS * 20, vocabulary=290)
    return Tokenizer(base.model, base.special, TEMPLATE)


def table_file(folder, suffix, columns):
    table, path = pa.table(columns), folder / f"data.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    elif suffix == "csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(table, path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif suffix == "arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        import datasets

        datasets.Dataset.from_dict(table.to_pydict()).save_to_disk(path)
    return path


def decoded(source, row):
    return source.tokenizer.decode(source.inputs(np.array([row])).values)


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("file", ["one\r\ntwo\n\n\nthree ü\n"]),
        ("line", ["one", "two", "three ü"]),
        ("blank", ["one\ntwo", "three ü"]),
    ],
)
def test_a_text_file_has_the_documents_that_are_named(tmp_path, tokenizer, documents, expected):
    path = tmp_path / "corpus.txt"
    path.write_bytes("\ufeffone\r\ntwo\n\n\nthree ü\n".encode())
    source = open_source(path, text=TextOptions(tokenizer=tokenizer, documents=documents))
    assert [decoded(source, row) for row in range(len(source))] == [f"{text}<|endoftext|>" for text in expected]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl", "arrow", "saved"])
def test_a_column_of_text_is_read_from_every_kind_of_table(tmp_path, tokenizer, suffix):
    path = table_file(tmp_path, suffix, {"text": TEXTS, "label": [0, 1, 1, 0], "split": ["train", "test"] * 2})
    source = open_source(path, text=TextOptions(tokenizer=tokenizer))
    assert [decoded(source, row) for row in range(4)] == [f"{text}<|endoftext|>" for text in TEXTS]
    assert source.labels(np.arange(4)).tolist() == [0, 1, 1, 0]
    assert source.split("test").tolist() == [1, 3]
    assert source.columns.inputs == ("text",)


def test_a_tokenizer_is_trained_on_the_text(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS * 20))
    source = open_source(path, text=TextOptions(tokenizer="bpe:300", documents="line"))
    assert 257 < source.tokenizer.size <= 300
    again = open_source(path, text=TextOptions(tokenizer="bpe:300", documents="line"))
    assert again.fingerprint == source.fingerprint
    assert again.tokenizer == source.tokenizer


def test_rows_are_named_by_their_token_ids(tmp_path, tokenizer):
    path = table_file(tmp_path, "parquet", {"text": TEXTS})
    source = open_source(path, text=TextOptions(tokenizer=tokenizer))
    ids = source.inputs(np.array([2])).values
    assert (source.keys(2, 3) == content_keys(ids[None])).all()


def test_packed_rows_hold_all_documents(tmp_path, tokenizer):
    path = table_file(tmp_path, "parquet", {"text": TEXTS, "label": [0, 1, 0, 1]})
    source = open_source(path, text=TextOptions(tokenizer=tokenizer, pack=12))
    inputs = source.inputs(np.arange(len(source)))
    assert set(inputs.lengths[:-1].tolist()) == {12}
    assert source.tokenizer.decode(inputs.values) == "".join(f"{text}<|endoftext|>" for text in TEXTS)
    assert int(((inputs.marks & LABELLED) > 0).sum()) == source.tokens - len(source)
    assert source.labels(np.arange(1)) is None


def test_packed_rows_hold_documents_of_one_split(tmp_path, tokenizer):
    texts, splits = [f"document {i} " + "x" * i for i in range(12)], ["train", "test", "train"] * 4
    path = table_file(tmp_path, "parquet", {"text": texts, "split": splits})
    source = open_source(path, input="text", text=TextOptions(tokenizer=tokenizer, pack=16))
    assert source.splits() == ("test", "train")
    assert sorted([*source.split("test"), *source.split("train")]) == list(range(len(source)))
    for name in source.splits():
        tokens = source.inputs(source.split(name)).values
        alone = [text for text, split in zip(texts, splits, strict=True) if split == name]
        joined = np.concatenate([np.append(ids, tokenizer.end) for ids in tokenizer.encode(alone)])
        assert tokens.tolist() == joined[: len(tokens)].tolist()
        assert len(joined) - len(tokens) <= 1


def test_a_pair_of_columns_is_joined_for_a_classifier(tmp_path, tokenizer):
    path = table_file(tmp_path, "csv", {"a": ["to be", "not"], "b": ["or not", "to be"], "label": [1, 0]})
    backend = Tokenizer(tokenizer.model, {}).backend
    backend.post_processor = TemplateProcessing(
        single="$A <|endoftext|>", pair="$A <|endoftext|> $B:1 <|endoftext|>:1", special_tokens=[("<|endoftext|>", 0)]
    )
    pairs = Tokenizer(json.loads(backend.to_str()), {})
    source = open_source(path, input="a,b", text=TextOptions(tokenizer=pairs, target="row"))
    inputs = source.inputs(np.array([0]))
    assert source.tokenizer.decode(inputs.values) == "to be<|endoftext|>or not<|endoftext|>"
    assert source.tokenizer.decode(inputs.values[(inputs.marks & SECOND) > 0]) == "or not<|endoftext|>"
    assert not (inputs.marks & LABELLED).any()


def test_a_prompt_and_its_response_label_the_response(tmp_path, tokenizer):
    path = table_file(tmp_path, "csv", {"prompt": ["to be", "not"], "response": [" or not", " to be"]})
    source = open_source(path, input="prompt,response", text=TextOptions(tokenizer=tokenizer, mask="prompt"))
    inputs = source.inputs(np.array([1]))
    labelled = np.flatnonzero(inputs.marks & LABELLED)
    assert source.tokenizer.decode(inputs.values[labelled + 1]) == " to be<|endoftext|>"


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "arrow"])
def test_chats_label_the_responses(tmp_path, tokenizer, suffix):
    path = table_file(tmp_path, suffix, {"messages": CHATS})
    source = open_source(path, text=TextOptions(tokenizer=tokenizer, mask="prompt"))
    for row, response in enumerate(["Jupiter.</s>", "Hello.</s>"]):
        inputs = source.inputs(np.array([row]))
        labelled = np.flatnonzero(inputs.marks & LABELLED)
        assert source.tokenizer.decode(inputs.values[labelled + 1]).endswith(response)
        assert "user" not in source.tokenizer.decode(inputs.values[labelled + 1])


def test_text_is_truncated_only_if_that_is_chosen(tmp_path, tokenizer):
    path = table_file(tmp_path, "parquet", {"text": TEXTS})
    options = TextOptions(tokenizer=tokenizer, max_tokens=3)
    inputs = open_source(path, text=options).inputs(np.arange(4))
    assert inputs.lengths.tolist() == [3, 3, 3, 3]
    assert 0 not in inputs.values  # a text that was cut does not end


def test_every_token_is_labelled_for_models_that_label_tokens(tmp_path, tokenizer):
    path = table_file(tmp_path, "parquet", {"text": TEXTS})
    source = open_source(path, text=TextOptions(tokenizer=tokenizer, target="token"))
    inputs = source.inputs(np.array([0]))
    assert ((inputs.marks & LABELLED) > 0).all()
    assert inputs.marks[0] & START
    assert decoded(source, 0) == TEXTS[0]


def test_a_source_of_text_can_be_sent_to_another_process(tmp_path, tokenizer):
    path = table_file(tmp_path, "parquet", {"text": TEXTS})
    source = open_source(path, text=TextOptions(tokenizer=tokenizer, pack=8))
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert (copy.keys() == source.keys()).all()
    assert copy.inputs(np.array([1])).values.tolist() == source.inputs(np.array([1])).values.tolist()


def test_arrays_of_text_in_memory_are_a_source(tokenizer):
    source = as_source(pa.table({"text": TEXTS}), text=TextOptions(tokenizer=tokenizer))
    assert decoded(source, 1) == f"{TEXTS[1]}<|endoftext|>"


@pytest.mark.parametrize(
    ("columns", "options", "problem"),
    [
        ({"text": ["a b", None]}, {}, r"row 1: not a text, got null"),
        ({"text": ["a b", ""]}, {}, r"row 1: not a text, got an empty text"),
        ({"text": [b"a b", b"c"]}, {}, r"row 0, column 'text': not a text, got binary"),
        ({"text": [1, 2]}, {}, r"row 0, column 'text': not a text, got int64"),
        ({"text": ["a b", "a"]}, {"target": "row"}, r"row 1: too short, got 1 tokens"),
        ({"messages": [CHATS[0], CHATS[0][:1]]}, {"mask": "prompt"}, r"row 1: no response to label"),
        ({"messages": [CHATS[0], []]}, {}, r"row 1: not a chat"),
        ({"messages": [CHATS[0], None]}, {}, r"row 1: not a chat, got NoneType"),
    ],
)
def test_bad_rows_are_named(tmp_path, tokenizer, columns, options, problem):
    path = table_file(tmp_path, "parquet", columns)
    with pytest.raises(InvalidData, match=problem):
        open_source(path, text=TextOptions(tokenizer=tokenizer, **options))


def test_a_failing_template_names_the_row(tmp_path, tokenizer):
    broken = Tokenizer(tokenizer.model, tokenizer.special, "{{ messages[1].content + messages[0].missing }}")
    path = table_file(tmp_path, "parquet", {"messages": CHATS})
    with pytest.raises(InvalidData, match=r"data.parquet, row 0: the chat template fails, got UndefinedError"):
        open_source(path, text=TextOptions(tokenizer=broken))


def test_a_row_beyond_the_positions_of_a_model_is_named(tmp_path, tokenizer):
    source = open_source(table_file(tmp_path, "parquet", {"text": [*TEXTS, TEXTS[2] * 9]}),
                         text=TextOptions(tokenizer=tokenizer))  # fmt: skip
    source.check_positions(1000, "teacher")
    with pytest.raises(
        InvalidData, match=r"row 4: too long for teacher, got \d+ tokens; expected at most 20. Use pack="
    ):
        source.check_positions(20, "teacher")


@pytest.mark.parametrize(
    ("data", "documents", "problem"),
    [
        (b"", "file", "no documents"),
        (b"\n \n", "line", "no documents"),
        (b"good\nbad \xff\n", "line", "not UTF-8, got byte 0xff"),
    ],
)
def test_bad_text_files_are_refused(tmp_path, tokenizer, data, documents, problem):
    path = tmp_path / "corpus.txt"
    path.write_bytes(data)
    with pytest.raises(InvalidData, match=problem):
        open_source(path, text=TextOptions(tokenizer=tokenizer, documents=documents))


def test_invalid_combinations_are_refused(tmp_path, tokenizer):
    path = table_file(tmp_path, "parquet", {"a": TEXTS, "b": TEXTS, "split": ["train", "test"] * 2})
    text = TextOptions(tokenizer=tokenizer)
    with pytest.raises(ColumnMissing, match="no column can be the text"):
        open_source(path, text=text)
    with pytest.raises(ColumnMissing, match="no column 'c'"):
        open_source(path, input="c", text=text)
    with pytest.raises(InvalidArgument, match="one column or a pair"):
        open_source(path, input="a,b,split", text=text)
    with pytest.raises(InvalidArgument, match="named by their tokens"):
        open_source(path, input="a", id="b", text=text)
    endless = Tokenizer(tokenizer.model, {})
    with pytest.raises(InvalidArgument, match="no end-of-text token"):
        open_source(path, input="a", text=TextOptions(tokenizer=endless, pack=8))
    with pytest.raises(InvalidArgument, match="chats need a tokenizer with a template"):
        open_source(table_file(tmp_path, "jsonl", {"messages": CHATS}), text=TextOptions(tokenizer="bpe:300"))
    (tmp_path / "corpus.txt").write_text("to be")
    with pytest.raises(InvalidArgument, match="text needs a tokenizer"):
        open_source(tmp_path / "corpus.txt")


@pytest.mark.parametrize(
    "options",
    [{"documents": "page"}, {"pack": 1}, {"max_tokens": 0}, {"mask": "answer"}, {"target": "x"},
     {"target": "row", "pack": 8}],
)  # fmt: skip
def test_invalid_options_are_refused(options):
    with pytest.raises(InvalidArgument, match=r"expected|got"):
        TextOptions(tokenizer="bpe:300", **options)
