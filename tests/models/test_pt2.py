"""``pt2:FILE``: outputs beside the network that was exported, and files that are something else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from softlabels.errors import DataNotFound, InvalidArgument, InvalidData
from softlabels.models import PreprocessingOptions, as_model

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
SCALED = PreprocessingOptions(scale="1/255")


class Segmenter(torch.nn.Module):
    def __init__(self, names=("road", "angle")):
        super().__init__()
        torch.manual_seed(0)
        self.names = names
        self.convolution = torch.nn.Conv2d(3, 5, 1)
        self.layer = torch.nn.Linear(5, 1)

    def forward(self, images):
        scores = self.convolution(images)
        outputs = scores.softmax(dim=1), self.layer(scores.mean((2, 3)))
        return dict(zip(self.names, outputs, strict=True)) if self.names else outputs


def export(path, network, *, rows=2, dynamic=True, shape=(3, 8, 8)):
    batch = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    program = torch.export.export(network.eval(), (torch.zeros(rows, *shape),), dynamic_shapes=batch)
    torch.export.save(program, path)
    return f"pt2:{path}"


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return export(tmp_path_factory.mktemp("pt2") / "net.pt2", Segmenter())


def reference(images):
    with torch.no_grad():
        outputs = Segmenter()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    return {"road": outputs["road"].log().permute(0, 2, 3, 1), "angle": outputs["angle"]}


def test_outputs_become_heads_and_probabilities_become_logarithms(spec):
    model = as_model(spec, sample=IMAGES, heads={"road": "pixels", "angle": "regression"}, preprocessing=SCALED)
    outputs = model.predict(IMAGES)
    for name, expected in reference(IMAGES).items():
        torch.testing.assert_close(outputs[name], expected)
    assert as_model(
        spec, sample=IMAGES, heads={"road": "pixels", "angle": "regression"}, preprocessing=SCALED
    ).digest == model.digest  # fmt: skip
    with pytest.raises(InvalidArgument, match="meaning of output 'angle' is unknown"):
        as_model(spec, sample=IMAGES, preprocessing=SCALED)


def test_a_fixed_batch_serves_any_number_of_rows(tmp_path):
    spec = export(tmp_path / "fixed.pt2", Segmenter(names=None), rows=4, dynamic=False)
    heads = {"output_0": "pixels", "output_1": "regression"}
    model = as_model(spec, sample=IMAGES, heads=heads, preprocessing=SCALED)
    for rows in (1, 4, 5):
        outputs = model.predict(IMAGES[:rows])
        torch.testing.assert_close(outputs["output_0"], reference(IMAGES[:rows])["road"])


def test_images_of_another_size_or_unknown_scale_are_refused(spec):
    heads = {"road": "pixels"}
    with pytest.raises(InvalidArgument, match=r"got \(3, 10, 12\) after preprocessing; expected \(3, 8, 8\)"):
        as_model(spec, sample=np.zeros((1, 10, 12, 3), np.uint8), heads=heads, preprocessing=SCALED)
    with pytest.raises(InvalidArgument, match="preprocessing of images is unknown"):
        as_model(spec, sample=IMAGES, heads=heads)


def test_a_file_that_is_no_export_is_refused(tmp_path, spec):
    path = tmp_path / "x.pt2"
    for data in (b"", b"PK\x03\x04", Path(spec.removeprefix("pt2:")).read_bytes()[:5000]):
        path.write_bytes(data)
        with pytest.raises(InvalidData, match="cannot be read"):
            as_model(f"pt2:{path}", sample=IMAGES)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(InvalidData, match="cannot be read"):
        as_model(f"pt2:{path}", sample=IMAGES)
    with pytest.raises(DataNotFound, match="no such file"):
        as_model("pt2:nowhere.pt2", sample=IMAGES)


def test_a_network_with_two_inputs_is_refused(tmp_path):
    class Two(torch.nn.Module):
        def forward(self, a, b):
            return a + b

    program = torch.export.export(Two(), (torch.zeros(2, 3), torch.zeros(2, 3)))
    torch.export.save(program, tmp_path / "two.pt2")
    with pytest.raises(InvalidArgument, match="has 2 inputs"):
        as_model(f"pt2:{tmp_path / 'two.pt2'}", sample=np.zeros((2, 3), np.float32))
