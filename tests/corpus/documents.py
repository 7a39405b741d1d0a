"""Documents whose hashes fit and whose content no writer leaves: one case for each thing that readers check."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

import softlabels as sl
from softlabels.store.format import paths
from tests.corpus.cases import DOCUMENTS, Action, _blake3, case, raw
from tests.corpus.forging import CLASSES, SUMS, forge, record_of

for _what in DOCUMENTS:
    case("no JSON object", variant=_what, says="where an object is expected")(raw(_what, lambda _: b"[]"))
    case("nested lists", variant=_what, says="nested too deeply")(
        raw(_what, lambda _: b'{"a":' + b"[" * 700 + b"]" * 700 + b"}")
    )
    case("another spelling", variant=_what, says="canonical spelling")(
        raw(_what, lambda data: json.dumps(json.loads(data)).encode())
    )


def changed(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    """Set a value deep in a document; a function is given the one that stands there."""

    def change(value: dict[str, Any]) -> None:
        inner: Any = value
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = to(inner[path[-1]]) if callable(to) else to

    return change


def without(*names: str) -> Callable[[dict[str, Any]], None]:
    """Take keys out of a document."""

    def change(value: dict[str, Any]) -> None:
        for name in names:
            value.pop(name)

    return change


HEAD = {"kind": "classes", "classes": 5, "shape": [], "encoding": "dense:f16", "temperatures": [1.0], "tail": "bucket"}
DESCRIPTORS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "rows in words": (changed("rows", to="many"), "rows: got 'many'; expected an integer"),
    "half a row": (changed("unit_rows", to=2.5), "unit_rows: got 2.5; expected an integer"),
    "chunks above units": (changed("chunk_rows", to=7), "expected at most unit_rows, 6"),
    "very many chunks": (lambda value: value.update(unit_rows=1025), "expected at most 256 chunks"),
    "another shard format": (changed("shard", "format", to="zip"), "zarr or parquet"),
    "no heads": (changed("heads", to={}), "heads: got 0; expected 1 to 64"),
    "65 heads": (changed("heads", to={f"h{i}": HEAD for i in range(65)}), "heads: got 65; expected 1 to 64"),
    "a codebook for one prior": (changed("heads", "logits", "codebook", to="a" * 64), "do not go together"),
    "no codebook for many": (changed("heads", "logits", "encoding", to="topk:3:f16:4"), "do not go together"),
    "tails too large": (
        lambda value: value["heads"]["logits"].update(classes=2**21, temperatures=[1.0 + i for i in range(64)]),
        "fewer temperatures",
    ),
    "65 temperatures": (
        changed("heads", "logits", "temperatures", to=[1.0] * 65),
        "a JSON list of 65 items; expected a list of at most 64",
    ),
    "another format": (changed("format", to="hardlabels"), "'hardlabels'"),
    "a key missing": (without("seed"), "seed: it is missing"),
    "heads as a list": (changed("heads", to=["logits"]), "expected an object"),
    "a digest that is a number": (changed("teacher", "digest", to=5), "teacher.digest: got 5; expected a text"),
    "a teacher without a name": (changed("teacher", to={"digest": "d"}), "teacher.spec: it is missing"),
    "a name that is a list": (changed("data", "spec", to=["x"]), "data.spec: got a JSON list"),
    "rows of data in words": (changed("data", "rows", to="=1+1"), "data.rows: got '=1+1'; expected an integer"),
    "a seed in words": (changed("seed", to="zero"), "seed: got 'zero'; expected an integer"),
    "a seed of very many digits": (changed("seed", to=10**4000), "seed: got a large integer; expected an integer"),
    "a temperature beyond float64": (
        changed("heads", "logits", "temperatures", to=[10**400]),
        "expected a finite number",
    ),
    "temperatures as text": (
        changed("heads", "logits", "temperatures", to="12"),
        "temperatures: got '12'; expected a list",
    ),
    "no temperatures": (changed("heads", "logits", "temperatures", to=[]), "temperatures"),
    "a shape as text": (changed("heads", "logits", "shape", to="ab"), "shape: got 'ab'; expected a list"),
    "a tail that is a list": (changed("heads", "logits", "tail", to=["bucket"]), "tail: got a JSON list"),
    "a codec that is a list": (changed("shard", "codec", to=["zstd"]), "shard.codec: got a JSON list"),
    "another codec": (changed("shard", "codec", to="blosc"), "codec: got 'blosc'; expected zstd or lz4"),
    "columns of data as a number": (changed("data", "columns", to=3), "data.columns: got 3; expected a list"),
    "class names that are numbers": (
        changed("data", "class_names", to=[1, 2]),
        "data.class_names: got 1; expected texts",
    ),
    "a shape of data below 0": (changed("data", "shape", to=[-1]), "data.shape: got -1; expected an integer"),
    "2^28 chunks": (
        lambda value: value.update(rows=2**28, unit_rows=256, chunk_rows=1),
        "expected at most 1,048,576 units",
    ),
}
for _name, (_change, _says) in DESCRIPTORS.items():

    @case("a descriptor that cannot be", variant=_name, says=_says)
    def _(root: Path, change: Callable[[dict[str, Any]], None] = _change) -> None:
        forge(root, descriptor=change)


RECORDS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a key missing": (without("attempt"), "attempt: it is missing"),
    "chunks as a number": (changed("chunks", to=2), "chunks: got 2; expected a list"),
    "no rows": (changed("rows", to=0), "rows: got 0; expected an integer from 1 to 6"),
    "rows in words": (changed("rows", to="six"), "rows: got 'six'; expected an integer from 1 to 6"),
    "a gap": (changed("chunks", 1, "offset", to=lambda offset: offset + 1), "gaps or overlap"),
    "overlap": (changed("chunks", 1, "offset", to=lambda offset: offset - 1), "gaps or overlap"),
    "an empty range": (changed("footer", "size", to=0), "gaps or overlap"),
    "a negative range": (changed("chunks", 0, "size", to=-4), "chunks[0].size: got -4; expected an integer"),
    "a range of truth": (changed("chunks", 0, "offset", to=False), "chunks[0].offset: got False; expected an integer"),
    "a hash that is none": (changed("keys", to="../../x"), "keys: got '../../x'; expected a BLAKE3"),
    "a hash that is a number": (changed("shard", "blake3", to=7), "shard.blake3: got 7; expected a BLAKE3"),
    "another shard size": (changed("shard", "size", to=lambda size: size + 1), "its byte ranges end at"),
    "fidelity of another head": (
        changed("fidelity", to={"x": {"rows": 1, "kl": {}, "mass": 1, "top1": 1, "entropy": 0, "error": 0}}),
        "which are not the store's",
    ),
    "fidelity of no rows": (changed("fidelity", to={"logits": {"kl": {}, "rows": 0}}), "0 rows"),
    "fidelity as text": (changed("fidelity", to={"logits": "good"}), "where a fidelity is expected"),
    "fidelity without its mass": (changed("fidelity", to={"logits": {"kl": {}, "rows": 1}}), "KeyError 'mass'"),
    "a KL in words": (changed("fidelity", to={"logits": {"kl": {"1": "low"}, "rows": 1}}), "'low' where a number"),
    "a KL beyond float64": (
        changed("fidelity", to={"logits": {"kl": {"1": 10**400}, "rows": 1}}),
        "a number above 1e+100",
    ),
    "a fidelity that is null": (changed("fidelity", to={"logits": None}), "where a fidelity is expected"),
    "a teacher that is a list": (changed("teacher", to=["d"]), "teacher: got a JSON list"),
    "software that is null": (changed("software", to=None), "software: got None; expected a text"),
    "a unit beyond 2^31": (changed("unit", to=2**40), "unit: got 1099511627776; expected an integer"),
}
for _name, (_change, _says) in RECORDS.items():

    @case("a record that cannot be", variant=_name, says=_says)
    def _(root: Path, change: Callable[[dict[str, Any]], None] = _change) -> Action:
        """Sealing reads the records; opening would find first that the table of units says something else."""
        forge(root, record=change)
        (root / paths.snapshot_path(1)).unlink()
        return partial(sl.seal, root)


SNAPSHOTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a key missing": (without("units"), "units: it is missing"),
    "another number": (changed("number", to=2), "it says it is snapshot 2"),
    "rows below none": (changed("rows", to=-1), "rows: got -1; expected an integer"),
    "units of truth": (changed("units", to=True), "units: got True; expected an integer"),
    "bytes in words": (changed("bytes", to="few"), "bytes: got 'few'; expected an integer"),
    "a hash that is a number": (changed("table", to=7), "table: got 7; expected a BLAKE3"),
    "fidelity as a list": (changed("fidelity", to={"logits": []}), "fidelity.logits: got a JSON list of 0"),
    "fidelity without its mass": (changed("fidelity", to={"logits": {"kl": {}, "rows": 1}}), "KeyError 'mass'"),
    "the poorest unit in words": (
        changed("fidelity", to={"logits": (_good := {"rows": 1, "kl": {}, "mass": 1, "top1": 1, "entropy": 0})
                                | {"units": _good | {"poorest": _good | {"unit": "<b>"}}}}),
        "unit: got '<b>'; expected an integer",
    ),
    "the poorest unit left out": (
        changed("fidelity", to={"logits": _good | {"units": _good | {"poorest": _good}}}),
        "poorest.unit: it is missing",
    ),
}  # fmt: skip
for _name, (_change, _says) in SNAPSHOTS.items():

    @case("a snapshot that cannot be", variant=_name, says=_says)
    def _(root: Path, change: Callable[[dict[str, Any]], None] = _change) -> None:
        forge(root, snapshot=change)


@case("a table of units that does not add up", says="does not add up to 12 rows")
def _(root: Path) -> None:
    forge(root, record=changed("rows", to=5))


# Files of arrays.

PRIORS: dict[str, np.ndarray[Any, Any]] = {
    "a class of 0": np.where(np.arange(CLASSES) == 3, 0, 1 / (CLASSES - 1)).astype(np.float32)[None],
    "infinity": np.where(np.arange(CLASSES) == 3, np.inf, 1 / CLASSES).astype(np.float32)[None],
    "NaN": np.full((1, CLASSES), np.nan, np.float32),
    "a sum of 2": np.full((1, CLASSES), 2 / CLASSES, np.float32),
    "another class count": np.full((1, CLASSES + 1), 1 / (CLASSES + 1), np.float32),
    "float64": np.full((1, CLASSES), 1 / CLASSES),
    "a single number": np.array(1, np.float32),
}
for _name, _array in PRIORS.items():

    @case("a tail prior that is none", variant=_name, says="tail priors")
    def _(root: Path, array: np.ndarray[Any, Any] = _array) -> None:
        data = save({"logits/prior": array})
        (root / paths.prior_path(1, _blake3(data))).write_bytes(data)
        forge(root, snapshot=changed("prior", to=_blake3(data)))


def evidence(root: Path, arrays: dict[str, Any]) -> Action:
    """Unit 0 with other extras; every hash fits. Sealing reads them."""
    data = save({name: np.asarray(array) for name, array in arrays.items()})
    (root / paths.extras_path(0, record_of(root)["attempt"])).write_bytes(data)
    forge(root, record=changed("extras", to={"size": len(data), "blake3": _blake3(data)}))
    (root / paths.snapshot_path(1)).unlink()
    return partial(sl.seal, root)


DENSE = np.zeros((2, CLASSES), np.float32)
EXTRAS: dict[str, tuple[dict[str, Any], str]] = {
    "another head": ({"x/prior": SUMS}, "does not belong there"),
    "another name": ({"logits/weights": SUMS}, "does not belong there"),
    "other classes": ({"logits/prior": SUMS[..., 1:]}, "300) is expected"),
    "fewer dense rows than numbers": (
        {"logits/probe": DENSE[1:], "logits/probe_rows": [1, 2]},
        "where (2, 300) is expected",
    ),
    "NaN": ({"logits/prior": SUMS * np.nan}, "holds NaN"),
    "mass below 0": ({"logits/prior": -SUMS}, "no sums of probabilities"),
    "infinite mass": ({"logits/prior": SUMS * np.inf}, "no sums of probabilities"),
    "rows past the unit": ({"logits/probe": DENSE, "logits/probe_rows": [1, 6]}, "no ascending rows"),
    "falling rows": ({"logits/probe": DENSE, "logits/probe_rows": [2, 1]}, "no ascending rows"),
    "rows below 0": ({"logits/probe": DENSE, "logits/probe_rows": [-1, 1]}, "no ascending rows"),
    "rows in float": ({"logits/probe": DENSE, "logits/probe_rows": [1.0, 2.0]}, "no ascending rows"),
    "positions of plain rows": (
        {"logits/probe": DENSE, "logits/probe_rows": [1, 2], "logits/probe_positions": [0, 0]}, "have positions",
    ),
}  # fmt: skip
for _name, (_arrays, _says) in EXTRAS.items():

    @case("evidence that cannot be", variant=_name, says=_says)
    def _(root: Path, arrays: dict[str, Any] = _arrays) -> Action:
        return evidence(root, arrays)


RAGGED: dict[str, tuple[dict[str, Any], str]] = {
    "positions below 0": ({"logits/probe_positions": [-1, 0]}, "no positions"),
    "positions in float": ({"logits/probe_positions": [0.0, 0.0]}, "no positions"),
    "no positions": ({}, "or lack them"),
    "positions past a row's": ({"logits/probe_positions": [0, 2]}, "positions of 'logits' that its rows lack"),
}
for _name, (_arrays, _says) in RAGGED.items():

    @case("evidence that cannot be", variant=f"ragged, {_name}", kinds=("ragged-zarr",), says=_says)
    def _(root: Path, arrays: dict[str, Any] = _arrays) -> Action:
        return evidence(root, {"logits/probe": DENSE, "logits/probe_rows": [1, 2]} | arrays)


ROWS = np.array([1, 7])
PROBES: dict[str, tuple[str, dict[str, Any], str]] = {
    "another head": ("topk", {"x/rows": ROWS, "x/logits": DENSE}, "belong to nothing"),
    "no numbers": ("topk", {"logits/logits": DENSE}, "belong to nothing"),
    "no logits": ("topk", {"logits/rows": ROWS}, "no logits/logits"),
    "other classes": ("topk", {"logits/rows": ROWS, "logits/logits": DENSE[:, 1:]}, "no logits/logits of shape"),
    "logits in float64": ("topk", {"logits/rows": ROWS, "logits/logits": DENSE.astype(float)}, "no logits/logits"),
    "a single number": ("topk", {"logits/rows": np.array(1), "logits/logits": DENSE[:1]}, "no logits/rows of shape"),
    "rows past the end": ("topk", {"logits/rows": ROWS + 5, "logits/logits": DENSE}, "no ascending rows"),
    "rows below 0": ("topk", {"logits/rows": ROWS - 2, "logits/logits": DENSE}, "no ascending rows"),
    "no positions": ("ragged", {"logits/rows": ROWS, "logits/logits": DENSE}, "no logits/positions"),
}
for _name, (_kind, _arrays, _says) in PROBES.items():

    @case("a probe that cannot be", variant=_name, kinds=(f"{_kind}-zarr",), says=_says)
    def _(root: Path, arrays: dict[str, Any] = _arrays) -> Action:
        data = save(arrays)
        path = root / paths.probe_path(1, _blake3(data))
        path.parent.mkdir()
        path.write_bytes(data)
        forge(root, snapshot=changed("probe", to=_blake3(data)))
        return sl.open(root).probe
