"""Labels that a Loader hands out are those that Store.read returns, for every encoding and device."""

import numpy as np
import pytest
import torch

import softlabels as sl
from softlabels import losses
from tests.loading.stores import random_logits

CLASSES = 40
ENCODINGS = [
    "dense:f32", "dense:f16", "dense:bf16", "dense:q8", "topk:4", "topk:4:q8", "topk:4:d4", "topk:4:f16:3",
    "topk:4:q8:3", "topk:4:d4:3", "adaptive:0.05", "adaptive:0.05:f16:3", "adaptive:0.05:q8", "sampled:5",
    "sampled:5:0.5", "threshold:0.1",
]  # fmt: skip


def write(path, encoding, *, ragged):
    logits = random_logits(24, CLASSES)
    values = np.split(logits, [3, 3, 10]) if ragged else logits
    shape = (None,) if ragged else ()
    head = sl.Head(classes=CLASSES, kind="tokens" if ragged else "classes", encoding=encoding, shape=shape)
    pilot = {"logits": random_logits(80, CLASSES, seed=1)}
    with sl.create(path, heads={"logits": head}, pilot=pilot) as writer:
        writer.append(range(len(values)), {"logits": values})
    return sl.open(path)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_device_hands_out_the_labels_of_the_store(tmp_path, encoding, ragged):
    store = write(tmp_path / "store", encoding, ragged=ragged)
    for device in (None, "cpu"):
        for batch in sl.loader(store, batch_size=3, device=device):
            expected, labels = store.read(np.asarray(batch.rows)), batch.targets["logits"]
            student = torch.from_numpy(random_logits(len(expected.log_probs()), CLASSES, seed=2))
            assert losses.kl(student, labels).item() == pytest.approx(losses.kl(student, expected).item(), abs=1e-6)
            arrays = [name for name, value in vars(expected).items() if isinstance(value, np.ndarray)]
            assert arrays
            for name in arrays:
                found = np.asarray(getattr(labels, name))
                np.testing.assert_array_equal(found.astype(getattr(expected, name).dtype), getattr(expected, name))
