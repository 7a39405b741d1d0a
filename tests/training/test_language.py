"""Training on text: next tokens, labels of a store alone, fused losses, and the check that labels reach the loss."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from torch.nn import functional

import softlabels as sl
from softlabels import losses, models
from softlabels.errors import InvalidArgument, RunCorrupt, TrainingFailed
from softlabels.generation import generate
from softlabels.sources import as_source
from softlabels.sources.store_tokens import StoreTokens
from softlabels.text import START, Tokenizer
from softlabels.text.options import TextOptions
from softlabels.training import language, language_figures, train_student, train_teacher
from softlabels.training.label_check import LabelCheck
from softlabels.training.session import language_forward
from softlabels.training.tasks import Objective, Objectives
from softlabels.training.tasks.loss_spec import LossSpec
from softlabels.training.tasks.tokens import hard_token_term, mixed_token_term, next_token_targets, soft_token_term

TEXTS = [f"def f{i}(path):\n    return {i} + len(path)\n" for i in range(60)]
STUDENT = "gpt:layers=1,width=16,heads=2"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocabulary=290)


@pytest.fixture(scope="module")
def source(tokenizer):
    return as_source(pa.table({"text": TEXTS}), text=TextOptions(tokenizer=tokenizer, pack=24))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, source):
    """A trained teacher, and a store of its labels."""
    root = tmp_path_factory.mktemp("language")
    train_teacher(source, "gpt:layers=1,width=32,heads=2", root / "teacher", steps=120, batch_size=8, lr=5e-3)
    generate(source, teacher=f"run:{root / 'teacher'}", out=root / "labels", encoding="topk:20")
    return root


def test_a_teacher_learns_text_and_keeps_its_tokenizer(folder, tokenizer):
    model = models.load(f"run:{folder / 'teacher'}")
    assert model.tokenizer == tokenizer
    assert model.target == "next"
    metrics = model.run.metrics
    assert metrics.perplexity < tokenizer.size / 5
    assert metrics.bits_per_byte < 3
    assert metrics.held_out_rows > 0
    assert isinstance(metrics.sample, str)


def test_figures_are_those_of_a_plain_computation(folder, source):
    model = models.load(f"run:{folder / 'teacher'}")
    rows = np.arange(len(source))
    total, count, size = 0.0, 0, 0
    for row in rows:
        inputs = source.inputs(np.array([row]))
        logits = model.predict(inputs)["logits"]
        for position in range(len(inputs.values) - 1):
            if not inputs.marks[position + 1] & START:
                token = int(inputs.values[position + 1])
                total += float(functional.cross_entropy(logits[position], torch.tensor(token)))
                count += 1
        size += len(source.tokenizer.decode(inputs.values).encode())
    figures = language_figures.measure_text(model, source, rows)
    assert figures.tokens == count
    assert figures.loss == pytest.approx(total / count, rel=1e-4)
    assert figures.bits_per_byte == pytest.approx(total / count / math.log(2) * source.tokens / size, rel=1e-3)


def test_a_student_trains_from_the_store_alone(folder, tmp_path, tokenizer):
    student = train_student(folder / "labels", None, STUDENT, tmp_path / "run", steps=150, batch_size=8, lr=5e-3)
    untrained = train_student(folder / "labels", None, STUDENT, tmp_path / "other", steps=1, batch_size=8, lr=1e-9)
    assert student.tokenizer == tokenizer
    assert student.run.metrics.kl < untrained.run.metrics.kl / 2
    assert student.run.metrics.agreement > 0.3 > untrained.run.metrics.agreement
    again = train_student(folder / "labels", None, STUDENT, tmp_path / "run", steps=150, batch_size=8, lr=5e-3)
    assert again.digest == student.digest


def test_labels_of_all_logits_train_the_student_that_the_live_teacher_trains(folder, source, tmp_path):
    """The rows come in the same order, though the live teacher reads no labels, so weights and figures agree."""
    teacher = models.load(f"run:{folder / 'teacher'}")
    generate(source, teacher=teacher, out=tmp_path / "dense", encoding="dense:f32", unit_rows=16)
    store = sl.open(tmp_path / "dense")
    assert store.chunks > 1
    recipe = {"steps": 12, "batch_size": 8, "lr": 5e-3}
    stored = train_student(store, None, STUDENT, tmp_path / "stored", **recipe)
    live = train_student(teacher, StoreTokens(store), STUDENT, tmp_path / "live", **recipe)
    assert stored.run.metrics.perplexity == pytest.approx(live.run.metrics.perplexity, rel=1e-4)
    for one, other in zip(stored.module.parameters(), live.module.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_fused_losses_are_those_of_all_logits(folder, monkeypatch, alpha):
    store = sl.open(folder / "labels")
    source = StoreTokens(store)
    batch = next(iter(sl.loader(store, inputs=source, batch_size=5)))
    model = models.build(STUDENT, input_shape=(), heads=language.heads_of(source))
    soft = soft_token_term(
        model, "logits", LossSpec.parse("kl").losses[0], lambda b: b.targets["logits"], temperature=1.0, weight=alpha
    )
    loss = Objectives([Objective(head="logits", terms=(soft, hard_token_term(model, weight=1 - alpha)))])
    inputs = sl.sources.map_arrays(batch.inputs, torch.as_tensor)
    module = model.module.train()
    values, gradients = [], []
    for outputs in ({"logits": module(inputs)}, {language.STATES: module.states(inputs)}):
        module.zero_grad()
        value = loss(outputs, batch)
        value.backward()
        values.append(value.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in module.parameters()]))
    if alpha < 1:
        kl = LossSpec.parse("kl").losses[0]
        mixed = mixed_token_term(model, "logits", kl, lambda b: b.targets["logits"], temperature=1.0, alpha=alpha)
        assert mixed.name == str(Objective(head="logits", terms=(soft, hard_token_term(model, weight=1 - alpha))))
        module.zero_grad()
        value = mixed.loss({language.STATES: module.states(inputs)}, batch)
        value.backward()
        values.append(value.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in module.parameters()]))
    for value, gradient in zip(values, gradients, strict=True):
        assert value == pytest.approx(values[0], rel=1e-5)
        assert torch.allclose(gradient, gradients[0], atol=1e-6)
    assert not language.uses_states(model)
    monkeypatch.setattr(language, "FUSED_CLASSES", 2)
    assert language.uses_states(model)
    assert language_forward(model, source)(inputs)[language.STATES].shape == (len(outputs[language.STATES]), 16)


def test_predictions_across_documents_and_beyond_rows_do_not_count(folder):
    store = sl.open(folder / "labels")
    batch = next(iter(sl.loader(store, inputs=StoreTokens(store), batch_size=4)))
    following, counts = next_token_targets(batch)
    model = models.build(STUDENT, input_shape=(), heads=language.heads_of(StoreTokens(store)))
    loss = hard_token_term(model).loss
    logits = torch.randn(len(following), model.heads["logits"].classes)
    expected = functional.cross_entropy(logits[counts], following[counts])
    changed = logits.clone()
    changed[~counts] = 100 * torch.randn(int((~counts).sum()), model.heads["logits"].classes)
    assert 0 < counts.sum() < len(counts)
    assert float(loss({"logits": changed}, batch)) == pytest.approx(float(expected), rel=1e-6)


def test_a_student_of_transformers_trains_and_comes_back(folder, tmp_path):
    config = transformers.LlamaConfig(vocab_size=7, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                      num_attention_heads=2, architectures=["LlamaForCausalLM"])  # fmt: skip
    config.save_pretrained(tmp_path / "config")
    student = train_student(
        folder / "labels", None, f"hf:{tmp_path / 'config'}", tmp_path / "run", steps=3, batch_size=4
    )
    assert student.heads["logits"].classes == sl.open(folder / "labels").heads["logits"].classes
    assert models.load(f"run:{tmp_path / 'run'}").digest == student.digest


def test_a_student_with_another_tokenizer_is_refused(folder, tmp_path, tokenizer):
    (tmp_path / "config").mkdir()
    other = Tokenizer.train([*TEXTS, "something else entirely"], vocabulary=288)
    transformers.PreTrainedTokenizerFast(tokenizer_object=other.backend).save_pretrained(tmp_path / "config")
    with pytest.raises(InvalidArgument, match="another tokenizer than the labels, got one where"):
        train_student(folder / "labels", None, f"hf:{tmp_path / 'config'}", tmp_path / "run", steps=1)


def test_a_missing_or_other_tokenizer_of_a_run_is_damage(folder, tmp_path):
    import shutil

    shutil.copytree(folder / "teacher", tmp_path / "run")
    (tmp_path / "run" / "tokenizer.json").write_bytes(Tokenizer.train(["abc"], vocabulary=260).to_bytes())
    with pytest.raises(RunCorrupt, match="another tokenizer than the run names"):
        models.load(f"run:{tmp_path / 'run'}")
    (tmp_path / "run" / "tokenizer.json").unlink()
    with pytest.raises(RunCorrupt, match="missing or damaged"):
        models.load(f"run:{tmp_path / 'run'}")


def test_models_of_other_inputs_are_refused_for_text(source, tmp_path):
    with pytest.raises(InvalidArgument, match="ragged rows"):
        train_teacher(source, "mlp:width=8", tmp_path / "run", steps=1)


def test_labels_that_do_not_reach_the_loss_stop_training(digits, tmp_path, monkeypatch):
    def without_labels(logits, labels, *arguments, **options):
        return logits.logsumexp(dim=-1).mean()

    monkeypatch.setattr(losses, "cross_entropy", without_labels)
    with pytest.raises(TrainingFailed, match="labels: do not reach the loss"):
        train_teacher(digits, "mlp:width=8,depth=1", tmp_path / "run", steps=20)


def test_labels_that_are_all_equal_in_one_batch_pass_the_check():
    batches = iter([torch.zeros(4, dtype=torch.int64), torch.tensor([0, 1, 2, 0])])
    outputs = torch.randn(4, 3)

    def loss(values, batch):
        return functional.cross_entropy(values["logits"], batch)

    check = LabelCheck(loss, 0)
    done = []
    for labels in batches:
        check.check({"logits": outputs}, labels, float(loss({"logits": outputs}, labels)))
        done.append(check.is_done)
    assert done == [False, True]
    for _ in range(20):
        check.check({"logits": outputs}, torch.zeros(4, dtype=torch.int64), 1.0)
    assert check.is_done
