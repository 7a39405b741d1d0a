"""Tokenizers: training, loading, digests and differences."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softlabels.errors import DataNotFound, InvalidArgument, InvalidData
from softlabels.text import Tokenizer, as_tokenizer, load_tokenizer

TEXTS = ["def read(path):\n    return open(path).read()\n", "to be or not to be, that is the question\n"] * 40


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocabulary=320)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_byte_level_tokens_give_any_text_back(text):
    tokenizer = Tokenizer.train(TEXTS, vocabulary=270)
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


def test_training_is_deterministic_across_processes(tokenizer):
    code = (
        "import sys; from softlabels.text import Tokenizer; sys.path.insert(0, '.')\n"
        f"print(Tokenizer.train({TEXTS!r}, vocabulary=320).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"RAYON_NUM_THREADS": "1"}
    )
    assert done.stdout.strip() == tokenizer.digest


def test_a_document_comes_back_from_its_bytes_and_from_a_pickle(tokenizer):
    for copy in (Tokenizer.from_bytes(tokenizer.to_bytes()), pickle.loads(pickle.dumps(tokenizer))):  # noqa: S301
        assert copy == tokenizer
        assert copy.encode(TEXTS[:1])[0].tolist() == tokenizer.encode(TEXTS[:1])[0].tolist()


def test_ids_fit_the_dtype(tokenizer):
    assert tokenizer.dtype == np.uint16
    assert 257 < tokenizer.size <= 320
    assert max(ids.max() for ids in tokenizer.encode(TEXTS)) < tokenizer.size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model, _: model["model"]["vocab"].pop("t"), "the vocabulary|token"),
        (lambda model, _: model["model"]["merges"].reverse(), "the merges of the model differ"),
        (lambda model, _: model.update(normalizer={"type": "NFC"}), "the normalizer differs"),
        (lambda _, special: special.update(eos=5), "the special ids are {'eos': 5}, not {'eos': 0}"),
    ],
)
def test_a_difference_is_named(tokenizer, change, message):
    model, special = json.loads(json.dumps(tokenizer.model)), dict(tokenizer.special)
    change(model, special)
    if "t" not in model["model"]["vocab"]:  # merges may name only tokens that exist
        model["model"]["merges"] = [merge for merge in model["model"]["merges"] if not any("t" in one for one in merge)]
    other = Tokenizer(model, special)
    assert other.digest != tokenizer.digest
    difference = tokenizer.difference(other)
    assert any(difference.startswith(start) for start in message.split("|")), difference
    assert tokenizer.difference(tokenizer) is None


def test_a_chat_template_is_part_of_the_identity(tokenizer):
    other = Tokenizer(tokenizer.model, tokenizer.special, "{{ messages }}")
    assert tokenizer.difference(other) == "the chat template differs"


def test_truncation_and_padding_are_not_part_of_the_identity(tokenizer):
    model = tokenizer.model | {"truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0,
                                              "direction": "Right"}}  # fmt: skip
    other = Tokenizer(model, tokenizer.special)
    assert other == tokenizer
    assert len(other.encode(["a b c d e f g h"])[0]) > 3


@pytest.mark.parametrize("spec", ["bpe:", "bpe:x", "bpe:256", "bpe:9999999"])
def test_invalid_specifications_are_refused(spec):
    with pytest.raises(InvalidArgument, match="tokenizer"):
        as_tokenizer(spec, lambda: TEXTS)


def test_training_without_text_is_refused():
    with pytest.raises(InvalidArgument, match="no text to train on"):
        as_tokenizer("bpe:300")
    with pytest.raises(InvalidData, match="no text"):
        as_tokenizer("bpe:300", list)


def test_a_directory_of_transformers_is_loaded(tokenizer, tmp_path):
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, eos_token=end, chat_template="{{ messages[0]['content'] }}"
    )
    fast.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.special == {"eos": 0}
    assert loaded.chat_template == "{{ messages[0]['content'] }}"
    assert loaded.encode(TEXTS[:1])[0].tolist() == fast(TEXTS[0])["input_ids"]


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(DataNotFound, match="AutoTokenizer"):
        load_tokenizer(tmp_path)
    for data, message in ((b"{", "not JSON"), (b"[]", "not an object"), (b'{"model": 3}', "cannot be used")):
        (tmp_path / "tokenizer.json").write_bytes(data)
        with pytest.raises(InvalidData, match=message):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b'{"format":"softlabels-tokenizer","version":2}'])
def test_other_documents_are_refused(data):
    with pytest.raises(InvalidData, match="not a tokenizer document"):
        Tokenizer.from_bytes(data)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InvalidArgument, match=r"softlabels\[language\]"):
        Tokenizer.train(TEXTS, vocabulary=300)
