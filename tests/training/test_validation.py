"""Figures of runs on labels of views: hard targets are those of the images themselves."""

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels.models import OutputHead

SIDE, CLASSES = 16, 5


class Teacher(torch.nn.Module):
    """Classes of pixels by their brightness, and a number of the image."""

    heads = {  # noqa: RUF012
        "road": OutputHead(kind="pixels", classes=CLASSES, shape=(SIDE, SIDE)),
        "steering": OutputHead(kind="regression", classes=1),
    }

    def forward(self, images):
        bright = images.float().mean(dim=-1, keepdim=True) / 255
        return {"road": -9 * (bright - torch.linspace(0, 1, CLASSES)).square(), "steering": bright.mean(dim=(1, 2))}


@pytest.mark.parametrize("policy", ["randcrop:scale=0.1:ratio=1,flip:p=1", "flip:p=1,mixup:p=1"])
def test_masks_and_numbers_are_compared_on_images_that_are_not_augmented(tmp_path, policy):
    scenes = sl.open_source("roads:40", size=SIDE)
    sl.generate(scenes, teacher=Teacher(), out=tmp_path / "labels", views=3, augment=policy, gate=False)
    student = sl.train_student(
        tmp_path / "labels", scenes, "unet:width=4,depth=2", tmp_path / "run", steps=4, batch_size=8
    )
    rows = scenes.split("test")
    outputs = student.predict(scenes.inputs(rows))
    classes = outputs["road"].argmax(-1).numpy()
    figures = student.run.metrics.figures
    assert figures["road.accuracy"] == pytest.approx(np.mean(classes == scenes.target("road", rows)))
    error = np.abs(outputs["steering"].numpy() - scenes.target("steering", rows)).mean()
    assert figures["steering.error"] == pytest.approx(error, rel=1e-4)
    assert figures["road.kl"] > 0, "which is measured on views"
