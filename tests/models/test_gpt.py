"""The built-in language model."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softlabels import models
from softlabels.errors import InvalidArgument
from softlabels.models import OutputHead
from softlabels.sources import Ragged
from softlabels.text import START, Corpus, pack

VOCABULARY = 50
TOKENS = {"logits": OutputHead(classes=VOCABULARY, kind="tokens", shape=(None,))}


def build(spec="gpt:layers=2,width=32,heads=2", seed=0):
    return models.build(spec, input_shape=(), heads=TOKENS, seed=seed)


MODEL = build()


def tokens(*rows, marks=None):
    values = np.concatenate([np.asarray(row, np.int64) for row in rows])
    return Ragged(values, np.array([len(row) for row in rows]), marks)


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=5))
def test_a_row_does_not_depend_on_the_rows_beside_it(rows):
    together = MODEL.predict(tokens(*rows))["logits"]
    alone = torch.cat([MODEL.predict(tokens(row))["logits"] for row in rows])
    assert torch.allclose(together, alone, atol=1e-5)


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=9), min_size=1, max_size=6))
def test_packed_documents_have_the_outputs_of_each_alone(documents):
    corpus = Corpus(np.concatenate([np.array(one, np.uint16) for one in documents]), np.cumsum([*map(len, documents)]))
    ids, marks = pack(corpus, len(corpus.ids)).row(0)
    packed = MODEL.predict(Ragged(ids, np.array([len(ids)]), marks))["logits"]
    alone = torch.cat([MODEL.predict(tokens(one))["logits"] for one in documents])
    assert len(packed) == len(ids) - 1
    assert torch.allclose(packed, alone[:-1], atol=1e-5)


def test_a_prediction_does_not_depend_on_later_tokens():
    first, second = (MODEL.predict(tokens([1, 2, 3, last]))["logits"] for last in (4, 5))
    assert torch.equal(first[:3], second[:3])
    assert not torch.equal(first[3], second[3])


def test_predictions_depend_on_the_order_of_tokens():
    first, second = (MODEL.predict(tokens(row))["logits"][-1] for row in ([1, 2, 3, 4], [2, 1, 3, 4]))
    assert not torch.allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("positions", [1, 3, 100])
def test_slices_are_the_outputs_in_order(positions):
    marks = np.array([3, 2, 3, 0, 3, 2, 0], np.uint8)
    batch = tokens([1, 2, 3, 4], [5, 6, 7], marks=marks)
    complete = MODEL.predict(batch)["logits"]
    sliced = MODEL.predict_sliced(batch, max_bytes=0)["logits"]
    assert sliced.shape == complete.shape == (5, VOCABULARY)
    slices = list(sliced.slices(positions))
    assert all(len(values) <= positions for _, values in slices)
    assert torch.allclose(torch.cat([values for _, values in slices]), complete, atol=1e-6)
    assert torch.allclose(sliced[np.array([4, 0])], complete[[4, 0]], atol=1e-6)
    assert torch.equal(MODEL.predict_sliced(batch)["logits"], complete)


def test_a_user_model_may_return_every_token_or_the_labelled_positions():
    marks = np.array([3, 2, 0, 3, 0], np.uint8)
    batch = tokens([1, 2, 3], [4, 0], marks=marks)
    every = models.as_model(lambda inputs: torch.eye(5)[inputs.values], sample=batch)
    labelled = models.as_model(lambda inputs: torch.eye(5)[inputs.values[(inputs.marks & 2) > 0]], sample=batch)
    assert every.heads == labelled.heads == {"logits": OutputHead(classes=5, kind="tokens", shape=(None,))}
    assert every.predict(batch)["logits"].argmax(1).tolist() == [1, 2, 4]
    assert labelled.predict(batch)["logits"].argmax(1).tolist() == [1, 2, 4]
    assert every.predict_sliced(batch, max_bytes=0)["logits"].shape == (3, 5)


def test_the_output_layer_is_the_embedding():
    assert MODEL.module.output_weight is MODEL.module.embedding.weight
    sizes = sum(parameter.numel() for parameter in MODEL.module.parameters())
    assert sizes == VOCABULARY * 32 + 2 * (4 * 32 * 32 + 3 * 32 * (8 * 32 // 3) + 2 * 32) + 32


def test_gradients_reach_every_parameter():
    module = build().module
    module(Ragged(torch.arange(6), torch.tensor([6]))).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("spec", ["gpt:width=30,heads=4", "gpt:heads=-1", "gpt:depth=3"])
def test_invalid_sizes_are_refused(spec):
    with pytest.raises(InvalidArgument, match="MODEL"):
        build(spec)


def test_other_heads_are_refused():
    with pytest.raises(InvalidArgument, match="predicts the next token, got heads logits"):
        models.build("gpt", input_shape=(), heads={"logits": OutputHead(classes=3)})


def test_a_mark_on_the_first_token_changes_nothing():
    values, lengths = np.arange(4), np.array([4])
    first = MODEL.predict(Ragged(values, lengths, np.full(4, 2, np.uint8)))["logits"]
    marks = np.array([START | 2, 2, 2, 2], np.uint8)
    assert torch.equal(first, MODEL.predict(Ragged(values, lengths, marks))["logits"])
