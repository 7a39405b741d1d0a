"""A reader written from docs/FORMAT.md alone: NumPy, zarr or pyarrow, json and blake3; nothing of softlabels.

    python tests/store/independent_reader.py STORE

prints the likeliest class and its log-probability of every row of a ``topk`` store, or the logits of a ``dense`` one.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import zarr
from blake3 import blake3


def canonical(value):
    """Section 1."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def load(path):
    """A document in its canonical spelling, and its digest."""
    data = path.read_bytes()
    value = json.loads(data)
    assert canonical(value) == data, path
    body = {name: part for name, part in value.items() if name != "digest"}
    digest = blake3(canonical(body)).hexdigest()
    assert value.get("digest", digest) == digest, path
    return value, digest


def read_store(root):
    """Columns of all rows of the last snapshot, by name, and the descriptor; ragged ones flat."""
    descriptor, identity = load(root / "softlabels.json")
    assert (descriptor["format"], descriptor["version"], descriptor["requires"]) == ("softlabels", 1, [])
    snapshot, _ = load(max((root / "snapshots").glob("*.json")))
    assert snapshot["descriptor"] == identity
    table_path = root / "snapshots" / f"{snapshot['number']:08d}-{snapshot['table'][:16]}.parquet"
    assert blake3(table_path.read_bytes()).hexdigest() == snapshot["table"]
    parts = []
    for row in pq.read_table(table_path).to_pylist():
        record, digest = load(root / "records" / f"{row['unit'] // 4096:02d}" / f"{row['unit']:08d}.json")
        assert (digest, record["descriptor"]) == (row["record"], identity)
        suffix = {"zarr": "zarr.zip", "parquet": "parquet"}[descriptor["shard"]["format"]]
        name = f"{row['unit']:08d}-{record['attempt']}.{suffix}"
        shard = root / "shards" / f"{row['unit'] // 4096:02d}" / name
        data = shard.read_bytes()
        assert len(data) == record["shard"]["size"]
        assert blake3(data).hexdigest() == record["shard"]["blake3"]
        end = 0
        for piece in [*record["chunks"], record["footer"]]:
            assert piece["offset"] == end
            end += piece["size"]
            assert blake3(data[piece["offset"] : end]).hexdigest() == piece["blake3"]
        assert end == len(data)
        parts.append(read_zarr(shard) if suffix == "zarr.zip" else read_parquet(shard))
        assert len(parts[-1]["key"]) == record["rows"]
        assert blake3(np.ascontiguousarray(parts[-1]["key"]).tobytes()).hexdigest() == record["keys"]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, descriptor


def read_zarr(path):
    """Section 4.1."""
    columns = {}
    with zarr.storage.ZipStore(path, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        arrays = dict(group.arrays())
        for head, inner in group.groups():
            arrays |= {f"{head}/{name}": array for name, array in inner.arrays()}
        for name, array in arrays.items():
            if (per := array.attrs.get("per")) is None:
                columns[name] = array[:]
                continue
            counts, rows, room = arrays[per][:].astype(int), array.attrs["chunk_rows"], array.chunks[0]
            sums = [int(counts[start : start + rows].sum()) for start in range(0, len(counts), rows)]
            columns[name] = np.concatenate([array[i * room : i * room + n] for i, n in enumerate(sums)])
    return columns


def read_parquet(path):
    """Section 4.2; here of one level of lists, or of two."""
    columns = {}
    table = pq.read_table(path, page_checksum_verification=True)
    for name in table.column_names:
        values = table.column(name).combine_chunks()
        if name == "key":
            columns[name] = np.array([np.frombuffer(key, np.uint8) for key in values.to_pylist()])
            continue
        width = None
        while hasattr(values, "flatten") and hasattr(values, "offsets"):
            width = np.diff(np.asarray(values.offsets))
            values = values.flatten()
        flat = np.asarray(values)
        regular = width is not None and len(set(width.tolist())) == 1
        columns[name] = flat.reshape(-1, int(width[0])) if regular else flat
    return columns


if __name__ == "__main__":
    found, about = read_store(Path(sys.argv[1]))
    name, kind = next(iter(about["heads"].items()))
    if kind["encoding"].startswith("topk"):
        for label, value in zip(found[f"{name}/ids"][:, 0], found[f"{name}/values"][:, 0], strict=True):
            print(int(label), f"{float(value):.4f}", f"{math.exp(value):.4f}")
    else:
        print(found[f"{name}/values"])
