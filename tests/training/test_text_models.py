"""Models of rows of text, end to end: classifiers with accuracy and F1, embeddings with cosine and retrieval."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import torch
import transformers
from torch.nn.functional import normalize

import softlabels as sl
from softlabels.generation import generate
from softlabels.sources.store_tokens import StoreTokens
from softlabels.text import Tokenizer
from softlabels.training import compare, train_student
from softlabels.training.splits import split_rows

WORDS = {"good": 1, "fine": 1, "bad": 0, "poor": 0}
ROWS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Reviews whose words decide their label, and a classifier and an encoder with a tokenizer."""
    root = tmp_path_factory.mktemp("reviews")
    generator = np.random.default_rng(0)
    words = generator.choice(list(WORDS), ROWS)
    texts = [f"review {i} was {word} {'x' * (i % 5)}" for i, word in enumerate(words)]
    table = pa.table({"text": texts, "label": [WORDS[word] for word in words]})
    pa.csv.write_csv(table, root / "reviews.csv")
    tokenizer = Tokenizer.train(texts, vocabulary=280)
    end = tokenizer.backend.id_to_token(tokenizer.end)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, eos_token=end, pad_token=end)
    sizes = {"vocab_size": tokenizer.size, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
             "pad_token_id": 0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
    torch.manual_seed(0)
    for name, layers in (("large", 2), ("small", 1)):
        config = transformers.BertConfig(**sizes, num_hidden_layers=layers, num_labels=2)
        for kind in (transformers.BertForSequenceClassification, transformers.BertModel):
            network = kind(config).eval()
            for parameter in network.parameters():
                if parameter.ndim == 2:
                    torch.nn.init.normal_(parameter, std=0.2)
            place = root / f"{name}-{kind.__name__}"
            network.save_pretrained(place)
            fast.save_pretrained(place)
    return root


def test_a_classifier_of_text_is_trained_from_its_store_and_compared_by_f1(folder, tmp_path):
    teacher = f"hf:{folder / 'large-BertForSequenceClassification'}"
    generate(folder / "reviews.csv", teacher=teacher, out=tmp_path / "labels", gate=False)
    store = sl.open(tmp_path / "labels")
    assert StoreTokens(store).target_of_labels == "row"
    student = train_student(
        store, None, f"hf:{folder / 'small-BertForSequenceClassification'}", tmp_path / "student", steps=40, lr=3e-3,
        batch_size=16,
    )  # fmt: skip
    assert student.heads["logits"].kind == "classes"
    assert student.run.metrics.agreement > 0.8
    rows = compare([teacher, f"run:{tmp_path / 'student'}"], folder / "reviews.csv")
    for row in rows:
        quality = row.heads["logits"]
        assert quality.metric == "accuracy"
        assert 0 <= quality.f1 <= 1
        assert quality.labelled == row.measured_rows
    assert rows[1].heads["logits"].agreement > 0.7


def test_hard_labels_of_text_come_from_the_data(folder, tmp_path):
    teacher = f"hf:{folder / 'large-BertForSequenceClassification'}"
    generate(folder / "reviews.csv", teacher=teacher, out=tmp_path / "labels", gate=False)
    student = train_student(
        tmp_path / "labels", folder / "reviews.csv", f"hf:{folder / 'small-BertForSequenceClassification'}",
        tmp_path / "student", steps=60, lr=3e-3, batch_size=16, alpha=0.05,
    )  # fmt: skip
    assert student.run.metrics.accuracy > 0.9


def test_embeddings_of_text_are_learned_and_compared_by_retrieval(folder, tmp_path):
    teacher = f"hf:{folder / 'large-BertModel'}"
    generate(folder / "reviews.csv", teacher=teacher, out=tmp_path / "labels", gate=False)
    student = train_student(tmp_path / "labels", None, f"hf:{folder / 'small-BertModel'}", tmp_path / "student",
                            steps=60, lr=3e-3, batch_size=16)  # fmt: skip
    assert student.run.objectives == {"embedding": "cosine"}
    store = sl.open(tmp_path / "labels")
    tokens = StoreTokens(store)
    held_out = split_rows(tokens)[1]
    own = normalize(student.predict(tokens.inputs(held_out))["embedding"], dim=-1)
    vectors = normalize(torch.from_numpy(store.read(held_out, "embedding").values.astype(np.float32)), dim=-1)
    nearest = [(side @ side.T).fill_diagonal_(-1).argmax(dim=-1) for side in (own, vectors)]
    assert student.run.metrics.figures["retrieval"] == pytest.approx(float((nearest[0] == nearest[1]).float().mean()))
    first, other, learned = compare(
        [teacher, f"hf:{folder / 'small-BertModel'}", f"run:{tmp_path / 'student'}"], folder / "reviews.csv"
    )
    assert first.heads["embedding"].retrieval == 1
    assert learned.heads["embedding"].cosine > other.heads["embedding"].cosine
    assert 0 <= learned.heads["embedding"].retrieval <= 1
