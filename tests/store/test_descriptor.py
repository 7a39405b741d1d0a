"""Descriptors bound products of what they declare, so that nothing is generated that readers would refuse."""

import numpy as np
import pytest

import softlabels as sl
from softlabels.errors import InvalidArgument
from softlabels.labels import Head
from softlabels.store import create_or_open
from softlabels.store.format import canonical_json
from softlabels.store.format.descriptor import parse_descriptor
from tests.corpus import forging

WIDE = {f"h{index}": Head(encoding="topk:3:f16", classes=300) for index in range(64)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"heads": WIDE, "rows": 256, "unit_rows": 256, "chunk_rows": 1},
            "256 chunks of 194 columns; expected at most 168",
        ),
        ({"rows": 2**28, "unit_rows": 256, "chunk_rows": 1}, "1,048,576 units of 256 chunks; expected at most"),
        ({"rows": 2**23, "unit_rows": 4, "chunk_rows": 4}, "2,097,152 units of 1 chunks; expected at most"),
        ({"heads": {"x": Head(encoding="topk:3:f16", classes=300, kind="pixels", shape=(2**14, 2**13))}}, "positions"),
        ({"heads": {"x": Head(encoding="topk:3:f16", classes=9, temperatures=(1.0,) * 65)}}, "65 temperatures"),
    ],
)
def test_a_product_that_readers_would_refuse_is_refused_before_any_work(changes, says):
    with pytest.raises(InvalidArgument, match=says):
        forging.descriptor("topk-zarr", **changes)


def test_the_most_chunks_and_columns_of_a_unit_are_written_and_read(tmp_path):
    """64 heads and 168 chunks: a zip of 32,592 members."""
    descriptor = forging.descriptor("topk-zarr", heads=WIDE, rows=168, unit_rows=168, chunk_rows=1)
    assert parse_descriptor(canonical_json.to_bytes(descriptor.to_json())) == descriptor
    rows = forging.columns("topk-zarr", range(168))
    rows["logits/ids"] %= 300
    columns = {name: rows[name] for name in ("key", "view")} | {
        f"{head}/{name}": rows[f"logits/{name}"] for head in WIDE for name in ("ids", "tail", "values")
    }
    store = create_or_open(tmp_path / "s", descriptor)
    with store.begin(0) as writer:
        writer.append(columns)
        assert writer.commit()
    sl.seal(tmp_path / "s")
    sealed = sl.open(tmp_path / "s")
    np.testing.assert_array_equal(sealed.read([0, 167], "h63").ids, rows["logits/ids"][[0, 167]])
