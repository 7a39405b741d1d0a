"""``onnx:FILE``: outputs beside torch, kinds of heads, preprocessing, and files that are not what they claim."""

import pickle

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import softlabels as sl
from softlabels.errors import DataNotFound, InvalidArgument, InvalidData, InvalidLogits
from softlabels.models import Preprocessing, PreprocessingOptions, as_model
from softlabels.models.exported import identifier
from tests.models import onnx_files

SCALED = PreprocessingOptions(scale="1/255")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
HEADS = {"road": "pixels", "angle": "regression"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("onnx") / "net.onnx"
    onnx_files.segmenter(file)
    return file


def reference(images):
    """The outputs of the network, computed by torch."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    kernel = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype(np.float32)).double()
    column = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 1)).astype(np.float32)).double()
    scores = torch.nn.functional.conv2d(pixels, kernel)
    return {"road": scores.log_softmax(1).permute(0, 2, 3, 1), "angle": scores.mean((2, 3)) @ column}


def close(values, expected):
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)


def test_outputs_become_heads_and_probabilities_become_logarithms(path):
    model = as_model(f"onnx:{path}", sample=IMAGES, heads=HEADS, preprocessing=SCALED)
    assert {name: (head.kind, head.classes, head.shape) for name, head in model.heads.items()} == {
        "road": ("pixels", 5, (8, 8)), "angle": ("regression", 1, ()),
    }  # fmt: skip
    outputs = model.predict(IMAGES)
    for name, expected in reference(IMAGES).items():
        close(outputs[name], expected)


def test_a_softmax_is_a_certain_kind_and_another_output_is_not(path):
    with pytest.raises(InvalidArgument, match=r"meaning of output 'angle' is unknown; expected heads={'angle': KIND}"):
        as_model(f"onnx:{path}", sample=IMAGES, preprocessing=SCALED)
    with pytest.raises(InvalidArgument, match=r"'road' holds probabilities of a softmax, got heads={'road': 'reg"):
        as_model(f"onnx:{path}", sample=IMAGES, heads={"road": "regression"}, preprocessing=SCALED)
    with pytest.raises(InvalidArgument, match="no output 'speed', got road, angle"):
        as_model(f"onnx:{path}", sample=IMAGES, heads={"speed": "regression"}, preprocessing=SCALED)
    with pytest.raises(InvalidLogits, match=r"'angle' cannot be pixels, got shape \(1, 1\)"):
        as_model(f"onnx:{path}", sample=IMAGES, heads={"angle": "pixels"}, preprocessing=SCALED)


def test_an_undeclared_scale_of_images_is_refused(path):
    with pytest.raises(InvalidArgument, match="preprocessing of images is unknown, got 8-bit images"):
        as_model(f"onnx:{path}", sample=IMAGES, heads=HEADS)
    large = np.zeros((1, 10, 12, 3), np.uint8)
    with pytest.raises(InvalidArgument, match=r"got \(3, 10, 12\) after preprocessing; expected \(3, 8, 8\)"):
        as_model(f"onnx:{path}", sample=large, heads=HEADS, preprocessing=SCALED)
    resized = as_model(
        f"onnx:{path}", sample=large, heads=HEADS, preprocessing=PreprocessingOptions(scale="1/255", size=8)
    )
    assert resized.predict(large)["angle"].shape == (1, 1)
    ready = IMAGES.transpose(0, 3, 1, 2).astype(np.float32) / 255  # as the network takes it: nothing to declare
    model = as_model(f"onnx:{path}", sample=ready, heads=HEADS)
    close(model.predict(ready)["angle"], reference(IMAGES)["angle"])


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_serves_any_number_of_rows(tmp_path, batch):
    spec = onnx_files.segmenter(tmp_path / "net.onnx", batch=batch)
    model = as_model(spec, sample=IMAGES, heads=HEADS, preprocessing=SCALED)
    for rows in (1, 4, 5):
        outputs = model.predict(IMAGES[:rows])
        close(outputs["angle"], reference(IMAGES[:rows])["angle"])


def test_the_digest_covers_weights_preprocessing_and_heads(path, tmp_path):
    def digest(spec, **options):
        return as_model(spec, sample=IMAGES, **{"heads": HEADS, "preprocessing": SCALED, **options}).digest

    spec = f"onnx:{path}"
    copied = tmp_path / "copy.onnx"
    copied.write_bytes(path.read_bytes())
    changed = onnx.load(path)
    changed.graph.initializer[0].raw_data = b"\x01" + changed.graph.initializer[0].raw_data[1:]
    onnx.save(changed, tmp_path / "changed.onnx")
    external = onnx_files.segmenter(tmp_path / "external.onnx", external="external.bin")
    digests = [
        digest(spec),
        digest(f"onnx:{tmp_path / 'changed.onnx'}"),
        digest(spec, preprocessing=PreprocessingOptions(scale="1/256")),
        digest(spec, heads={"angle": "regression"}),
        digest(external),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(f"onnx:{copied}") == digests[0]
    weights = bytearray((tmp_path / "external.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "external.bin").write_bytes(weights)
    assert digest(external) != digests[-1]


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin"])
def test_weights_outside_the_folder_are_refused(tmp_path, location):
    """Also by way of a link; the file outside exists, so reading it would work."""
    folder = tmp_path / "model"
    folder.mkdir()
    spec = onnx_files.segmenter(folder / "net.onnx", external="inside.bin")
    (folder / "inside.bin").rename(tmp_path / "secret.bin")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    model = onnx.load(folder / "net.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InvalidData, match="weights outside its folder"):
        as_model(spec, sample=IMAGES, heads=HEADS, preprocessing=SCALED)


def test_missing_external_weights_are_named(tmp_path):
    spec = onnx_files.segmenter(tmp_path / "net.onnx", external="w.bin")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(DataNotFound, match=r"no file 'w\.bin' beside it"):
        as_model(spec, sample=IMAGES, heads=HEADS, preprocessing=SCALED)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a model", b"{}", b"\x08\x07", bytes(range(256)) * 8])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(InvalidData, match=r"net\.onnx: not an ONNX model"):
        as_model(f"onnx:{tmp_path / 'net.onnx'}", sample=IMAGES)


def test_a_truncated_model_and_a_missing_one_are_refused(path, tmp_path):
    content = path.read_bytes()
    for length in range(1, len(content), 37):
        (tmp_path / "cut.onnx").write_bytes(content[:length])
        with pytest.raises((InvalidData, InvalidArgument)):
            as_model(f"onnx:{tmp_path / 'cut.onnx'}", sample=IMAGES, heads=HEADS, preprocessing=SCALED)
    with pytest.raises(DataNotFound, match="no such file"):
        as_model(f"onnx:{tmp_path / 'none.onnx'}", sample=IMAGES)


def test_an_operator_that_onnx_runtime_lacks_is_refused(tmp_path):
    node = helper.make_node("Telepathy", ["image"], ["logits"])
    spec = onnx_files.save(tmp_path / "net.onnx", [node], {"logits": ["n", 3]})
    with pytest.raises(InvalidData, match="ONNX Runtime cannot run it"):
        as_model(spec, sample=IMAGES, preprocessing=SCALED)


def test_other_inputs_are_refused(tmp_path):
    node = helper.make_node("Add", ["a", "b"], ["logits"])
    two = onnx_files.save(
        tmp_path / "two.onnx", [node], {"logits": ["n", 3]},
        inputs={"a": ("float32", ["n", 3]), "b": ("float32", ["n", 3])},
    )  # fmt: skip
    with pytest.raises(InvalidArgument, match="has 2 inputs, got a, b; expected one"):
        as_model(two, sample=np.zeros((2, 3), np.float32))
    cast = helper.make_node("Cast", ["tokens"], ["logits"], to=1)
    tokens = onnx_files.save(
        tmp_path / "int.onnx", [cast], {"logits": ["n", 4]}, inputs={"tokens": ("int32", ["n", 4])}
    )
    model = as_model(tokens, sample=np.arange(8, dtype=np.int64).reshape(2, 4))
    assert model.predict(np.array([[1, 2, 3, 4]], np.uint8))["logits"].tolist() == [[1, 2, 3, 4]]
    with pytest.raises(InvalidArgument, match="another dtype, got float32; expected int32"):
        as_model(tokens, sample=np.zeros((2, 4), np.float32))


def test_outputs_that_are_no_labels_are_refused(tmp_path):
    arg_max = helper.make_node("ArgMax", ["image"], ["logits"], axis=1, keepdims=0)
    spec = onnx_files.save(tmp_path / "net.onnx", [arg_max], {"logits": ["n", 8, 8]})
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(InvalidLogits, match="unsupported dtype, got int64; expected floats"):
        as_model(spec, sample=IMAGES, heads={"logits": "regression"}, preprocessing=SCALED)
    total = helper.make_node("ReduceSum", ["image"], ["logits"], keepdims=0)
    spec = onnx_files.save(tmp_path / "sum.onnx", [total], {"logits": []})
    with pytest.raises(InvalidLogits, match="does not have a row per input"):
        as_model(spec, sample=IMAGES, heads={"logits": "regression"}, preprocessing=SCALED)


@pytest.mark.parametrize(("options", "transposed"), [({"axis": 1}, False), ({"axis": 1}, True), ({}, False)])
def test_the_class_axis_is_that_of_the_softmax(tmp_path, options, transposed):
    """Also behind a transposition; without one named it is the last."""
    nodes = [helper.make_node("Softmax", ["image"], ["soft" if transposed else "road"], **options)]
    if transposed:
        nodes.append(helper.make_node("Transpose", ["soft"], ["road"], perm=[0, 2, 3, 1]))
    shape = ["n", 6, 7, 3] if transposed else ["n", 3, 6, 7]
    spec = onnx_files.save(tmp_path / "net.onnx", nodes, {"road": shape}, inputs={"image": ("float32", ["n", 3, 6, 7])})
    image = np.random.default_rng(0).normal(size=(2, 3, 6, 7)).astype(np.float32)
    model = as_model(spec, sample=image)
    assert model.heads["road"].classes == (3 if options else 7)
    sums = model.predict(image)["road"].exp().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_a_softmax_that_is_written_out_is_one(tmp_path):
    """As converters from JAX and TensorFlow write it: exponentials over their sum, by way of a reshape."""
    nodes = [
        helper.make_node("Exp", ["x"], ["exp"]),
        helper.make_node("ReduceSum", ["exp", "axes"], ["sum"], keepdims=0),
        helper.make_node("Reshape", ["sum", "column"], ["total"]),
        helper.make_node("Div", ["exp", "total"], ["target:0"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array([1], np.int64), "axes"),
        onnx.numpy_helper.from_array(np.array([-1, 1], np.int64), "column"),
    ]
    spec = onnx_files.save(
        tmp_path / "net.onnx",
        nodes,
        {"target:0": ["n", 4]},
        initializers=constants,
        inputs={"x": ("float32", ["n", 4])},
    )
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    output = as_model(spec, sample=values).predict(values)["target_0"]
    torch.testing.assert_close(output, torch.from_numpy(values).log_softmax(1))


def test_a_teacher_labels_a_data_set_with_its_preprocessing_in_the_descriptor(path, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    model = as_model(f"onnx:{path}", sample=images, heads=HEADS, preprocessing=SCALED)
    encoding = {"road": "dense:f32", "angle": "dense:f32"}
    sl.generate(images, teacher=model, out=tmp_path / "labels", encoding=encoding)
    store = sl.open(tmp_path / "labels")
    assert Preprocessing.from_json(store.descriptor.teacher.preprocessing) == Preprocessing(scale=1 / 255)
    assert store.descriptor.teacher.digest == model.digest
    expected = reference(images)
    for name in HEADS:
        np.testing.assert_allclose(store.read(range(20), name).values, expected[name], rtol=1e-4, atol=1e-5)


def test_a_model_can_be_pickled(path):
    original = as_model(f"onnx:{path}", sample=IMAGES, heads=HEADS, preprocessing=SCALED)
    model = pickle.loads(pickle.dumps(original))  # noqa: S301  its own bytes
    close(model.predict(IMAGES)["angle"], reference(IMAGES)["angle"])


@pytest.mark.parametrize(
    ("name", "expected"), [("logits", "logits"), ("Identity:0", "Identity_0"), ("0", "head_0"), ("a/b.c", "a_b_c")]
)
def test_names_of_outputs_become_names_of_heads(name, expected):
    assert identifier(name) == expected
