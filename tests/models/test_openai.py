"""Servers as teachers: labels beside those of the same model at hand, and every way in which a server goes wrong."""

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

import softlabels as sl
from softlabels import models
from softlabels.errors import DataNotFound, InvalidArgument, InvalidLogits, TeacherRejected, TeacherUnavailable
from softlabels.generation import generate, sample
from softlabels.models.servers import client as client_module
from softlabels.sources import Ragged
from softlabels.text import LABELLED, START, Tokenizer
from softlabels.text.options import TextOptions
from tests.models.prompt_server import MODEL, serve

TEXTS = [f"def f{i}(path):\n    return {i} + len(path)" for i in range(24)]
K = 6


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([*TEXTS, "The quick brown fox"], vocabulary=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A small model with its tokenizer, as transformers saves it."""
    root = tmp_path_factory.mktemp("server")
    config = transformers.GPT2Config(vocab_size=tokenizer.size, n_embd=32, n_layer=2, n_head=4, n_positions=64,
                                     bos_token_id=0, eos_token_id=0)  # fmt: skip
    torch.manual_seed(0)
    network = transformers.GPT2LMHeadModel(config)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    network.eval().save_pretrained(root)
    end = tokenizer.backend.id_to_token(tokenizer.end)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, eos_token=end).save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def network(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def server(network, tokenizer):
    with serve(network, tokenizer) as state:
        yield state


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(client_module, "FIRST_WAIT", 0.02)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def spec(state, folder, **options):
    chosen = {"tokenizer": folder, "k": K, **options}
    return f"openai:{state.url}#{MODEL}," + ",".join(f"{name}={value}" for name, value in chosen.items())


def label(state, folder, out, texts=TEXTS, **options):
    return generate(pa.table({"text": list(texts)}), teacher=spec(state, folder), out=out, **options)


@pytest.mark.parametrize("style", ["vllm", "sglang"])
@pytest.mark.parametrize("text", [None, TextOptions(pack=24)], ids=["documents", "packed"])
def test_labels_are_those_of_the_same_model_at_hand(tmp_path, folder, network, tokenizer, style, text):
    data = pa.table({"text": TEXTS})
    with serve(network, tokenizer, style=style) as state:
        generate(data, teacher=spec(state, folder), out=tmp_path / "server", text=text, chosen=True)
    generate(
        data, teacher=f"hf:{folder}", out=tmp_path / "hand", text=text, chosen=True, encoding=f"topk:{K}"
    )  # fmt: skip
    served, local = sl.open(tmp_path / "server"), sl.open(tmp_path / "hand")
    assert served.rows == local.rows
    rows = np.arange(served.rows)
    first, second = served.read(rows, "logits"), local.read(rows, "logits")
    assert (first.ids == second.ids).mean() > 0.99  # two classes may tie
    assert np.abs(first.values - second.values).max() < 2e-3
    assert np.abs(first.log_tail - second.log_tail).max() < 1e-3
    log_probs = [one.read(rows, "chosen").values for one in (served, local)]
    ids = served.read_inputs(rows)
    assert np.abs(log_probs[0] - log_probs[1])[: len(ids[0]) - served.rows].max() < 1e-2
    assert sl.verify(tmp_path / "server").ok


def test_what_the_server_does_not_tell_is_neither_measured_nor_stored(tmp_path, server, folder):
    label(server, folder, tmp_path / "labels")
    store = sl.open(tmp_path / "labels")
    assert store.heads["logits"].tail == "uniform"
    assert store.heads["logits"].encoding.startswith(f"topk:{K}:")
    assert store.probe("logits") is None
    assert store.snapshot.fidelity == {}


@pytest.mark.parametrize("encoding", ["topk:7", "threshold:0.05", "dense:f16", "auto:max-kl=0.05"])
def test_encodings_that_need_more_than_the_server_tells_are_refused(tmp_path, server, folder, encoding):
    with pytest.raises(InvalidArgument, match="the 6 likeliest classes alone, got encoding"):
        label(server, folder, tmp_path / "labels", encoding=encoding)


def test_other_temperatures_are_refused(tmp_path, server, folder):
    with pytest.raises(InvalidArgument, match="at temperature 1 alone, got temperatures 1, 2"):
        label(server, folder, tmp_path / "labels", temperatures=(1.0, 2.0))
    with pytest.raises(InvalidArgument, match="no logits to plan with"):
        sample(pa.table({"text": TEXTS}), teacher=spec(server, folder))


@pytest.mark.parametrize("shift", [1, 2])
def test_a_server_that_shifts_its_answers_is_refused(server, folder, shift):
    server.shift = shift
    with pytest.raises(TeacherRejected, match="misaligned log-probabilities"):
        models.load(spec(server, folder))


def test_a_server_at_another_temperature_is_refused(server, folder):
    server.temperature = lambda requested: requested  # vLLM's processed log-probabilities: those of T = 1 are right
    models.load(spec(server, folder))
    server.change = _squared_at_two(server)
    with pytest.raises(TeacherRejected, match="unknown temperature"):
        models.load(spec(server, folder))


def _squared_at_two(server):
    """Values that change with the temperature in another way than softmax."""

    def change(answer):
        factor = 0.5 + server.requests[-1][2]["temperature"] ** 3
        for entry in answer["choices"][0]["prompt_logprobs"][1:]:
            for shown in entry.values():
                shown["logprob"] *= factor
        return answer

    return change


def test_requests_are_repeated_until_the_server_answers(tmp_path, server, folder):
    model = models.load(spec(server, folder))
    server.faults.extend([429, 500, "reset", 503, "reset", 429])
    label(server, folder, tmp_path / "faulty")
    server.faults.clear()
    label(server, folder, tmp_path / "calm")
    faulty, calm = sl.open(tmp_path / "faulty"), sl.open(tmp_path / "calm")
    assert faulty.descriptor.digest == calm.descriptor.digest
    for name, array in faulty.read_chunk(0).items():
        assert array.tobytes() == calm.read_chunk(0)[name].tobytes(), name
    assert model.digest == models.load(spec(server, folder)).digest


def test_a_server_that_never_answers_ends_at_the_deadline_with_committed_units(tmp_path, server, folder):
    model = models.load(spec(server, folder, deadline=1))
    server.faults.extend([500] * 1000)
    with pytest.raises(TeacherUnavailable, match=r"not available, got status 500; expected an answer within 1 s"):
        model.predict_sliced(tokens([[1, 2, 3]]))
    with pytest.raises(TeacherUnavailable, match="not available, got ConnectError"):
        models.load(f"openai:http://127.0.0.1:9/v1#{MODEL},tokenizer={folder},deadline=1")


def test_several_requests_are_under_way_at_a_time(server, folder):
    model = models.load(spec(server, folder, concurrency=3))
    model.predict_sliced(tokens([[1, 2, 3]] * 30))
    assert 1 < server.most_at_once <= 3


def tokens(rows, marks=None):
    return Ragged(np.concatenate([np.array(row, np.int64) for row in rows]), np.array([len(r) for r in rows]), marks)


def answer_with(change):
    """A change of the entry of token 2 of a prompt."""

    def changed(answer):
        entries = answer["choices"][0]["prompt_logprobs"]
        entries[2] = change(dict(entries[2]))
        return answer

    return changed


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda answer: {"choices": [{"prompt_logprobs": answer["choices"][0]["prompt_logprobs"][:-1]}]},
         r"row 0 of the batch: the server returned another number of positions, got 4; expected 5"),
        (answer_with(lambda _: {"299": {"logprob": -1.0}}), r"row 0 of the batch, token 2: .* other tokens, got 299"),
        (answer_with(lambda _: None), r"token 2: the server answers for other tokens, got none"),
        (answer_with(lambda entry: entry | {"7": {"logprob": float("nan")}}), "token 2: .* no log-probabilities"),
        (answer_with(lambda entry: entry | {"7": {"logprob": 1.5}}), "token 2: .* no log-probabilities"),
        (answer_with(lambda entry: entry | {"7": {"logprob": -1e-9}, "8": {"logprob": -1e-9}}), "sum to 1 at most"),
        (answer_with(lambda entry: entry | {"300": {"logprob": -9.0}}), "token id out of range, got 300"),
        (answer_with(lambda entry: dict(list(entry.items())[:2])), "fewer tokens than requested, got 2; expected 6"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_right_names_the_row(server, folder, change, problem):
    model = models.load(spec(server, folder))
    server.change = change
    with pytest.raises(InvalidLogits, match=problem):
        model.predict_sliced(tokens([[1, 2, 3, 4]]))


def test_a_page_or_another_protocol_is_no_answer(server, folder):
    model = models.load(spec(server, folder))
    server.faults.append("html")
    with pytest.raises(TeacherUnavailable, match=r"not an answer of this protocol, got text/html: '<html>"):
        model.predict_sliced(tokens([[1, 2, 3]]))
    server.change = lambda _: {"choices": [{"text": "no log-probabilities"}]}
    with pytest.raises(TeacherUnavailable, match="not an answer of the protocol vllm, got KeyError"):
        model.predict_sliced(tokens([[1, 2, 3]]))
    with pytest.raises(TeacherUnavailable, match="no prompt log-probabilities"):
        models.load(spec(server, folder))
    server.faults.append(400)
    with pytest.raises(TeacherUnavailable, match="refuses the request, got status 400"):
        model.predict_sliced(tokens([[1, 2, 3]]))


def test_the_key_comes_from_the_environment_and_appears_nowhere(
    tmp_path, network, tokenizer, folder, monkeypatch, caplog
):
    key = "sk-secret-1234567890"
    with serve(network, tokenizer, key=key) as state:
        with pytest.raises(TeacherUnavailable, match="environment variable OPENAI_API_KEY"):
            models.load(spec(state, folder))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
        with pytest.raises(TeacherUnavailable) as caught:
            models.load(spec(state, folder))
        assert "sk-other" not in str(caught.value)
        assert "***" in str(caught.value)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with caplog.at_level("DEBUG"):
            label(state, folder, tmp_path / "labels")
    written = b"".join(path.read_bytes() for path in (tmp_path / "labels").rglob("*") if path.is_file())
    assert key.encode() not in written
    assert key not in caplog.text


@pytest.mark.parametrize("url", ["http://user:password@host/v1", "http://host/v1?key=sk-1"])
def test_credentials_in_the_url_are_refused_without_repeating_them(folder, url):
    with pytest.raises(InvalidArgument, match="holds credentials") as caught:
        models.load(f"openai:{url}#m,tokenizer={folder}")
    assert "password" not in str(caught.value)
    assert "sk-1" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("localhost:8000#m", "no server and model"),
        ("http://localhost:8000/v1", "no server and model"),
        ("http://localhost:8000/v1#m", "no tokenizer, got a server alone"),
        ("http://localhost:8000/v1#m,k=0", "out of range, got '0'"),
        ("http://localhost:8000/v1#m,kk=3", "unknown option 'kk'"),
    ],
)
def test_specifications_that_name_no_server_are_refused(text, problem):
    with pytest.raises(InvalidArgument, match=problem):
        models.load(f"openai:{text}")


def test_another_model_or_tokenizer_than_the_servers_is_refused(server, folder, tmp_path):
    with pytest.raises(DataNotFound, match="no model 'large', got small"):
        models.load(spec(server, folder).replace(f"#{MODEL}", "#large"))
    other = Tokenizer.train(["something else entirely, such as these words of text " * 9], vocabulary=300)
    (tmp_path / "tokenizer.json").write_bytes(other.to_bytes())
    with pytest.raises(TeacherRejected, match="another tokenizer than the local one"):
        models.load(spec(server, tmp_path, classes=300))


def test_rows_longer_than_the_servers_positions_are_named_first(tmp_path, server, folder):
    with pytest.raises(Exception, match=r"row 1.*expected at most 47"):
        label(server, folder, tmp_path / "labels", ["short text", "long text " * 40])


def test_documents_of_a_row_are_requests_of_their_own(server, folder):
    model = models.load(spec(server, folder))
    marks = np.array([START | LABELLED, LABELLED, START | LABELLED, LABELLED, 0], np.uint8)
    before = len(server.requests)
    packed = model.predict_sliced(tokens([[5, 6, 7, 8, 9]], marks))["logits"]
    prompts = sorted(body["prompt"] for _, _, body in server.requests[before:])
    assert prompts == [[5, 6, 7], [7, 8, 9]]
    alone = model.predict_sliced(tokens([[7, 8, 9]], np.array([3, 2, 0], np.uint8)))["logits"]
    assert torch.equal(packed[2:], alone[:])
