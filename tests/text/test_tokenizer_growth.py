"""Tokenizers that come with stores and runs: bounded growth, bounded values, and no error of the library's own."""

import base64
import copy
import json
import os
import pickle
import socket

import pytest

from softlabels.errors import InvalidData, SoftLabelsError
from softlabels.text import Tokenizer, load_tokenizer

REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
REGEX = {"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 40}
NESTED = {"type": "Sequence", "normalizers": [REGEX, REGEX]}
WIDE_MAP = base64.b64encode((0).to_bytes(4, "little") + b"x" * 5000 + b"\0").decode()
TEMPLATE = {
    "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "q", "type_id": 0}}] * 200, "pair": [],
    "special_tokens": {"q": {"id": "q", "ids": [0] * 10, "tokens": ["<|endoftext|>"] * 10}},
}  # fmt: skip


@pytest.fixture(scope="module")
def document():
    """The document of a small tokenizer."""
    return json.loads(Tokenizer.train(["to be or not to be"] * 20, vocabulary=270).to_bytes())


def load(document, *path, value):
    """Load a document with one value replaced."""
    changed = copy.deepcopy(document)
    parent = changed
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = value
    return Tokenizer.from_bytes(json.dumps(changed).encode())


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("normalizer", {"type": "Sequence", "normalizers": [REPLACE] * 9}, "1,000,000,000 characters of one"),
        ("normalizer", {"type": "Sequence", "normalizers": [NESTED]}, "1,681 characters of one"),
        ("normalizer", {"type": "Prepend", "prepend": "x" * 2000}, "2,001 characters of one"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": WIDE_MAP}, "5,000 characters of one"),
        ("decoder", {"type": "Sequence", "decoders": [REPLACE] * 9}, "its decoder makes up to"),
        ("post_processor", TEMPLATE, "its template adds 2,000 tokens"),
        ("model", {"type": "BPE", "vocab": {"x" * 20_000: 0}, "merges": []}, "a token of 20,000 characters"),
        ("model", {"type": "Unigram", "vocab": [["x" * 20_000, 0.0]], "unk_id": 0}, "a token of 20,000 characters"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_makes_texts_much_longer_is_refused(document, member, value, message):
    with pytest.raises(InvalidData, match=message):
        load(document, "tokenizer", member, value=value)


def test_usual_steps_are_accepted(document):
    steps = [{"type": "Prepend", "prepend": "_"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "_"},
             {"type": "Replace", "pattern": {"String": " "}, "content": "_"}, {"type": "NFKC"}]  # fmt: skip
    loaded = load(document, "tokenizer", "normalizer", value={"type": "Sequence", "normalizers": steps})
    assert loaded.decode(loaded.encode(["to be"])[0]) == "_to_be"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tokenizer", "model", "continuing_subword_prefix"), "a" * 70_000),
        (("tokenizer", "normalizer"), {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        (("tokenizer", "version"), "9" * 70_000),
        (("tokenizer", "normalizer"), [[]]),
        (("tokenizer", "post_processor"), {"type": "TemplateProcessing", "single": 1}),
        (("special", "eos"), 2**70),
        (("special", "eos"), 270),
        (("special", "eos"), -1),
        (("special", "eos"), float("inf")),
        (("special",), [[1]]),
        (("chat_template",), {"a": 1}),
        (("format",), "x" * 70_000),
    ],
)
def test_a_forged_value_is_an_error_of_ours(document, path, value):
    """The first two make the library panic, which is no Exception."""
    with pytest.raises(InvalidData) as caught:
        load(document, *path, value=value)
    assert len(str(caught.value)) < 1000
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301  of this test


def test_a_model_that_cannot_encode_is_an_error_of_ours(document):
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}
    tokenizer = load(document, "tokenizer", "model", value=model)
    with pytest.raises(InvalidData, match="cannot encode with it"):
        tokenizer.encode(["to be"])


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory", "device", "large"])
def test_a_tokenizer_that_is_no_regular_file_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    path = tmp_path / "tokenizer.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("tokenizer.json")
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(2**34)
    with pytest.raises(SoftLabelsError, match="cannot be read"):
        load_tokenizer(tmp_path)
