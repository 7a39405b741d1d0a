"""Export: files that predict as the model does, are refused where they do not, and run without options."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import softlabels as sl
from softlabels import models
from softlabels.errors import ExportRejected, InvalidArgument, StorageFailed
from softlabels.models import InputStatistics, OutputHead, PreprocessingOptions, as_model
from softlabels.models.onnx_cost import onnx_flops
from softlabels.sources import open_source
from softlabels.training import compare, export_model

DATA = "roads:60"


@pytest.fixture(scope="module")
def source():
    return open_source(DATA)


@pytest.fixture(scope="module")
def network(source):
    heads = {
        "road": OutputHead(kind="pixels", classes=5, shape=source.targets["road"].shape),
        "steering": OutputHead(kind="regression", classes=1),
    }
    statistics = InputStatistics.of(source.inputs(np.arange(10)))
    shape = source.input_shape
    return models.build("unet:width=4,depth=2", input_shape=shape, heads=heads, seed=1, statistics=statistics)


@pytest.fixture(scope="module")
def files(source, network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    results = {
        "onnx": export_model(network, source, folder / "net.onnx", rows=8),
        "int8": export_model(network, source, folder / "net8.onnx", rows=16, int8=True, tolerance=0.1),
        "pt2": export_model(network, source, folder / "net.pt2", rows=8),
    }
    return folder, results


@pytest.mark.parametrize("name", ["onnx", "int8", "pt2"])
def test_an_export_predicts_as_the_model_for_any_number_of_rows(files, network, source, name):
    result = files[1][name]
    exported = as_model(result.spec, sample=source.inputs(np.arange(1)))
    assert exported.heads == network.heads
    for rows in (1, 5):
        images = source.inputs(np.arange(rows))
        first, second = network.predict(images), exported.predict(images)
        for head, values in first.items():
            difference = (second[head] - values).square().mean().sqrt()
            assert difference < (0.2 * values.square().mean().sqrt() if name == "int8" else 1e-4)
    assert result.heads["road"].agreement > (0.9 if name == "int8" else 0.999)
    assert result.heads["road"].kl < result.tolerance


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_an_export_that_preprocesses_images_takes_no_other_preprocessing(files, source, name):
    """Its images would be preprocessed twice."""
    sample = source.inputs(np.arange(1))
    with pytest.raises(InvalidArgument, match="preprocesses images itself"):
        as_model(files[1][name].spec, sample=sample, preprocessing=PreprocessingOptions(scale="1/255"))


def test_a_file_runs_in_onnx_runtime_alone_and_tells_nothing_of_the_machine(files, network, source):
    path = files[0] / "net.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = source.inputs(np.arange(3))
    outputs = dict(zip(("road", "steering"), session.run(None, {"input": images}), strict=True))
    for name, expected in network.predict(images).items():
        np.testing.assert_allclose(outputs[name], expected, atol=1e-4)
    for name in ("net.onnx", "net8.onnx", "net.pt2"):
        assert not re.search(rb"site-packages|/softlabels/|[a-z]/\w+\.py", (files[0] / name).read_bytes()), name


def test_eight_bits_are_in_the_weights_and_not_in_the_layers_of_the_outputs(files):
    graph = onnx.load(files[0] / "net8.onnx").graph
    dtypes = {tensor.name: tensor.data_type for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    quantized = [
        node.name
        for node in graph.node
        if node.op_type == "Conv" and dtypes.get(makers[node.input[1]].input[0] if node.input[1] in makers else "") == 3
    ]
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(quantized) == len(convolutions) - 1 > 3  # all but that of the head per pixel
    assert files[1]["int8"].bytes < files[1]["onnx"].bytes * 1.2


def test_parameters_and_operations_agree_with_those_of_the_network(files, network, source):
    sample = source.inputs(np.arange(1))
    own = models.measure_cost(network, sample, repeats=1)
    for name in ("onnx", "pt2"):
        other = models.measure_cost(as_model(files[1][name].spec, sample=sample), sample, repeats=1)
        assert other.flops == own.flops
        assert other.parameters == own.parameters
        assert other.bytes == files[1][name].bytes
    assert onnx_flops(files[0] / "net8.onnx", source.input_shape) == own.flops


def test_an_export_that_differs_is_refused_and_nothing_is_written(tmp_path):
    layers = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    rows = {"x": np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)}
    out = tmp_path / "net.onnx"
    out.write_bytes(b"before")
    with pytest.raises(
        ExportRejected, match=r"differs from the model in head 'logits', got a KL of .*expected at most"
    ):
        export_model(layers, rows, out, rows=4, int8=True, tolerance=1e-12)
    assert out.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_function_that_torch_cannot_trace_is_refused(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    with pytest.raises(InvalidArgument, match="torch cannot export it"):
        export_model(lambda x: torch.from_numpy(x.numpy() * 2), {"x": rows}, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [("net.tflite", {}, "unknown, got 'tflite'; expected onnx or pt2"), ("net.pt2", {"int8": True}, "only for onnx"),
     ("net.onnx", {"rows": 0}, "out of range"), ("net.onnx", {"tolerance": -1.0}, "out of range")],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(network, source, tmp_path, out, options, message):
    with pytest.raises(InvalidArgument, match=message):
        export_model(network, source, tmp_path / out, **options)


def test_a_file_that_cannot_be_written_is_a_typed_error(network, source, tmp_path):
    (tmp_path / "net.pt2").mkdir()
    with pytest.raises(StorageFailed, match="cannot be written"):
        export_model(network, source, tmp_path / "net.pt2", rows=4)


def test_an_export_is_compared_and_exported_no_further(files, network, source, tmp_path):
    rows = compare([network, files[1]["onnx"].spec, files[1]["int8"].spec], source)
    assert rows[1].heads["road"].agreement > 0.999
    assert rows[1].heads["steering"].retention == pytest.approx(1, abs=1e-3)
    assert rows[2].heads["road"].kl > rows[1].heads["road"].kl
    json.dumps([row.to_json() for row in rows], allow_nan=False)
    with pytest.raises(InvalidArgument, match="is an exported file already"):
        export_model(files[1]["onnx"].spec, source, tmp_path / "again.onnx", to="onnx")


def test_start_and_memory_are_measured_in_a_process_of_its_own(files, source):
    row = compare([files[1]["onnx"].spec], source, memory=True)[0]
    assert 0 < row.start.init_s < 60
    assert row.start.first_ms > 0
    assert 0 < row.start.resident_bytes <= row.start.peak_bytes


def test_an_export_labels_data_as_a_teacher(files, network, tmp_path):
    sl.generate(DATA, teacher=files[1]["onnx"].spec, out=tmp_path / "labels", encoding={"road": "dense:f32"})
    store, source = sl.open(tmp_path / "labels"), open_source(DATA)
    expected = network.predict(source.inputs(np.arange(4)))
    np.testing.assert_allclose(store.read(range(4), "road").values, expected["road"], atol=1e-4)
    np.testing.assert_allclose(store.read(range(4), "steering").values, expected["steering"], atol=1e-4)
