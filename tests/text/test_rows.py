"""Rows of tokens: packing, marks, targets, the cache, padding."""

import resource
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.text import LABELLED, START, Corpus, by_document, next_tokens, pack, tokenize
from softlabels.text import corpus as corpus_module
from softlabels.text.padding import pad

DOCUMENTS = st.lists(st.lists(st.integers(0, 99), min_size=2, max_size=9), min_size=1, max_size=8)


def corpus_of(documents, written=None):
    return Corpus(
        np.concatenate([np.array(document, np.uint16) for document in documents]),
        np.cumsum([len(document) for document in documents]),
        written,
    )


@given(DOCUMENTS, st.integers(2, 12))
def test_packing_keeps_every_token_and_every_boundary(documents, length):
    corpus = corpus_of(documents)
    rows = pack(corpus, length)
    ids, marks = zip(*(rows.row(number) for number in range(len(rows))), strict=True)
    assert all(len(row) == length for row in ids[:-1])
    joined = np.concatenate(ids)
    dropped = len(corpus.ids) - len(joined)
    assert dropped == (1 if len(corpus.ids) % length == 1 else 0)
    assert joined.tolist() == corpus.ids[: len(joined)].tolist()
    starts = {0, *np.cumsum([len(document) for document in documents])[:-1]} | set(range(0, len(joined), length))
    assert set(np.flatnonzero(np.concatenate(marks) & START)) == {start for start in starts if start < len(joined)}


@given(DOCUMENTS, st.integers(2, 12))
def test_a_row_of_l_tokens_has_l_minus_1_targets_that_are_the_next_tokens(documents, length):
    rows = pack(corpus_of(documents), length)
    for number in range(len(rows)):
        ids, marks = rows.row(number)
        following, counts = next_tokens(ids, np.array([len(ids)]), marks)
        assert len(following) == len(ids) - 1
        assert following.tolist() == ids[1:].tolist()
        assert counts.tolist() == ((marks[1:] & START) == 0).tolist()


@given(DOCUMENTS, st.data())
def test_a_prompt_mask_labels_the_positions_before_response_tokens(documents, data):
    total = sum(map(len, documents))
    written = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)))
    rows = pack(corpus_of(documents, written), 6)
    for number in range(len(rows)):
        ids, marks = rows.row(number)
        start = int(rows.bounds[number])
        expected = [i for i in range(len(ids) - 1) if written[start + i + 1] and not marks[i + 1] & START]
        assert np.flatnonzero(marks & LABELLED).tolist() == expected


def test_a_document_of_one_token_is_refused_by_row():
    with pytest.raises(InvalidData, match=r"corpus.txt, row 1: too short, got 1 tokens"):
        by_document(corpus_of([[1, 2], [3], [4, 5]]), "corpus.txt")
    assert len(pack(corpus_of([[1, 2], [3], [4, 5]]), 5)) == 1


def test_packs_that_predict_nothing_are_refused():
    with pytest.raises(InvalidArgument, match="pack: too short"):
        pack(corpus_of([[1, 2]]), 1)
    with pytest.raises(InvalidData, match="corpus: too short"):
        pack(corpus_of([[1]]), 4)


@pytest.mark.parametrize("side", ["right", "left"])
@given(rows=DOCUMENTS)
def test_padding_on_either_side_labels_the_same_tokens(side, rows):
    lengths = torch.tensor([len(row) for row in rows])
    values = torch.tensor([token for row in rows for token in row])
    padded = pad(values, lengths, side=side)
    assert padded.ids.flatten()[padded.labelled].tolist() == values.tolist()
    assert padded.positions.flatten()[padded.labelled].tolist() == [i for row in rows for i in range(len(row))]
    assert padded.valid.sum(1).tolist() == lengths.tolist()


def test_attention_stays_within_a_document():
    marks = torch.tensor([3, 2, 3, 2, 0, 3, 2], dtype=torch.uint8)
    padded = pad(torch.arange(7), torch.tensor([5, 2]), marks)
    allowed = (padded.attention_bias(torch.float32) == 0)[:, 0]
    documents = [[0, 0, 1, 1, 1], [0, 0, -1, -1, -1]]
    assert padded.documents.tolist() == documents
    for row, numbers in enumerate(documents):
        for i in range(5):
            assert allowed[row, i].tolist() == [numbers[i] == numbers[j] and j <= i for j in range(5)]


def test_a_cached_corpus_is_used_again_and_a_damaged_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "MIN_CACHED", 0)
    calls = []

    def encode(block, first):
        calls.append(first)
        return [(np.array([ord(letter) for letter in text]), np.array([True] * len(text))) for text in block]

    def run(texts=("abc", "defg"), settings="a"):
        return tokenize(lambda: [list(texts)], encode, dtype=np.dtype(np.uint16), settings=settings, cache=tmp_path)

    first, second = run(), run()
    assert len(calls) == 1
    assert second.ids.tolist() == first.ids.tolist() == [97, 98, 99, 100, 101, 102, 103]
    assert second.ends.tolist() == [3, 7]
    assert second.written.tolist() == first.written.tolist()
    run(settings="b")
    run(texts=("ab", "cdefg"))
    assert len(calls) == 3
    for file in tmp_path.glob("*/ids.npy"):
        file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert run().ids.tolist() == first.ids.tolist()
    assert len(calls) == 4
    run()
    assert len(calls) == 4


def test_a_cache_on_a_full_disk_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "MIN_CACHED", 0)
    blocks = [["abc" * 1000]]
    options = {"dtype": np.dtype(np.uint16), "settings": "a", "cache": tmp_path}

    def encode(block, first):
        return [(np.array([ord(letter) for letter in text]), None) for text in block]

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        corpus = tokenize(lambda: blocks, encode, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert corpus.ids.tolist() == [97, 98, 99] * 1000
    assert list(tmp_path.iterdir()) == []


def test_a_small_corpus_is_not_cached(tmp_path):
    def encode(block, first):
        return [(np.arange(len(text)), None) for text in block]

    tokenize(lambda: [["abc"]], encode, dtype=np.dtype(np.uint16), settings="", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []
