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
    "rows in words": (changed("rows", to="many"), "whole number"),
    "half a row": (changed("unit_rows", to=2.5), "whole number"),
    "chunks above units": (changed("chunk_rows", to=7), "above unit_rows"),
    "very many chunks": (lambda value: value.update(unit_rows=1025), "too many chunks"),
    "another shard format": (changed("shard", "format", to="zip"), "zarr or parquet"),
    "no heads": (changed("heads", to={}), "1 to 64 heads"),
    "65 heads": (changed("heads", to={f"h{i}": HEAD for i in range(65)}), "1 to 64 heads"),
    "a codebook for one prior": (changed("heads", "logits", "codebook", to="a" * 64), "do not go together"),
    "no codebook for many": (changed("heads", "logits", "encoding", to="topk:3:f16:4"), "do not go together"),
    "tails too large": (
        lambda value: value["heads"]["logits"].update(classes=2**21, temperatures=[1.0 + i for i in range(64)]),
        "fewer temperatures",
    ),
    "65 temperatures": (changed("heads", "logits", "temperatures", to=[1.0] * 65), "cannot be"),
    "another format": (changed("format", to="hardlabels"), "'hardlabels'"),
    "a key missing": (without("seed"), "KeyError 'seed'"),
    "heads as a list": (changed("heads", to=["logits"]), "where a store says what it holds"),
    "a digest that is a number": (changed("teacher", "digest", to=5), "where text is expected"),
    "a teacher without a name": (changed("teacher", to={"digest": "d"}), "KeyError 'spec'"),
    "a name that is a list": (changed("data", "spec", to=["x"]), "where text is expected"),
    "rows of data in words": (changed("data", "rows", to="=1+1"), "'=1+1' rows of data"),
}
for _name, (_change, _says) in DESCRIPTORS.items():

    @case("a descriptor that cannot be", variant=_name, says=_says)
    def _(root: Path, change: Callable[[dict[str, Any]], None] = _change) -> None:
        forge(root, descriptor=change)


RECORDS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a key missing": (without("attempt"), "KeyError 'attempt'"),
    "chunks as a number": (changed("chunks", to=2), "where a record says what was committed"),
    "no rows": (changed("rows", to=0), "a unit has 1 to 6"),
    "rows in words": (changed("rows", to="six"), "a unit has 1 to 6"),
    "a gap": (changed("chunks", 1, "offset", to=lambda offset: offset + 1), "gaps or overlap"),
    "overlap": (changed("chunks", 1, "offset", to=lambda offset: offset - 1), "gaps or overlap"),
    "an empty range": (changed("footer", "size", to=0), "gaps or overlap"),
    "a negative range": (changed("chunks", 0, "size", to=-4), "-4 where a count of bytes or rows"),
    "a range of truth": (changed("chunks", 0, "offset", to=False), "False where a count of bytes or rows"),
    "a hash that is none": (changed("keys", to="../../x"), "where a BLAKE3 is expected"),
    "a hash that is a number": (changed("shard", "blake3", to=7), "7 where a BLAKE3 is expected"),
    "another shard size": (changed("shard", "size", to=lambda size: size + 1), "its byte ranges end at"),
    "fidelity of another head": (
        changed("fidelity", to={"x": {"rows": 1, "kl": {}, "mass": 1, "top1": 1, "entropy": 0, "error": 0}}),
        "which are not the store's",
    ),
    "fidelity of no rows": (changed("fidelity", to={"logits": {"kl": {}, "rows": 0}}), "0 rows"),
    "fidelity as text": (changed("fidelity", to={"logits": "good"}), "where a fidelity is expected"),
    "fidelity without its mass": (changed("fidelity", to={"logits": {"kl": {}, "rows": 1}}), "KeyError 'mass'"),
    "a KL in words": (changed("fidelity", to={"logits": {"kl": {"1": "low"}, "rows": 1}}), "'low' where a number"),
}
for _name, (_change, _says) in RECORDS.items():

    @case("a record that cannot be", variant=_name, says=_says)
    def _(root: Path, change: Callable[[dict[str, Any]], None] = _change) -> Action:
        """Sealing reads the records; opening would find first that the table of units says something else."""
        forge(root, record=change)
        paths.snapshot_path(root, 1).unlink()
        return partial(sl.seal, root)


SNAPSHOTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a key missing": (without("units"), "KeyError 'units'"),
    "another number": (changed("number", to=2), "it says it is snapshot 2"),
    "rows below none": (changed("rows", to=-1), "-1 where a count is expected"),
    "units of truth": (changed("units", to=True), "True where a count is expected"),
    "bytes in words": (changed("bytes", to="few"), "'few' where a count is expected"),
    "a hash that is a number": (changed("table", to=7), "where a snapshot says what was sealed"),
    "fidelity as a list": (changed("fidelity", to={"logits": []}), "where a snapshot says what was sealed"),
    "fidelity without its mass": (changed("fidelity", to={"logits": {"kl": {}, "rows": 1}}), "KeyError 'mass'"),
    "the poorest unit in words": (
        changed("fidelity", to={"logits": (_good := {"rows": 1, "kl": {}, "mass": 1, "top1": 1, "entropy": 0})
                                | {"units": _good | {"poorest": _good | {"unit": "<b>"}}}}),
        "'<b>' where the number of a unit",
    ),
    "the poorest unit left out": (
        changed("fidelity", to={"logits": _good | {"units": _good | {"poorest": _good}}}), "KeyError 'unit'",
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
        paths.prior_path(root, 1, _blake3(data)).write_bytes(data)
        forge(root, snapshot=changed("prior", to=_blake3(data)))


def evidence(root: Path, arrays: dict[str, Any]) -> Action:
    """Unit 0 with other extras; every hash fits. Sealing reads them."""
    data = save({name: np.asarray(array) for name, array in arrays.items()})
    paths.extras_path(root, 0, record_of(root)["attempt"]).write_bytes(data)
    forge(root, record=changed("extras", to={"size": len(data), "blake3": _blake3(data)}))
    paths.snapshot_path(root, 1).unlink()
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
        path = paths.probe_path(root, 1, _blake3(data))
        path.parent.mkdir()
        path.write_bytes(data)
        forge(root, snapshot=changed("probe", to=_blake3(data)))
        return sl.open(root).probe
