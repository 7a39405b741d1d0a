"""Models of a hub by their commit, and the options of ``hf:``, against a local server with the endpoints of a hub."""

import sys

import pytest
import torch
import transformers

from softlabels import models
from softlabels.errors import DataNotFound, InvalidArgument, InvalidData
from softlabels.generation.text_data import open_for_teacher
from softlabels.models import OutputHead
from softlabels.models.hidden_states import with_hidden_states
from softlabels.models.kind import ModelSpec
from softlabels.models.transformers_source import locate
from softlabels.sources import Ragged
from softlabels.text import Tokenizer
from tests.hub_server import hub_server

TOKENS = Ragged(torch.tensor([1, 2, 3, 4, 5]).numpy(), torch.tensor([3, 2]).numpy())
HEADS = {"logits": OutputHead(classes=61, kind="tokens", shape=(None,))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("source") / "small"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                      num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    transformers.LlamaForCausalLM(config).eval().save_pretrained(root)
    return root


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_server() as server:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def test_a_model_of_a_hub_is_the_one_of_its_commit(hub, folder):
    first = hub.add_folder("team/small", folder)
    hub.add("team/small", {"config.json": b"{}"}, "models")
    model = models.load(f"hf:team/small@{first}")
    assert model.spec == f"hf:team/small@{first}"
    assert model.digest == models.load(f"hf:{folder}").digest
    assert torch.equal(model.predict(TOKENS)["logits"], models.load(f"hf:{folder}").predict(TOKENS)["logits"])
    count = len([path for method, path in hub.requests if "/resolve/" in path and method == "GET"])
    models.load(f"hf:team/small@{first}")
    assert len([path for method, path in hub.requests if "/resolve/" in path and method == "GET"]) == count


def test_a_revision_that_moves_is_recorded_as_its_commit(hub, folder):
    commit = hub.add_folder("team/small", folder)
    assert models.load("hf:team/small@main").spec == f"hf:team/small@{commit}"
    assert models.load("hf:team/small@main,dtype=bfloat16").spec == f"hf:team/small@{commit},dtype=bfloat16"
    with pytest.raises(InvalidArgument, match=f"a revision that moves, got 'main'; .*hf:team/small@{commit}"):
        models.build("hf:team/small@main", input_shape=(), heads=HEADS)
    student = models.build(f"hf:team/small@{commit}", input_shape=(), heads=HEADS)
    assert torch.equal(student.predict(TOKENS)["logits"], models.load(f"hf:{folder}").predict(TOKENS)["logits"])


def test_code_and_pickles_of_a_hub_are_never_downloaded(hub, folder):
    commit = hub.add_folder("team/small", folder)
    commit = hub.add("team/small", {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"\x80"}, "models")
    source = locate(ModelSpec("hf", text=f"team/small@{commit}"))
    assert sorted(path.suffix for path in source.folder.iterdir()) == [".json", ".json", ".safetensors"]
    pickled = hub.add("team/old", {"config.json": b"{}", "pytorch_model.bin": b"\x80"}, "models")
    with pytest.raises(InvalidData, match=r"the weights are pickled, got pytorch_model.bin"):
        models.load(f"hf:team/old@{pickled}")


def test_models_that_a_hub_does_not_have_are_named(hub, folder):
    hub.add_folder("team/small", folder)
    with pytest.raises(DataNotFound, match=r"hf:team/none@main: cannot be downloaded, got RepositoryNotFoundError"):
        models.load("hf:team/none@main")
    with pytest.raises(DataNotFound, match="cannot be downloaded"):
        models.load(f"hf:team/small@{'0' * 40}")
    with pytest.raises(DataNotFound, match=r"no revision of a model of a hub; .* hf:team/small@COMMIT"):
        models.load("hf:team/small")


def test_the_tokenizer_of_a_hubs_model_comes_with_it(hub, folder, tmp_path):
    texts = ["to be or not to be", "that is the question"]
    (tmp_path / "corpus.txt").write_text("\n".join(texts))
    tokenizer = Tokenizer.train(texts, vocabulary=261)
    commit = hub.add_folder("team/small", folder)
    commit = hub.add("team/small", {"tokenizer.json": tokenizer.backend.to_str().encode()}, "models")
    source, teacher = open_for_teacher(tmp_path / "corpus.txt", f"hf:team/small@{commit}")
    assert source.tokenizer.size == teacher.tokenizer.size == tokenizer.size


def test_dtype_and_attention_are_options_and_part_of_the_digest(folder):
    plain = models.load(f"hf:{folder}")
    half, eager = models.load(f"hf:{folder},dtype=bfloat16"), models.load(f"hf:{folder},attention=eager,dtype=float32")
    assert (half.config["dtype"], half.config["attention"]) == ("bfloat16", "sdpa")
    assert (eager.config["dtype"], eager.config["attention"]) == ("float32", "eager")
    assert len({plain.digest, half.digest, eager.digest}) == 3
    assert torch.allclose(eager.predict(TOKENS)["logits"], plain.predict(TOKENS)["logits"], atol=1e-5)
    assert half.predict(TOKENS)["logits"].dtype == torch.bfloat16
    student = models.build(f"hf:{folder},attention=eager", input_shape=(), heads=HEADS)
    assert student.config["attention"] == "eager"


def test_layers_are_placed_by_a_device_map(folder):
    plain, placed = models.load(f"hf:{folder}"), models.load(f"hf:{folder},device_map=auto")
    assert not placed.module.placed  # one device has no hooks
    from accelerate import dispatch_model

    dispatch_model(placed.module.network, {"model": "cpu", "lm_head": "cpu"}, force_hooks=True)
    assert placed.module.placed
    assert placed.digest == plain.digest
    assert placed.spec.endswith("device_map=auto")
    assert torch.equal(placed.to(None).predict(TOKENS)["logits"], plain.predict(TOKENS)["logits"])
    assert "hidden_1" in with_hidden_states(placed, [1]).to(None).predict(TOKENS)
    with pytest.raises(InvalidArgument, match="its layers have devices already, got device 'cpu'"):
        placed.to("cpu")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("dtype=int8", "unknown dtype, got 'int8'"),
        ("attention=fast", "unknown attention, got 'fast'"),
        ("layers=2", "unknown option 'layers'; expected dtype, attention"),
        ("dtype=auto,dtype=auto", "repeated option 'dtype'"),
    ],
)
def test_options_that_do_not_exist_are_refused(folder, options, problem):
    with pytest.raises(InvalidArgument, match=problem):
        models.load(f"hf:{folder},{options}")


def test_what_this_machine_lacks_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InvalidArgument, match=r"library bitsandbytes, .* 'softlabels\[quantization\]'"):
        models.load(f"hf:{folder},quantization=8bit")
    with pytest.raises(InvalidArgument, match=r"library accelerate, .* 'softlabels\[devices\]'"):
        models.load(f"hf:{folder},device_map=auto")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidArgument, match="flex_attention needs CUDA"):
            models.load(f"hf:{folder},attention=flex_attention")


@pytest.mark.parametrize("option", ["device_map=auto", "quantization=8bit"])
def test_students_are_neither_placed_nor_quantised(folder, option, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    with pytest.raises(InvalidArgument, match="are for teachers"):
        models.build(f"hf:{folder},{option}", input_shape=(), heads=HEADS)
