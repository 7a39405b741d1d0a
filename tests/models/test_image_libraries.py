"""``timm:`` and ``torchvision:``, where the libraries can be imported: ``make test-vision`` installs them."""

import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import softlabels as sl
from softlabels import models
from softlabels.errors import InvalidArgument, InvalidData
from softlabels.models.image_libraries import import_library

MISSING = [name for name in ("torchvision", "timm") if importlib.util.find_spec(name) is None]
needs_libraries = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)} not installed; make test-vision installs them"
)
NAMES = ["timm:resnet10t", "torchvision:mobilenet_v3_small"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)


def weights_of(spec, tmp_path):
    """A safetensors file with initial weights of a network of five classes, and the network."""
    kind, _, name = spec.partition(":")
    library = import_library(kind)
    torch.manual_seed(0)
    create = library.create_model if kind == "timm" else library.models.get_model
    network = create(name, num_classes=5).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors", network


@needs_libraries
@pytest.mark.parametrize("spec", NAMES)
def test_a_teacher_is_the_librarys_network_behind_its_own_transform(tmp_path, images, spec):
    """Outputs agree with the library's own preprocessing of each image, up to two levels of 255 in resizing.

    A crop whose margin is odd may start a pixel earlier than theirs.
    """
    from PIL import Image

    file, network = weights_of(spec, tmp_path)
    model = models.load(f"{spec},weights={file}")
    if spec.startswith("timm"):
        data = import_library("timm").data
        transform = data.create_transform(**data.resolve_model_data_config(network), is_training=False)
    else:
        transform = import_library("torchvision").models.get_model_weights(spec.partition(":")[2]).DEFAULT.transforms()
    pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
    ours = model.module.preprocess(torch.from_numpy(images))
    assert ours.shape == pixels.shape
    assert (ours - pixels).abs().max() < 2.1 / 255 / min(model.preprocessing.std)
    with torch.inference_mode():
        expected = network(ours)
    torch.testing.assert_close(model.predict(images)["logits"], expected, rtol=1e-4, atol=1e-5)
    assert model.heads["logits"].classes == 5
    assert model.config["preprocessing"] == model.preprocessing.to_json()


@needs_libraries
@pytest.mark.parametrize("spec", NAMES)
def test_labels_and_students_of_a_library(tmp_path, images, spec):
    """The descriptor records the preprocessing; a student's run is loaded again with equal outputs."""
    file, _ = weights_of(spec, tmp_path)
    sl.generate(images, teacher=f"{spec},weights={file}", out=tmp_path / "labels", gate=False)
    store = sl.open(tmp_path / "labels")
    assert store.descriptor.teacher.preprocessing["size"] is not None
    run = sl.train_student(store, images, spec, tmp_path / "run", steps=2, batch_size=4)
    loaded = models.load(f"run:{tmp_path / 'run'}")
    torch.testing.assert_close(loaded.predict(images)["logits"], run.predict(images)["logits"])


@needs_libraries
@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("timm:no_such_net", InvalidArgument, "timm cannot build it"),
        ("torchvision:no_such_net", InvalidArgument, "torchvision cannot build it"),
        ("timm:resnet10t,width=3", InvalidArgument, "unknown option 'width'"),
        ("timm:resnet18,weights={file}", InvalidData, "the weights are of another network"),
        ("timm:resnet18,weights={file}.txt", InvalidData, "not a safetensors file"),
    ],
)
def test_what_a_library_cannot_build_is_an_error(tmp_path, spec, error, message):
    file, _ = weights_of("timm:resnet10t", tmp_path)
    (tmp_path / "weights.safetensors.txt").write_text("no weights")
    with pytest.raises(error, match=message):
        models.load(spec.format(file=file))


@pytest.mark.skipif(not MISSING, reason="the libraries are installed")
@pytest.mark.parametrize("name", ["timm", "torchvision"])
def test_a_missing_library_is_named_with_its_extra(name):
    with pytest.raises(InvalidArgument, match=rf"which is not installed. Run pip install 'softlabels\[{name}\]'"):
        models.load(f"{name}:resnet18")
