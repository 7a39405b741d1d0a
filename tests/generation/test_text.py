"""Labels of text: alignment, packing, masks, the text's own tokens, slices of logits, resuming."""

import itertools
import json
import resource
import signal
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

import softlabels as sl
from softlabels import models
from softlabels.errors import InvalidArgument, InvalidData, InvalidLogits, StorageFailed
from softlabels.generation import generate
from softlabels.models import OutputHead
from softlabels.models import model as model_module
from softlabels.sources import DistinctSource, as_source
from softlabels.sources.store_tokens import StoreTokens
from softlabels.store import verify
from softlabels.text import LABELLED, START, Tokenizer
from softlabels.text.options import TextOptions
from softlabels.training.run_data import open_data

TEXTS = [f"def f{i}(path):\n    return {i} + len(path)\n" + "x" * (i % 7) for i in range(40)]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    base = Tokenizer.train(TEXTS, vocabulary=300)
    return Tokenizer(base.model, base.special, TEMPLATE)


@pytest.fixture(scope="module")
def data():
    return pa.table({"text": TEXTS})


@pytest.fixture(scope="module")
def teacher(tokenizer):
    heads = {"logits": OutputHead(classes=tokenizer.size + 3, kind="tokens", shape=(None,))}
    model = models.build("gpt:layers=2,width=32,heads=2", input_shape=(), heads=heads, seed=5)
    with torch.no_grad():
        for parameter in model.module.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model


def rows_of(store):
    """Token ids, marks and labels of each row of a store."""
    tokens = StoreTokens(store)
    rows = []
    for row in range(store.rows):
        inputs = tokens.inputs(np.array([row]))
        rows.append((inputs.values, inputs.marks, store.read([row])))
    return rows


def test_a_teacher_that_copies_its_input_shows_where_labels_belong(tmp_path, tokenizer, data):
    def copy(inputs):
        return 9.0 * torch.eye(tokenizer.size)[inputs.values]

    for pack in (None, 24):
        out = tmp_path / f"labels-{pack}"
        generate(data, teacher=copy, out=out, encoding="topk:2", text=TextOptions(tokenizer=tokenizer, pack=pack))
        for ids, marks, labels in rows_of(sl.open(out)):
            assert len(labels.ids) == len(ids) - 1 == ((marks & LABELLED) > 0).sum()
            assert labels.ids[:, 0].tolist() == ids[:-1].tolist()
        assert not verify(out).bad


def test_packed_and_unpacked_labels_agree(tmp_path, tokenizer, data, teacher):
    labels = {}
    for name, pack in (("packed", 50), ("whole", None)):
        out = tmp_path / name
        text = TextOptions(tokenizer=tokenizer, pack=pack)
        generate(data, teacher=teacher, out=out, encoding="dense:f32", text=text)
        labels[name] = {}
        for ids, marks, soft in rows_of(sl.open(out)):
            starts = [*np.flatnonzero(marks & START), len(ids)]
            for start, stop in itertools.pairwise(starts):
                if start == 0 and pack is not None:
                    continue  # a document that was cut at the end of the row before has lost its context
                labels[name].setdefault(tokenizer.decode(ids[start:stop]), soft.log_probs()[start : stop - 1])
    compared = 0
    for text, packed in labels["packed"].items():
        if text in labels["whole"]:
            assert np.abs(labels["whole"][text] - packed).max() < 1e-5
            compared += 1
    assert compared > 10


def test_labels_are_those_of_one_row_at_a_time(tmp_path, tokenizer, data, teacher):
    generate(data, teacher=teacher, out=tmp_path / "labels", encoding="dense:f32", batch_size=7,
             text=TextOptions(tokenizer=tokenizer))  # fmt: skip
    store = sl.open(tmp_path / "labels")
    source = StoreTokens(store)
    for row in range(store.rows):
        expected = teacher.predict(source.inputs(np.array([row])))["logits"]
        assert np.abs(store.read([row]).values - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize(
    "encoding",
    ["dense:f16", "topk:5", "threshold:0.05", "sampled:8", "adaptive:0.01", "topk:4:f16:2", "counts:9:0.02:2"],
)
def test_logits_in_slices_give_the_same_labels(tmp_path, tokenizer, data, teacher, monkeypatch, encoding):
    text = TextOptions(tokenizer=tokenizer, pack=40)
    generate(data, teacher=teacher, out=tmp_path / "whole", encoding=encoding, text=text, chosen=True)
    monkeypatch.setattr(model_module.Model.predict_sliced, "__kwdefaults__", {"max_bytes": 0})
    monkeypatch.setattr("softlabels.models.sliced_logits.SLICE_BYTES", 4 * teacher.heads["logits"].classes * 11)
    generate(data, teacher=teacher, out=tmp_path / "sliced", encoding=encoding, text=text, chosen=True)
    complete, sliced = sl.open(tmp_path / "whole"), sl.open(tmp_path / "sliced")
    for head in ("logits", "chosen"):
        for row in range(complete.rows):
            first, second = complete.read([row], head), sliced.read([row], head)
            assert np.allclose(first.values, second.values, atol=2e-3)


def test_rows_of_unequal_length_are_predicted_in_groups_with_the_same_labels(tmp_path, tokenizer, teacher, monkeypatch):
    texts = [("path " * length) + str(length) for length in (1, 90, 2, 40, 41, 3, 88, 1, 5, 30)]
    text = TextOptions(tokenizer=tokenizer)
    for name, tokens in (("one", 2**30), ("groups", 120)):
        monkeypatch.setattr("softlabels.generation.length_groups.GROUP_TOKENS", tokens)
        generate(pa.table({"text": texts}), teacher=teacher, out=tmp_path / name, encoding="dense:f32", text=text)
    monkeypatch.setattr("softlabels.generation.length_groups.MAX_LOGITS_BYTES", 0)
    generate(pa.table({"text": texts}), teacher=teacher, out=tmp_path / "sliced", encoding="dense:f32", text=text)
    first = rows_of(sl.open(tmp_path / "one"))
    for name in ("groups", "sliced"):
        for (ids, _, labels), (other_ids, _, other) in zip(first, rows_of(sl.open(tmp_path / name)), strict=True):
            assert ids.tolist() == other_ids.tolist()
            assert np.allclose(labels.values, other.values, atol=1e-4)


def test_repeated_rows_can_be_left_out(tmp_path, tokenizer, teacher):
    source = DistinctSource(as_source(pa.table({"text": TEXTS[:5] * 2}), text=TextOptions(tokenizer=tokenizer)))
    generate(source, teacher=teacher, out=tmp_path / "labels", encoding="topk:3")
    store = sl.open(tmp_path / "labels")
    assert store.rows == 5
    assert [tokenizer.decode(ids) for ids, _, _ in rows_of(store)] == [f"{text}<|endoftext|>" for text in TEXTS[:5]]


def test_chosen_is_the_log_probability_of_the_next_token(tmp_path, tokenizer, data, teacher):
    out = tmp_path / "labels"
    generate(data, teacher=teacher, out=out, encoding="dense:f32", text=TextOptions(tokenizer=tokenizer), chosen=True,
             written_by="people")  # fmt: skip
    store = sl.open(out)
    assert store.inputs.written_by == "people"
    assert store.heads["chosen"].encoding == "dense:f16"
    for ids, _, labels in rows_of(store):
        expected = labels.log_probs()[np.arange(len(ids) - 1), ids[1:]]
        row = int(np.flatnonzero([np.array_equal(ids, other[0]) for other in rows_of(store)])[0])
        assert np.allclose(store.read([row], "chosen").values[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_only_responses_of_chats_are_labelled(tmp_path, tokenizer, teacher):
    chats = [
        [{"role": "user", "content": f"path {i}?"}, {"role": "assistant", "content": f"return {i}"}] for i in range(6)
    ]
    text = TextOptions(tokenizer=tokenizer, mask="prompt")
    generate(pa.table({"messages": chats}), teacher=teacher, out=tmp_path / "labels", encoding="topk:3", text=text)
    for number, (ids, marks, labels) in enumerate(rows_of(sl.open(tmp_path / "labels"))):
        positions = np.flatnonzero(marks & LABELLED)
        assert len(labels.ids) == len(positions) < len(ids) - 1
        assert f"return {number}" in tokenizer.decode(ids[positions + 1])
        assert "path" not in tokenizer.decode(ids[positions + 1])


def test_the_chat_template_of_a_store_is_not_run(tmp_path, tokenizer, teacher):
    """It is code, and a store is untrusted; a student of these chats names a tokenizer, or takes the stored tokens."""
    chats = pa.table({"messages": [[{"role": "user", "content": f"path {i}"}] for i in range(6)]})
    generate(chats, teacher=teacher, out=tmp_path / "labels", encoding="topk:3", text=TextOptions(tokenizer=tokenizer))
    store = sl.open(tmp_path / "labels")
    with pytest.raises(InvalidArgument, match="got that of the store, which is code"):
        open_data(chats, store)
    assert len(open_data(chats, store, text=TextOptions(tokenizer=tokenizer))) == len(open_data(None, store)) == 6


def test_an_interrupted_run_is_resumed_with_the_same_labels(tmp_path, tokenizer, data, teacher):
    options = {"teacher": teacher, "encoding": "threshold:0.05", "text": TextOptions(tokenizer=tokenizer, pack=16),
               "unit_rows": 8, "batch_size": 4}  # fmt: skip
    generate(data, out=tmp_path / "whole", **options)

    def interrupt(done, total):
        if done >= 24:
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            generate(data, out=tmp_path / "killed", progress=interrupt, **options)
    result = generate(data, out=tmp_path / "killed", **options)
    assert 0 < result.new_units < result.units
    complete, killed = sl.open(tmp_path / "whole"), sl.open(tmp_path / "killed")
    assert complete.descriptor.digest == killed.descriptor.digest
    for chunk in range(complete.chunks):
        first, second = complete.read_chunk(chunk), killed.read_chunk(chunk)
        assert {name: array.tobytes() for name, array in first.items()} == {n: a.tobytes() for n, a in second.items()}


def test_a_disk_that_fills_ends_the_run_with_an_error_and_committed_units(tmp_path, tokenizer, data, teacher):
    options = {"teacher": teacher, "encoding": "dense:f32", "text": TextOptions(tokenizer=tokenizer, pack=16),
               "unit_rows": 8, "batch_size": 4}  # fmt: skip
    generate(data, out=tmp_path / "whole", **options)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(done, total):
        if done >= 32:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    try:
        with pytest.raises(StorageFailed, match="File too large"):
            generate(data, out=tmp_path / "full", progress=fill, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    result = generate(data, out=tmp_path / "full", **options)
    assert 0 < result.new_units < result.units
    uninterrupted, full = sl.open(tmp_path / "whole"), sl.open(tmp_path / "full")
    np.testing.assert_array_equal(
        full.read(np.arange(full.rows)).values, uninterrupted.read(np.arange(uninterrupted.rows)).values
    )


def test_rows_of_another_store_are_copied_with_their_tokens(tmp_path, tokenizer, teacher):
    options = {"teacher": teacher, "encoding": "topk:3", "text": TextOptions(tokenizer=tokenizer)}
    generate(pa.table({"text": TEXTS[:20]}), out=tmp_path / "old", **options)
    result = generate(pa.table({"text": TEXTS}), out=tmp_path / "new", reuse=[tmp_path / "old"], **options)
    assert result.reused_rows == 20
    fresh = generate(pa.table({"text": TEXTS}), out=tmp_path / "fresh", **options)
    assert fresh.rows == result.rows
    for first, second in zip(rows_of(sl.open(tmp_path / "new")), rows_of(sl.open(tmp_path / "fresh")), strict=True):
        assert first[0].tolist() == second[0].tolist()
        assert first[2].ids.tolist() == second[2].ids.tolist()


def test_models_of_transformers_bring_their_tokenizer_and_target(tmp_path, tokenizer):
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, eos_token="<|endoftext|>")  # noqa: S106  a token
    sizes = {"vocab_size": tokenizer.size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
             "num_attention_heads": 4}  # fmt: skip
    networks = {
        "causal": transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)),
        "classes": transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, num_labels=3)),
        "encoder": transformers.BertModel(transformers.BertConfig(**sizes)),
        "tokens": transformers.BertForTokenClassification(transformers.BertConfig(**sizes, num_labels=4)),
    }
    table = pa.table({"text": TEXTS})
    for name, network in networks.items():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
        network.eval().save_pretrained(tmp_path / name)
        fast.save_pretrained(tmp_path / name)
        generate(table, teacher=f"hf:{tmp_path / name}", out=tmp_path / f"{name}-labels")
        store = sl.open(tmp_path / f"{name}-labels")
        ids, _, marks = store.read_inputs(np.arange(3))
        ends = int((ids == 0).sum())
        assert ends == (3 if name == "causal" else 0)
        expected = {"causal": len(ids) - 3, "tokens": len(ids)}.get(name, 0)
        assert ((marks & LABELLED) > 0).sum() == expected
        head = next(iter(store.heads))
        assert len(store.read(np.arange(3), head).values) == (expected or 3)
        assert store.inputs.tokenizer == Tokenizer.from_bytes(store.tokenizer_document()).digest


def test_text_without_a_tokenizer_or_with_other_outputs_is_refused(tmp_path, data, teacher, tokenizer):
    with pytest.raises(InvalidArgument, match="text needs one, got none"):
        generate(data, teacher=teacher, out=tmp_path / "labels", text=TextOptions(pack=8))

    def three_rows(inputs):
        return torch.zeros(3, 5)

    with pytest.raises(InvalidLogits, match="head 'logits'"):
        generate(data, teacher=three_rows, out=tmp_path / "labels", text=TextOptions(tokenizer=tokenizer))
    assert not (tmp_path / "labels").exists()


def test_ids_beyond_the_head_and_rows_beyond_the_positions_are_refused(tmp_path, data, tokenizer):
    config = transformers.GPT2Config(vocab_size=tokenizer.size - 1, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "small")
    text = TextOptions(tokenizer=tokenizer)
    with pytest.raises(InvalidArgument, match="fewer tokens than the tokenizer"):
        generate(data, teacher=f"hf:{tmp_path / 'small'}", out=tmp_path / "labels", text=text)
    config.vocab_size += 1
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "short")
    with pytest.raises(InvalidData, match=r"row \d+: too long for hf:.*, got \d+ tokens; expected at most 16"):
        generate(data, teacher=f"hf:{tmp_path / 'short'}", out=tmp_path / "labels", text=text)
    generate(data, teacher=f"hf:{tmp_path / 'short'}", out=tmp_path / "labels",
             text=TextOptions(tokenizer=tokenizer, pack=16))  # fmt: skip


def test_another_tokenizer_than_the_teachers_is_refused(tmp_path, data, tokenizer, teacher):
    other = Tokenizer(json.loads(json.dumps(tokenizer.model)), {"eos": 5})
    with pytest.raises(InvalidArgument, match=r"tokenizer: differs from that of gpt.*special ids"):
        generate(data, teacher=replace(teacher, tokenizer=tokenizer), out=tmp_path / "labels",
                 text=TextOptions(tokenizer=other))  # fmt: skip


def test_chosen_needs_text(tmp_path, digits):
    with pytest.raises(InvalidArgument, match="chosen: needs a teacher"):
        generate(digits, teacher=lambda x: x.flatten(1)[:, 10:20].float(), out=tmp_path / "labels", chosen=True)
