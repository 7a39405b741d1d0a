"""Models of transformers: every output beside a float64 forward pass of one sequence at a time."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from softlabels import models
from softlabels.errors import DataNotFound, InvalidArgument, InvalidData
from softlabels.models import OutputHead
from softlabels.sources import Ragged
from softlabels.text import Corpus, pack

VOCABULARY = 67
ROWS = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10, 11, 12, 13], [3, 3, 3, 5, 1]]
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 40}  # fmt: skip
CAUSAL = {
    "gpt2": ("GPT2Config", {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40,
                            "bos_token_id": 0, "eos_token_id": 0}),
    "llama": ("LlamaConfig", SMALL | {"rope_theta": 100.0}),
    "qwen2": ("Qwen2Config", SMALL | {"use_sliding_window": False}),
    "mistral": ("MistralConfig", SMALL | {"sliding_window": 3}),
    "gemma2": ("Gemma2Config", SMALL | {"head_dim": 8, "sliding_window": 3, "final_logit_softcapping": 0.05}),
}  # fmt: skip
"""Classes by name, since transformers imports one in a second."""
ENCODER = {name: value for name, value in SMALL.items() if name != "num_key_value_heads"}


def save(network, folder):
    network.eval().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    saved = {}
    for name, (config, options) in CAUSAL.items():
        network = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**options))
        for parameter in network.parameters():  # far from the initial values, where all outputs are alike
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        saved[name] = save(network, root / name)
    bert = transformers.BertConfig(**ENCODER, num_labels=5, pad_token_id=0)
    kinds = ("BertForSequenceClassification", "BertForTokenClassification", "BertForMaskedLM", "BertModel")
    for name in kinds:
        saved[name] = save(getattr(transformers, name)(bert), root / name)
    return saved


def tokens(rows=ROWS, marks=None):
    return Ragged(
        np.concatenate([np.array(row, np.int64) for row in rows]), np.array([len(row) for row in rows]), marks
    )


def reference(folder, rows=ROWS, kind="AutoModelForCausalLM"):
    """Outputs of each row alone, in float64."""
    network = (
        getattr(transformers, kind).from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    )
    with torch.no_grad():
        return [network(input_ids=torch.tensor([row])) for row in rows]


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_logits_are_those_of_each_row_alone(directories, name):
    model = models.load(f"hf:{directories[name]}")
    expected = torch.cat([output.logits[0] for output in reference(directories[name])])
    assert model.heads == {"logits": OutputHead(classes=VOCABULARY, kind="tokens", shape=(None,))}
    assert torch.allclose(model.predict(tokens())["logits"].double(), expected, atol=1e-4)


@pytest.mark.parametrize("name", CAUSAL)
def test_packed_logits_are_those_of_each_document_alone(directories, name):
    model = models.load(f"hf:{directories[name]}")
    corpus = Corpus(np.concatenate([np.array(row, np.uint16) for row in ROWS]), np.cumsum([len(row) for row in ROWS]))
    rows = pack(corpus, 10)
    batch = [rows.row(number) for number in range(len(rows))]
    inputs = Ragged(
        np.concatenate([ids for ids, _ in batch]), np.array([len(ids) for ids, _ in batch]),
        np.concatenate([marks for _, marks in batch]),
    )  # fmt: skip
    segments = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10], [11, 12, 13], [3, 3, 3, 5, 1]]
    expected = torch.cat([output.logits[0] for output in reference(directories[name], segments)])
    last = np.cumsum(inputs.lengths) - 1
    expected = expected[np.setdiff1d(np.arange(len(expected)), last)]
    predicted = model.predict(inputs)["logits"].double()
    assert predicted.shape == expected.shape
    assert (predicted - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", CAUSAL)
def test_slices_of_positions_are_the_outputs(directories, name):
    model = models.load(f"hf:{directories[name]}")
    logits = model.predict_sliced(tokens(), max_bytes=0)["logits"]
    assert isinstance(logits, torch.Tensor) == (name == "gemma2")  # which changes logits after its output layer
    assert torch.allclose(logits[:], model.predict(tokens())["logits"], atol=1e-5)


def test_models_tell_what_their_outputs_belong_to(directories):
    targets = {name: models.load(f"hf:{directories[name]}").target for name in ("gpt2", "BertForMaskedLM", "BertModel")}
    assert targets == {"gpt2": "next", "BertForMaskedLM": "token", "BertModel": "row"}


def test_a_model_whose_attention_crosses_documents_refuses_packed_rows(directories, tmp_path):
    config = transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)
    network = transformers.BloomForCausalLM(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = models.load(f"hf:{save(network, tmp_path / 'bloom')}")
    marks = np.array([3, 2, 2, 3, 2, 0], np.uint8)
    with pytest.raises(InvalidArgument, match="BloomForCausalLM: cannot take packed rows"):
        model.predict(tokens([[1, 2, 3, 4, 5, 6]], marks))


@pytest.mark.parametrize("name", ["BertForTokenClassification", "BertForMaskedLM"])
def test_token_outputs_are_those_of_each_row_alone(directories, name):
    model = models.load(f"hf:{directories[name]}")
    expected = torch.cat([output.logits[0] for output in reference(directories[name], kind=name)])
    predicted = model.predict(tokens())["logits"]
    assert next(iter(model.heads.values())).kind == "tokens"
    assert torch.allclose(predicted.double(), expected, atol=1e-4)


def test_classes_are_those_of_each_row_alone(directories):
    folder = directories["BertForSequenceClassification"]
    model = models.load(f"hf:{folder}")
    expected = torch.cat([output.logits for output in reference(folder, kind="BertForSequenceClassification")])
    assert model.heads == {"logits": OutputHead(classes=5)}
    assert torch.allclose(model.predict(tokens())["logits"].double(), expected, atol=1e-4)


def test_a_classifier_without_a_padding_token_refuses_rows_of_unequal_length(tmp_path):
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=4, num_labels=3)
    model = models.load(f"hf:{save(transformers.GPT2ForSequenceClassification(config), tmp_path / 'classifier')}")
    assert model.predict(tokens([[1, 2, 3]]))["logits"].shape == (1, 3)
    with pytest.raises(InvalidArgument, match="row 1 of the batch: shorter than others, and GPT2ForSequenceClassif"):
        model.predict(tokens([[1, 2, 3], [4, 5]]))


def test_the_second_text_of_a_pair_has_its_own_type(directories):
    folder = directories["BertForSequenceClassification"]
    network = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = network(torch.tensor([[1, 2, 3, 4]]), token_type_ids=torch.tensor([[0, 0, 1, 1]])).logits
    predicted = models.load(f"hf:{folder}").predict(tokens([[1, 2, 3, 4]], np.array([3, 2, 6, 4], np.uint8)))["logits"]
    assert torch.allclose(predicted, expected, atol=1e-5)


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", False), ("mean", True), ("first", True)])
def test_embeddings_are_pooled_as_sentence_transformers_recorded(directories, tmp_path, pooling, normalize):
    folder = tmp_path / "encoder"
    shutil.copytree(directories["BertModel"], folder)
    entries = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    entries += [{"type": "sentence_transformers.models.Normalize", "path": "2"}] * normalize
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": pooling == "first"}))
    states = [output.last_hidden_state[0] for output in reference(folder, kind="AutoModel")]
    expected = torch.stack([state[0] if pooling == "first" else state.mean(0) for state in states])
    expected = torch.nn.functional.normalize(expected, dim=-1) if normalize else expected
    model = models.load(f"hf:{folder}")
    assert model.heads == {"embedding": OutputHead(classes=32, kind="embedding")}
    assert torch.allclose(model.predict(tokens())["embedding"].double(), expected, atol=1e-4)


def test_the_digest_names_weights_configuration_and_dtype(directories, tmp_path):
    digest = models.load(f"hf:{directories['llama']}").digest
    shutil.copytree(directories["llama"], tmp_path / "copy")
    assert models.load(f"hf:{tmp_path / 'copy'}").digest == digest
    network = transformers.AutoModelForCausalLM.from_pretrained(directories["llama"])
    half = models.load(f"hf:{save(network.half(), tmp_path / 'half')}")
    assert half.config["dtype"] == "float16"
    assert half.config["attention"] == "sdpa"
    assert half.digest != digest
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 5.0
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    assert models.load(f"hf:{tmp_path / 'copy'}").digest != digest


def test_a_row_that_is_too_long_or_has_unknown_ids_is_named(directories):
    model = models.load(f"hf:{directories['gpt2']}")
    with pytest.raises(
        Exception, match=r"row 1 of the batch: too long for the model, got 41 tokens; expected at most 40"
    ):
        model.predict(tokens([[1, 2], [3] * 41]))
    with pytest.raises(
        InvalidArgument, match=r"row 1 of the batch: token id out of range, got 67; expected ids below 67"
    ):
        model.predict(tokens([[1, 2], [3, 67]]))


def test_a_pickled_checkpoint_is_refused_with_the_way_to_convert_it(directories, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(directories["gpt2"], folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataNotFound, match="no weights"):
        models.load(f"hf:{folder}")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(InvalidData, match=r"pickled.*save_pretrained"):
        models.load(f"hf:{folder}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"architectures": None}, "no architecture"),
        ({"architectures": ["Nonsense"]}, "unknown architecture"),
        ({"architectures": ["set"]}, "unknown architecture"),
        ({"architectures": ["GPT2ForSequenceClassification"]}, "weights are missing, got none for score"),
        ({"architectures": ["GPT2DoubleHeadsModel"]}, "weights are missing"),
        ({"n_head": 5}, "transformers cannot load it"),
        ({"auto_map": {"AutoModel": "code.Model"}, "model_type": "their_own"}, "code of a model is never run"),
    ],
)
def test_models_that_cannot_be_used_are_refused(directories, tmp_path, change, problem):
    shutil.copytree(directories["gpt2"], tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((InvalidArgument, InvalidData), match=problem):
        models.load(f"hf:{tmp_path / 'model'}")


def test_a_missing_or_damaged_directory_is_named(tmp_path):
    with pytest.raises(DataNotFound, match="no such directory, and no revision of a model of a hub"):
        models.load("hf:organisation/name")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidData, match="damaged"):
        models.load(f"hf:{tmp_path}")


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_student_from_a_configuration_has_the_width_of_the_labels(directories, tmp_path, name):
    (tmp_path / "config.json").write_bytes(Path(directories[name], "config.json").read_bytes())
    heads = {"logits": OutputHead(classes=99, kind="tokens", shape=(None,))}
    first, second = (models.build(f"hf:{tmp_path}", input_shape=(), heads=heads, seed=seed) for seed in (0, 0))
    assert first.digest == second.digest
    assert first.digest != models.build(f"hf:{tmp_path}", input_shape=(), heads=heads, seed=1).digest
    assert first.predict(tokens())["logits"].shape == (18, 99)
    with pytest.raises(InvalidArgument, match="has another head"):
        models.build(f"hf:{tmp_path}", input_shape=(), heads={"logits": OutputHead(classes=3)})


def test_a_student_from_a_checkpoint_starts_with_its_weights(directories):
    heads = {"logits": OutputHead(classes=VOCABULARY, kind="tokens", shape=(None,))}
    student = models.build(f"hf:{directories['llama']}", input_shape=(), heads=heads)
    teacher = models.load(f"hf:{directories['llama']}")
    assert torch.equal(student.predict(tokens())["logits"], teacher.predict(tokens())["logits"])


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_a_trained_network_is_restored_from_its_configuration_and_tensors(directories, name):
    heads = {"logits": OutputHead(classes=VOCABULARY, kind="tokens", shape=(None,))}
    model = models.build(f"hf:{directories[name]}", input_shape=(), heads=heads)
    state = {key: tensor.clone() for key, tensor in model.module.state_dict().items()}
    restore = models.kinds()["hf"].restore
    restored = restore(json.loads(json.dumps(model.config)), state)
    inputs = tokens()
    inputs = Ragged(torch.from_numpy(inputs.values), torch.from_numpy(inputs.lengths))
    with torch.no_grad():
        assert torch.equal(restored(inputs), model.module.eval()(inputs))
    assert (
        restored.network.get_output_embeddings().weight is restored.network.get_input_embeddings().weight
        or name == "llama"
    )
    with pytest.raises(ValueError, match="not those of the configuration"):
        restore(model.config, state | {"more": torch.zeros(1)})
