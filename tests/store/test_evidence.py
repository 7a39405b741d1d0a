"""Statistics of units stay within what readers accept, whatever the shape of outputs."""

import pytest
import torch

import softlabels as sl
from softlabels.store import unit_statistics


@pytest.mark.parametrize(("side", "heads"), [(256, 3), (600, 1)])
def test_heads_of_pixels_can_be_sealed_whatever_their_number_and_size(tmp_path, side, heads):
    """Dense float32 logits of all rows are more than a file may hold; 600 x 600 x 19 are 26 MiB."""
    head = sl.Head(classes=19, kind="pixels", shape=(side, side), encoding="dense:f16")
    rows = 12 if heads > 1 else 1
    names = [f"camera{number}" for number in range(heads)]
    generator = torch.Generator().manual_seed(0)
    with sl.create(tmp_path / "s", heads=dict.fromkeys(names, head), teacher="t", unit_rows=4) as writer:
        for start in range(rows):
            logits = {name: torch.randn(1, side, side, 19, generator=generator) for name in names}
            writer.append([start], logits)
    store = sl.open(tmp_path / "s")
    size = 4 * 19 * side * side
    for name in names:
        probe = store.probe(name)
        if size > 2 * unit_statistics.PROBE_BYTES // heads:
            assert probe is None
        else:
            assert 1 <= len(probe.rows) <= 2 * unit_statistics.PROBE_BYTES // (heads * size)
        assert store.snapshot.fidelity[name].units.rows > 0


def test_thinning_keeps_what_there_is_or_spreads():
    assert unit_statistics.thinned(3, 5).tolist() == [0, 1, 2]
    assert unit_statistics.thinned(9, 3).tolist() == [0, 4, 8]
    assert unit_statistics.thinned(4, 0).tolist() == []
