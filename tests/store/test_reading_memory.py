"""Rows that would take too much memory together are refused; test_limits.py has the largest chunks."""

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument


def test_rows_too_uneven_to_be_padded_together_are_refused(tmp_path):
    """One row lists 50,000 classes and 6,000 rows one each: padded, 300 million entries."""
    classes, rows = 50_000, 6_000
    head = sl.Head(classes=classes, encoding="adaptive:0.00002:d4")
    logits = np.full((500, classes), -50.0, np.float32)
    logits[:, 0] = 0.0
    with sl.create(tmp_path / "s", heads={"logits": head}) as writer:
        for start in range(0, rows, 500):
            logits[0] = 0.0 if start == 0 else logits[1]
            writer.append(range(start, start + 500), {"logits": logits})
    store = sl.open(tmp_path / "s")
    with pytest.raises(InvalidArgument, match=r"6,000 rows of up to 50,000 classes.*read fewer rows of 'logits'"):
        store.read(range(rows))
    assert np.isfinite(store.read([0, 5]).values).sum() == classes + 1
    assert sum(len(batch) for batch in sl.loader(store, batch_size=256)) == rows
