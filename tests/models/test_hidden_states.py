"""Hidden states of layers as heads: beside a recomputation one row at a time, in stores, packed, and in slices."""

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

import softlabels as sl
from softlabels import models
from softlabels.errors import InvalidArgument
from softlabels.generation import generate
from softlabels.models import OutputHead
from softlabels.models.hidden_states import with_hidden_states
from softlabels.models.sliced_logits import SlicedLogits
from softlabels.sources import Ragged
from softlabels.text import Tokenizer
from softlabels.text.options import TextOptions

VOCABULARY = 61
ROWS = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10, 11, 12, 13]]
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
         "num_attention_heads": 4}  # fmt: skip
NETWORKS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_key_value_heads=2)),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0)
    ),
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)),
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    torch.manual_seed(0)
    saved = {}
    for name, make in NETWORKS.items():
        network = make().eval()
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        saved[name] = tmp_path_factory.mktemp("hidden") / name
        network.save_pretrained(saved[name])
    return saved


@pytest.fixture(scope="module")
def gpt():
    heads = {"logits": OutputHead(classes=300, kind="tokens", shape=(None,))}
    return models.build("gpt:layers=3,width=32,heads=2", input_shape=(), heads=heads, seed=5)


def tokens(rows):
    return Ragged(np.concatenate([np.array(row, np.int64) for row in rows]), np.array([len(row) for row in rows]))


@pytest.mark.parametrize("name", NETWORKS)
def test_states_are_those_of_each_row_alone(directories, name):
    network = getattr(transformers, type(NETWORKS[name]()).__name__).from_pretrained(
        directories[name], dtype=torch.float64, attn_implementation="eager"
    )
    with torch.no_grad():
        outputs = [network(torch.tensor([row]), output_hidden_states=True) for row in ROWS]
    plain = models.load(f"hf:{directories[name]}")
    model = with_hidden_states(plain, [0, 2, -1])
    predicted = model.predict(tokens(ROWS))
    assert list(model.heads) == ["logits", "hidden_0", "hidden_2", "hidden_3"]
    assert model.digest == plain.digest
    assert torch.equal(predicted["logits"], plain.predict(tokens(ROWS))["logits"])
    for layer in (0, 2, 3):
        expected = torch.cat([output.hidden_states[layer][0] for output in outputs])
        assert torch.allclose(predicted[f"hidden_{layer}"].double(), expected, atol=1e-4), layer


def test_the_last_state_of_gpt_gives_its_logits_and_the_first_is_the_embedding(gpt):
    predicted = with_hidden_states(gpt, [0, -1]).predict(tokens(ROWS))
    assert torch.equal(predicted["hidden_0"], gpt.module.embedding(torch.from_numpy(tokens(ROWS).values)))
    with torch.inference_mode():
        assert torch.allclose(gpt.module.project(predicted["hidden_3"]), predicted["logits"], atol=1e-6)


def test_slices_of_logits_leave_the_states_as_they_are(gpt):
    model = with_hidden_states(gpt, [1])
    sliced, expected = model.predict_sliced(tokens(ROWS), max_bytes=0), model.predict(tokens(ROWS))
    assert isinstance(sliced["logits"], SlicedLogits)
    assert torch.allclose(sliced["logits"][:], expected["logits"], atol=1e-6)
    assert torch.equal(sliced["hidden_1"], expected["hidden_1"])


@pytest.mark.parametrize(("encoding", "tolerance"), [("dense:f16", 2e-3), ("dense:q8", 1e-2)])
@pytest.mark.parametrize("pack", [None, 12])
def test_a_store_holds_the_states_of_its_positions(tmp_path, encoding, tolerance, pack):
    texts = [f"def f{i}(path):\n    return {i}" for i in range(12)]
    tokenizer = Tokenizer.train(texts, vocabulary=290)
    heads = {"logits": OutputHead(classes=tokenizer.size, kind="tokens", shape=(None,))}
    teacher = models.build("gpt:layers=2,width=24,heads=2", input_shape=(), heads=heads, seed=1)
    generate(
        pa.table({"text": texts}), teacher=teacher, out=tmp_path / "labels", hidden=[1, -1], unit_rows=5,
        encoding={"logits": "topk:4", "hidden_1": encoding}, text=TextOptions(tokenizer=tokenizer, pack=pack),
    )  # fmt: skip
    store = sl.open(tmp_path / "labels")
    assert {name: head.kind for name, head in store.heads.items()} == {
        "logits": "tokens", "hidden_1": "embedding", "hidden_2": "embedding",
    }  # fmt: skip
    ids, lengths, marks = store.read_inputs(np.arange(store.rows))
    expected = with_hidden_states(teacher, [1, 2]).predict(Ragged(ids.astype(np.int64), lengths, marks))
    for name, limit in (("hidden_1", tolerance), ("hidden_2", 2e-3)):
        values = store.read(np.arange(store.rows), name).values
        assert values.shape == (int(lengths.sum()) - store.rows, 24)
        assert np.abs(values - expected[name].numpy()).max() < limit * np.abs(expected[name].numpy()).max()
    assert sl.verify(tmp_path / "labels").ok


@pytest.mark.parametrize(
    ("layers", "problem"),
    [([4], "no such layer, got 4; expected 0"), ([-5], "no such layer, got -5"), ([1, -3], "layer 1 is named twice")],
)
def test_layers_that_are_not_there_are_refused(gpt, layers, problem):
    with pytest.raises(InvalidArgument, match=problem):
        with_hidden_states(gpt, layers)


def test_models_that_do_not_show_their_layers_are_refused(digits):
    model = models.as_model(lambda x: x.flatten(1).float(), sample=digits.inputs(np.arange(2)))
    with pytest.raises(InvalidArgument, match="does not show its layers"):
        with_hidden_states(model, [1])
