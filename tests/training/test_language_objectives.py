"""Objectives of text beside the KL: the text's own tokens, hidden states, and copied layers."""

import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

import softlabels as sl
from softlabels import losses, models
from softlabels.errors import InvalidArgument
from softlabels.generation import generate
from softlabels.labels import DenseLabels, SparseLabels
from softlabels.models.copied_layers import copy_layers
from softlabels.sources import as_source
from softlabels.sources.store_tokens import StoreTokens
from softlabels.text import Tokenizer
from softlabels.text.options import TextOptions
from softlabels.training import language_figures, train_student, train_teacher

TEXTS = [f"def f{i}(path):\n    return {i} + len(path)\n" for i in range(60)]
OPTIONS = {"batch_size": 8, "lr": 5e-3}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocabulary=290)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A trained teacher, and a store of its labels, log-probabilities of tokens, and hidden states."""
    root = tmp_path_factory.mktemp("objectives")
    text = TextOptions(tokenizer=tokenizer, pack=24)
    table = pa.table({"text": TEXTS})
    source = as_source(table, text=text)
    teacher = train_teacher(source, "gpt:layers=4,width=32,heads=2", root / "teacher", steps=60, **OPTIONS)
    generate(
        source, teacher=teacher, out=root / "labels", encoding="topk:12", chosen=True, hidden=[2, -1],
        written_by=teacher.digest,
    )  # fmt: skip
    generate(source, teacher=teacher, out=root / "foreign", encoding="topk:12", chosen=True, written_by="people")
    return root


def test_the_gradient_of_chosen_is_that_of_the_policy_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 9, generator=generator, requires_grad=True)
    tokens = torch.randint(0, 9, (40,), generator=generator)
    teacher = torch.randn(40, 9, generator=generator).log_softmax(-1).gather(1, tokens[:, None])
    loss = losses.chosen(logits, DenseLabels(teacher.numpy(), "regression"), tokens)
    (gradient,) = torch.autograd.grad(loss, logits)
    log_q = logits.log_softmax(-1).gather(1, tokens[:, None])
    advantage = (teacher - log_q).detach()
    (expected,) = torch.autograd.grad(-(advantage * log_q).mean(), logits)
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_on_text_of_the_student_chosen_has_the_gradient_of_the_reverse_kl():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 5, generator=generator).double().requires_grad_()
    teacher = torch.randn(1, 5, generator=generator).double().log_softmax(-1)
    q = logits.log_softmax(-1).exp()
    (expected,) = torch.autograd.grad((q * (q.log() - teacher)).sum(), logits)
    every = torch.arange(5)
    weighted = losses.chosen(
        logits.expand(5, 5), DenseLabels(teacher[0, :, None].float().numpy(), "regression"), every, mask=q[0].detach()
    )
    (gradient,) = torch.autograd.grad(weighted, logits)
    assert torch.allclose(gradient, expected, atol=1e-5)


def test_positions_without_a_token_do_not_count():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    labels = DenseLabels(np.array([[-1.0], [np.nan], [-2.0]], np.float32), "regression")
    value = losses.chosen(logits, labels, np.array([1, -1, 3]))
    alone = losses.chosen(logits[[0, 2]], DenseLabels(labels.values[[0, 2]], "regression"), np.array([1, 3]))
    assert torch.allclose(value, alone)
    with pytest.raises(InvalidArgument, match="expected equal numbers"):
        losses.chosen(logits[:2], labels, np.array([1, 1, 3]))
    with pytest.raises(InvalidArgument, match="needs log-probabilities of tokens"):
        losses.chosen(logits, labels)


def test_a_student_trains_on_the_texts_own_tokens(folder, tmp_path, caplog):
    before = models.build("gpt:layers=1,width=16,heads=2", input_shape=(), heads=heads_of(folder), seed=0)
    student = train_student(
        folder / "labels",
        None,
        "gpt:layers=1,width=16,heads=2",
        tmp_path / "student",
        loss="chosen",
        steps=60,
        **OPTIONS,
    )
    assert student.run.objectives == {"logits": "chosen"}
    assert student.run.metrics.kl < 0.9 * kl_of(before, folder)
    assert not caplog.records


def heads_of(folder):
    return {"logits": models.load(f"run:{folder / 'teacher'}").heads["logits"]}


def kl_of(model, folder):
    """KL of the stored labels from a model, over all positions that count."""
    store = sl.open(folder / "labels")
    return language_figures.measure_text(model, StoreTokens(store), np.arange(store.rows), store).kl


def test_a_writer_that_is_not_the_teacher_is_warned_about(folder, tmp_path, caplog):
    lines = []
    with caplog.at_level(logging.WARNING):
        train_student(folder / "foreign", None, "gpt:layers=1,width=16,heads=2", tmp_path / "student", loss="chosen",
                      steps=2, announce=lines.append, **OPTIONS)  # fmt: skip
    assert any("people wrote the text, while the teacher is" in line for line in lines)
    assert any("known to fail if writer and teacher differ" in record.message for record in caplog.records)


def test_labels_without_the_head_chosen_are_refused(folder, tmp_path):
    teacher = models.load(f"run:{folder / 'teacher'}")
    with pytest.raises(InvalidArgument, match="loss chosen is not possible, got labels without a head 'chosen'"):
        train_student(teacher, tokens_of(folder), "gpt:layers=1,width=16,heads=2", tmp_path / "student",
                      loss="chosen", steps=2)  # fmt: skip


def tokens_of(folder):
    return StoreTokens(sl.open(folder / "labels"))


@pytest.mark.parametrize("kind", ["gpt", "hf"])
def test_a_student_learns_hidden_states_beside_the_labels(folder, tmp_path, kind, monkeypatch, tokenizer):
    spec = "gpt:layers=2,width=16,heads=2"
    if kind == "hf":
        config = transformers.LlamaConfig(
            vocab_size=tokenizer.size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            tie_word_embeddings=True, architectures=["LlamaForCausalLM"],
        )  # fmt: skip
        config.save_pretrained(tmp_path / "config")
        spec = f"hf:{tmp_path / 'config'}"
    options = {"heads": ["logits", "hidden_2", "hidden_4"], "weight": {"hidden_2": 0.5, "hidden_4": 0.5},
               "loss": {"hidden_2": "mse"}, "steps": 40, "alpha": 1.0, **OPTIONS}  # fmt: skip
    student = train_student(folder / "labels", None, spec, tmp_path / "student", **options)
    assert student.run.objectives["hidden_2"] == "0.5 * (mse)"
    assert student.module.layers == {"hidden_2": 1, "hidden_4": 2}
    again = models.load(f"run:{tmp_path / 'student'}")
    store = sl.open(folder / "labels")
    tokens = tokens_of(folder).inputs(np.arange(4))
    predicted = again.predict(tokens)
    for name in ("hidden_2", "hidden_4"):
        expected = store.read(np.arange(4), name).values
        assert predicted[name].shape == expected.shape
    similarity = torch.nn.functional.cosine_similarity(predicted["hidden_4"], torch.from_numpy(expected), dim=-1)
    assert similarity.mean() > 0.5
    monkeypatch.setattr("softlabels.training.language.FUSED_CLASSES", 2)
    fused = train_student(folder / "labels", None, spec, tmp_path / "fused", **options | {"steps": 3})
    plain = train_student(folder / "labels", None, spec, tmp_path / "again", **options | {"steps": 3})
    assert fused.digest == plain.digest


def test_layers_of_the_teacher_are_copied_as_distilbert_does(folder, tmp_path):
    teacher = models.load(f"run:{folder / 'teacher'}")
    start = train_student(
        folder / "labels", None, "gpt:layers=2,width=32,heads=2", tmp_path / "copied", init_from=teacher.spec, steps=1,
        batch_size=8, lr=1e-9,
    )  # fmt: skip
    assert start.run.model.start == teacher.digest
    names = {"blocks.0.gate_up.weight": "blocks.0.gate_up.weight", "blocks.1.gate_up.weight": "blocks.3.gate_up.weight",
             "embedding.weight": "embedding.weight", "norm.weight": "norm.weight"}  # fmt: skip
    own, source = start.module.state_dict(), teacher.module.state_dict()
    for name, original in names.items():
        assert torch.allclose(own[name], source[original], atol=1e-6), name
    fresh = train_student(folder / "labels", None, "gpt:layers=2,width=32,heads=2", tmp_path / "fresh", steps=1,
                          batch_size=8, lr=1e-9)  # fmt: skip
    assert start.run.metrics.kl < fresh.run.metrics.kl


def test_layers_of_transformers_models_are_copied():
    config = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 40}
    teacher = transformers.BertModel(transformers.BertConfig(num_hidden_layers=12, **config))
    student = transformers.BertModel(transformers.BertConfig(num_hidden_layers=6, **config))
    assert copy_layers(student, teacher, subject="student") == (0, 2, 4, 7, 9, 11)
    assert torch.equal(student.encoder.layer[3].output.dense.weight, teacher.encoder.layer[7].output.dense.weight)
    assert torch.equal(student.embeddings.word_embeddings.weight, teacher.embeddings.word_embeddings.weight)


@pytest.mark.parametrize("spec", ["gpt:layers=2,width=16,heads=2", "gpt:layers=6,width=32,heads=2"])
def test_students_of_other_sizes_cannot_start_with_teacher_layers(folder, tmp_path, spec):
    with pytest.raises(InvalidArgument, match="cannot start with the weights of its teacher"):
        train_student(
            folder / "labels", None, spec, tmp_path / "student", init_from=f"run:{folder / 'teacher'}", steps=1
        )


def test_sparse_labels_are_no_log_probabilities_of_tokens():
    labels = SparseLabels(classes=4, ids=np.zeros((1, 1), np.int64), values=np.zeros((1, 1), np.float32),
                          temperatures=(1.0,), log_tail=np.zeros((1, 1), np.float32))  # fmt: skip
    with pytest.raises(InvalidArgument, match="got distributions"):
        losses.chosen(torch.zeros(1, 4), labels, np.array([1]))
