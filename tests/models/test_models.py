"""Models: specifications, built-in networks, digests, run directories."""

import numpy as np
import pytest
import torch

from softlabels import models
from softlabels.errors import InvalidArgument
from softlabels.models import InputStatistics, OutputHead
from softlabels.models.spec import parse

TEN = {"logits": OutputHead(classes=10)}


def build(spec="mlp:width=8,depth=1", seed=0, heads=TEN, input_shape=(8, 8), **options):
    return models.build(spec, input_shape=input_shape, heads=heads, seed=seed, **options)


def statistics(mean, std):
    return InputStatistics(np.array(mean), np.array(std))


@pytest.mark.parametrize("spec", ["mlp", "mlp:width=16", "cnn:depth=2,width=8", "cnn"])
def test_built_in_models_map_inputs_to_logits(spec, digits):
    logits = build(spec).predict(digits.inputs(np.arange(5)))["logits"]
    assert logits.shape == (5, 10)
    assert logits.isfinite().all()


def test_built_in_models_have_named_heads():
    heads = {
        "steering": OutputHead(kind="regression", classes=2),
        "road.type": OutputHead(classes=3),
        "lanes": OutputHead(kind="pixels", classes=4, shape=(5, 6)),
    }
    outputs = build("cnn:width=8,depth=1", heads=heads).predict(np.zeros((7, 8, 8), np.uint8))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "steering": (7, 2),
        "road.type": (7, 3),
        "lanes": (7, 5, 6, 4),
    }


def test_a_cnn_takes_colour_and_refuses_other_inputs():
    colour = build("cnn:width=8", input_shape=(16, 12, 3))
    assert colour.predict(np.zeros((2, 16, 12, 3), np.uint8))["logits"].shape == (2, 10)
    with pytest.raises(InvalidArgument, match=r"not images, got shape \(64,\)"):
        build("cnn", input_shape=(64,))


def test_the_output_for_one_input_does_not_depend_on_the_others(digits):
    model = build("cnn:width=8,depth=2")
    together = model.predict(digits.inputs(np.arange(20)))["logits"]
    alone = torch.cat([model.predict(digits.inputs(np.array([row])))["logits"] for row in range(20)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_standardisation_is_part_of_the_model_and_its_digest():
    inputs = np.full((1, 8, 8), 7, np.uint8)
    plain, scaled = build(), build(statistics=statistics(7.0, 2.0))
    assert plain.digest != scaled.digest
    zeros = np.zeros((1, 8, 8), np.uint8)
    assert (scaled.predict(inputs)["logits"] == plain.predict(zeros)["logits"]).all()


@pytest.mark.parametrize(
    ("shape", "expected"), [((4,), (4,)), ((8, 8), ()), ((8, 8, 3), (3,)), ((2, 8, 8, 3), (3,)), ((), ())]
)
def test_columns_and_channels_have_a_mean_and_deviation_of_their_own(shape, expected):
    inputs = np.random.default_rng(0).normal(3.0, 5.0, size=(500, *shape)) * np.arange(1, 1 + (*shape, 1)[-1])
    computed = InputStatistics.of(inputs if shape else inputs.reshape(500))
    assert computed.mean.shape == computed.std.shape == expected
    layer = models.standardize.Standardize(shape)
    models.standardize.set_statistics(layer, computed)
    outputs = layer(torch.from_numpy(inputs if shape else inputs.reshape(500)))
    axes = tuple(range(outputs.ndim - len(expected)))
    torch.testing.assert_close(outputs.mean(axes), torch.zeros(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.std(axes, correction=0), torch.ones(expected), atol=1e-5, rtol=0)


def test_constant_columns_are_not_blown_up():
    inputs = np.stack([np.full(100, 0.1), np.arange(100.0)], axis=1)
    assert InputStatistics.of(inputs).std[0] == 1.0


def test_the_digest_names_weights_and_configuration():
    assert build().digest == build().digest
    assert build().digest != build(seed=1).digest
    assert build().digest != build(heads={"other": OutputHead(classes=10)}).digest
    changed = build()
    with torch.no_grad():
        next(changed.module.parameters())[0, 0] += 1e-6
    assert changed.digest != build().digest


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build()
    assert (torch.rand(3) == expected).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mpl", "unknown kind, got 'mpl'; expected .*Did you mean 'mlp'"),
        ("mlp:wide=3", "unknown option 'wide'; expected width, depth"),
        ("mlp:width=no", "width is out of range, got 'no'; expected a whole number from 1 to 65536"),
        ("mlp:width=0", "got '0'; expected a whole number from 1"),
        ("mlp:width=99999999", "got '99999999'; expected a whole number from 1 to 65536"),
        ("mlp:width=nan", "got 'nan'"),
        ("mlp:width=2.5", "got '2.5'"),
        ("run:", "after the colon is missing; expected run:DIR"),
        ("python:", "after the colon is missing; expected python:MODULE:NAME"),
        ("", "unknown kind"),
        ("run:x", "cannot be trained from scratch; expected cnn:"),
    ],
)
def test_invalid_specifications_are_refused(spec, message):
    with pytest.raises(InvalidArgument, match=message):
        build(spec)


def test_a_specification_shows_all_options():
    assert str(parse("cnn:width=8")) == "cnn:width=8,depth=3"
    assert parse(str(parse("cnn:width=8"))) == parse("cnn:width=8")
    assert parse("run:C:/x").text == "C:/x"


def test_a_network_larger_than_memory_is_refused_before_it_is_allocated():
    with pytest.raises(InvalidArgument, match=r"too large for inputs of shape \(8, 8\), got [\d,.]+ GiB"):
        build("mlp:width=65536,depth=200")


def test_an_architecture_is_not_a_model_yet():
    with pytest.raises(
        InvalidArgument, match=r"architecture without weights; expected hf:PATH .*onnx:FILE, .*pt2:FILE, .*run:DIR"
    ):
        models.load("mlp")


def test_costs_are_counted():
    model = build("mlp:width=8,depth=1")
    cost = models.measure_cost(model, torch.zeros(1, 8, 8), repeats=20)
    assert cost.parameters == 64 * 8 + 8 + 8 * 10 + 10
    assert cost.flops == 2 * (64 * 8 + 8 * 10)
    assert cost.bytes == 4 * (cost.parameters + 2)
    assert cost.latency_ms > 0


def test_a_model_with_one_head_has_a_number_of_classes():
    one = {"logits": OutputHead(classes=7)}
    assert models.build("mlp:width=4,depth=1", input_shape=(3,), heads=one).classes == 7
    heads = {"a": OutputHead(classes=2), "b": OutputHead(classes=3)}
    with pytest.raises(InvalidArgument, match="several heads, got a, b; expected one"):
        _ = models.build("mlp:width=4,depth=1", input_shape=(3,), heads=heads).classes
