"""Image models of transformers: every head beside the library itself, with its own processor."""

import json

import numpy as np
import pytest
import torch
import transformers

import softlabels as sl
from softlabels import models
from softlabels.errors import DataNotFound, InvalidArgument, InvalidData
from softlabels.models import OutputHead, Preprocessing, PreprocessingOptions, as_model

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
        "patch_size": 8}  # fmt: skip
CLASSES = 7


def _segformer():
    return transformers.SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
        num_labels=5,
    )  # fmt: skip


def _dpt():
    return transformers.DPTConfig(
        **TINY | {"num_hidden_layers": 4}, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=16, reassemble_factors=[4, 2, 1, 0.5],
    )  # fmt: skip


NETWORKS = {
    "convnext": (
        lambda: transformers.ConvNextForImageClassification(
            transformers.ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], num_labels=CLASSES)
        ),
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 64}, "crop_pct": 0.875},
        "logits", OutputHead(classes=CLASSES),
        lambda outputs: outputs.logits,
    ),
    "resnet": (
        lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES)
        ),
        {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 48},  # as old files are written
        "logits", OutputHead(classes=CLASSES),
        lambda outputs: outputs.logits,
    ),
    "vit": (
        lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**TINY, num_labels=CLASSES)),
        {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 32, "width": 32}},
        "logits", OutputHead(classes=CLASSES),
        lambda outputs: outputs.logits,
    ),
    "vit-embedding": (
        lambda: transformers.ViTModel(transformers.ViTConfig(**TINY)),
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}},
        "embedding", OutputHead(classes=32, kind="embedding"),
        lambda outputs: outputs.last_hidden_state[:, 0],
    ),
    "dinov2": (
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**TINY)),
        {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 36},
         "crop_size": {"height": 32, "width": 32}},
        "embedding", OutputHead(classes=32, kind="embedding"),
        lambda outputs: outputs.pooler_output,
    ),
    "segformer": (
        lambda: transformers.SegformerForSemanticSegmentation(_segformer()),
        {"image_processor_type": "SegformerImageProcessor", "size": {"height": 64, "width": 96}},
        "logits", OutputHead(classes=5, kind="pixels", shape=(16, 24)),
        lambda outputs: outputs.logits.permute(0, 2, 3, 1),
    ),
    "dpt": (
        lambda: transformers.DPTForDepthEstimation(_dpt()),
        {"image_processor_type": "DPTImageProcessor", "size": {"height": 32, "width": 32}},
        "depth", OutputHead(classes=1, kind="regression", shape=(64, 64)),
        lambda outputs: outputs.predicted_depth[..., None],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    torch.manual_seed(0)
    for name, (network, processor, *_) in NETWORKS.items():
        network().eval().save_pretrained(root / name)
        (root / name / "preprocessor_config.json").write_text(json.dumps(processor))
    return root


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_library_on_what_its_processor_makes(folders, name):
    """Pixels differ from the processor's by two levels of 255 at most."""
    _, processor, head_name, head, select = NETWORKS[name]
    model = as_model(f"hf:{folders / name}", sample=IMAGES)
    assert model.heads == {head_name: head}
    kind = processor.get("image_processor_type", "ConvNextImageProcessor").removesuffix("Fast")
    library = getattr(transformers, f"{kind}Pil")(**processor)
    pixels = library(list(IMAGES), return_tensors="pt")["pixel_values"]
    own = model.module.preprocess(torch.from_numpy(IMAGES))
    levels = (own - pixels) * torch.tensor(library.image_std)[:, None, None] * 255
    assert levels.abs().max() < 2.01
    with torch.no_grad():
        expected = select(model.module.network(pixel_values=own))
    torch.testing.assert_close(model.predict(IMAGES)[head_name], expected)
    assert model.preprocessing.scale == pytest.approx(1 / 255)


def test_the_digest_covers_the_preprocessing(folders):
    spec = f"hf:{folders / 'convnext'}"
    models_by_size = [
        as_model(spec, sample=IMAGES, preprocessing=options)
        for options in (None, PreprocessingOptions(size=32), PreprocessingOptions(scale=1))
    ]
    assert len({model.digest for model in models_by_size}) == 3
    assert as_model(spec, sample=IMAGES).digest == models_by_size[0].digest
    assert models_by_size[1].preprocessing.size == (32, 32)


def test_positions_of_a_vision_transformer_are_interpolated_for_another_size(folders):
    model = as_model(f"hf:{folders / 'vit'}", sample=IMAGES, preprocessing=PreprocessingOptions(size=48))
    assert model.predict(IMAGES)["logits"].shape == (3, CLASSES)


def test_a_directory_without_a_processor_needs_options(folders, tmp_path):
    folder = tmp_path / "net"
    NETWORKS["convnext"][0]().save_pretrained(folder)
    with pytest.raises(DataNotFound, match=r"preprocessing is unknown, got no preprocessor_config\.json"):
        as_model(f"hf:{folder}", sample=IMAGES)
    options = PreprocessingOptions(scale="1/255", mean="imagenet", std="imagenet", size=64)
    assert as_model(f"hf:{folder}", sample=IMAGES, preprocessing=options).preprocessing.size == (64, 64)


@pytest.mark.parametrize(
    ("processor", "message"),
    [("{", "damaged"), ("[]", "damaged"), ('{"image_processor_type": "NoSuchProcessor"}', "damaged"),
     ('{"image_processor_type": "os.system"}', "damaged"),
     ('{"image_processor_type": "BitImageProcessor", "resample": 1}', "resampling is not supported, got 1"),
     ('{"image_processor_type": "DPTImageProcessor", "keep_aspect_ratio": true}', "not supported, got keep_aspect"),
     ('{"image_processor_type": "DPTImageProcessor", "do_pad": true}', "not supported, got do_pad")],
)  # fmt: skip
def test_a_processor_that_cannot_be_followed_is_refused(tmp_path, processor, message):
    folder = tmp_path / "net"
    NETWORKS["resnet"][0]().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(processor)
    with pytest.raises((InvalidData, InvalidArgument), match=message):
        as_model(f"hf:{folder}", sample=IMAGES)


def test_images_between_0_and_1_are_not_scaled_again(folders):
    spec, floats = f"hf:{folders / 'resnet'}", IMAGES.astype(np.float32) / 255
    with pytest.raises(InvalidArgument, match="takes 8-bit images, got float32"):
        as_model(spec, sample=floats)
    model = as_model(spec, sample=floats, preprocessing=PreprocessingOptions(scale=1))
    other = as_model(spec, sample=IMAGES)
    torch.testing.assert_close(model.predict(floats)["logits"], other.predict(IMAGES)["logits"], rtol=0.05, atol=0.01)


def test_labels_and_a_student_of_the_same_library(folders, tmp_path):
    """A student from config.json alone takes statistics of the data, and is loaded from its run."""
    images = np.random.default_rng(1).integers(0, 256, (40, 40, 40, 3), dtype=np.uint8)
    teacher = f"hf:{folders / 'convnext'}"
    sl.generate(images, teacher=teacher, out=tmp_path / "labels", encoding="dense:f32")
    store = sl.open(tmp_path / "labels")
    assert Preprocessing.from_json(store.descriptor.teacher.preprocessing).shorter == 73
    folder = tmp_path / "student-config"
    folder.mkdir()
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    config.architectures = ["ResNetForImageClassification"]
    config.save_pretrained(folder)
    student = sl.train_student(tmp_path / "labels", images, f"hf:{folder}", tmp_path / "run", steps=3)
    loaded = models.load(f"run:{tmp_path / 'run'}")
    torch.testing.assert_close(loaded.predict(images)["logits"], student.predict(images)["logits"])
    assert loaded.module.standardize.mean.shape == (3,)
    with pytest.raises(InvalidArgument, match="another head, got embedding"):
        models.build(f"hf:{folders / 'dinov2'}", input_shape=(40, 40, 3), heads=student.heads)
