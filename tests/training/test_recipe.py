"""Options of a training run: any integer or number type, within their ranges."""

import numpy as np
import pytest

from softlabels.errors import InvalidArgument
from softlabels.training import Recipe


def test_numbers_of_numpy_are_the_same_recipe():
    assert Recipe(seed=np.int64(3), lr=np.float32(0.5), batch_size=np.uint8(8)) == Recipe(seed=3, lr=0.5, batch_size=8)
    assert {type(value) for value in Recipe(seed=np.int64(3), steps=np.int32(2)).to_json().values()} <= {
        int,
        float,
        str,
        bool,
        type(None),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: out of range, got 0; expected a number above 0"),
        ({"batch_size": 2.5}, "batch_size: not a whole number, got 2.5"),
        ({"seed": "x"}, "seed: not a whole number, got 'x'"),
        ({"lr": 0}, "lr: out of range, got 0"),
        ({"lr": float("nan")}, "lr: out of range, got nan"),
        ({"lr": "fast"}, "lr: not a number, got 'fast'"),
        ({"clip": float("inf")}, "clip: out of range, got inf"),
        ({"alpha": 1.5}, "alpha: out of range, got 1.5; expected 0 to 1"),
        ({"warmup": -0.1}, "warmup: out of range, got -0.1; expected 0 to 1"),
        ({"weight_decay": -1}, "weight_decay: out of range, got -1"),
        ({"steps": 3, "epochs": 1}, "steps and epochs: got 3 and 1; expected one of them"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(InvalidArgument, match=message):
        Recipe(**options)


def test_zero_is_allowed_where_it_means_something():
    assert Recipe(alpha=0, warmup=0, weight_decay=0, seed=-1).alpha == 0
