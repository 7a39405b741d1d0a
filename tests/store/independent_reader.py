"""A reader written from docs/FORMAT.md alone: NumPy, zarr or pyarrow, json and blake3; nothing of softlabels.

    python tests/store/independent_reader.py STORE

prints the first listed class and its probability of every item, or the logits of a ``dense`` store.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import zarr
from blake3 import blake3
from safetensors.numpy import load as load_arrays


def canonical(value):
    """Section 1."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def load(path):
    """A document in its canonical spelling, and its digest."""
    data = path.read_bytes()
    value = json.loads(data)
    assert canonical(value) == data, path
    body = {name: item for name, item in value.items() if name != "digest"}
    digest = blake3(canonical(body)).hexdigest()
    assert value.get("digest", digest) == digest, path
    return value, digest


def read_store(root):
    """Columns of all rows of the last snapshot, by name, and the descriptor; ragged ones flat."""
    descriptor, identity = load(root / "softlabels.json")
    assert (descriptor["format"], descriptor["version"]) == ("softlabels", 1)
    assert set(descriptor["requires"]) <= {"codebook", "packed"}
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
        for segment in [*record["chunks"], record["footer"]]:
            assert segment["offset"] == end
            end += segment["size"]
            assert blake3(data[segment["offset"] : end]).hexdigest() == segment["blake3"]
        assert end == len(data)
        parts.append(read_zarr(shard) if suffix == "zarr.zip" else read_parquet(shard))
        assert len(parts[-1]["key"]) == record["rows"]
        assert blake3(np.ascontiguousarray(parts[-1]["key"]).tobytes()).hexdigest() == record["keys"]
    for name, kind in descriptor["heads"].items():
        if not kind["encoding"].startswith(("dense", "topk")):  # lists of entries, not of one width
            for item in parts:
                item |= {key: item[key].reshape(-1) for key in item if key.startswith(f"{name}/") and "tail" not in key}
    columns = {name: np.concatenate([item[name] for item in parts]) for name in parts[0]}
    for name, kind in descriptor["heads"].items():
        if kind["shape"] not in ([], [None]) and not kind["encoding"].startswith("dense"):
            columns |= of_positions(columns, kind, name)
    return columns, descriptor


PER_ENTRY = {
    "topk": (),
    "adaptive": ("ids", "values", "codes", "steps"),
    "sampled": ("ids", "draws", "weights"),
    "threshold": ("ids", "codes"),
    "counts": ("near_gaps", "near_draws", "far_blocks", "far_offsets", "far_draws"),
}


def of_positions(columns, kind, name):
    """Section 5: planes of positions as one entry per position; columns that another one counts stay as they are."""
    positions, family = len(columns["key"]) * math.prod(kind["shape"]), kind["encoding"].split(":")[0]
    result = {}
    for column, array in columns.items():
        head, _, short = column.partition("/")
        if head == name and short not in PER_ENTRY[family]:
            planes = array.reshape(len(columns["key"]), array.size // positions, -1)
            has_axis = short == "tail" or (family == "topk" and short in {"ids", "values", "codes", "steps"})
            result[column] = planes.transpose(0, 2, 1).reshape((positions, -1) if has_axis else positions)
    return result


def listed(columns, kind, name, index=0, codes=None):
    """Section 5: ids and probabilities of each item's listed classes at a temperature of the head."""
    family, *options = kind["encoding"].split(":")
    get = {column.partition("/")[2]: array for column, array in columns.items() if column.startswith(f"{name}/")}
    temperature = kind["temperatures"][index]
    result, offset, at_code = [], 0, 0
    if family == "counts":
        return list(counted(get, codes, int(options[0]), options[3:]))
    for item in range(len(get["tail"] if family in {"topk", "adaptive"} else get["count"])):
        if family == "topk":
            ids, section = get["ids"][item], lambda column, item=item: get[column][item]
        else:
            where = slice(offset, offset + int(get["count"][item]))
            ids, section, offset = get["ids"][where], lambda column, where=where: get[column][where], where.stop
        if family == "sampled":
            p = (
                section("draws")
                / int(options[0])
                * (np.exp(section("weights").astype(float)) if "weights" in get else 1)
            )
        elif family == "threshold":
            n, tau = int(get["listed"][item]), float(options[0])
            p = np.append(tau ** (get["codes"][at_code : at_code + n] / int(options[1])), np.full(len(ids) - n, tau))
            at_code += n
        else:
            with np.errstate(divide="ignore"):
                p = np.exp(log_probs(options[1], section, get, item) / temperature)
            p *= -np.expm1(float(get["tail"][item, index])) / p.sum()
        result.append((ids.astype(int), p))
    return result


def counted(get, codes, draws, rule):
    """Section 5, ``counts``: ranks under the codeword, which lies under the draws or beside them."""
    order, near, far = np.argsort(-codes[0], axis=1, kind="stable"), 0, 0
    for item, code in enumerate(get["prior"]):
        a, b = slice(near, near + int(get["near"][item])), slice(far, far + int(get["far"][item]))
        near, far = a.stop, b.stop
        ranks = np.cumsum(get["near_gaps"][a].astype(int) + 1) - 1
        ranks = np.append(ranks, 256 * (1 + np.cumsum(get["far_blocks"][b].astype(int))) + get["far_offsets"][b])
        n = np.append(get["near_draws"][a], get["far_draws"][b]).astype(int) + 1
        ids = order[code][ranks] if len(n) or rule == ["dither"] else order[code][:1]
        has_share = rule == ["excess"] or (not rule and not len(n))
        share = (1 - n.sum() / draws) * codes[0, code, ids].astype(float) if has_share else 0
        yield ids, (n / draws if len(n) else 0) + share


def mix(x):
    """Section 5, "Draws"."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def dither(seed, row, position=None, line=None):
    """Section 5, "Dither": the number of a row, of a position of a ragged one, or of a position of a line."""
    by_block = position is None or line is not None
    counter = mix(mix(mix(seed) ^ 17) ^ (row // 256 if by_block else row)) + (row % 256 if by_block else position)
    if line is not None:
        counter = mix(counter % 2**32) + 83 * line + position
    return int.from_bytes([159 * byte % 256 for byte in (counter % 2**32).to_bytes(4, "little")], "big")


def offsets(number, classes):
    """Section 5, "Dither": u of every class."""
    return np.array([(number + 2654435769 * v) % 2**32 / 2**32 for v in range(classes)])


def log_probs(retained, section, get, item):
    """Up to a constant, the table of KEPT."""
    if retained == "f16":
        return section("values").astype(float)
    if retained == "q8":
        codes = section("codes").astype(float)
        return np.where(codes == 255, -np.inf, float(get["top"][item]) - float(get["scale"][item]) * codes)
    steps = section("steps").astype(float)
    return np.where(steps == 65535, -np.inf, -np.cumsum(np.where(steps == 65535, 0, steps)) / int(retained[1:]))


def scaled(columns, name, codes):
    """Section 5, ``dense:q8:scaled``: in float32, from means and deviations."""
    get = {short: columns[f"{name}/{short}"] for short in ("codes", "scale", "offset")}
    return (get["codes"] * get["scale"][:, None] + get["offset"][:, None]) * codes[0, 1] + codes[0, 0]


def codebook(root, kind):
    """Section 3."""
    data = (root / "codebooks" / f"{kind['codebook'][:32]}.safetensors").read_bytes()
    assert blake3(data).hexdigest() == kind["codebook"]
    return load_arrays(data)["priors"]


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
            room, of_counts = array.chunks[0], arrays[per].chunks[0]
            counts = arrays[per][:].astype(int)  # what is not filled is zero
            sums = [int(counts[start : start + of_counts].sum()) for start in range(0, len(counts), of_counts)]
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
    columns, about = read_store(Path(sys.argv[1]))
    name, kind = next(iter(about["heads"].items()))
    if kind["encoding"].startswith("dense"):
        print(columns[f"{name}/values"])
    else:
        for ids, p in listed(columns, kind, name):
            print(int(ids[0]), f"{p[0]:.4f}", f"{math.log(p[0]):.4f}")
