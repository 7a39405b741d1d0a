"""Write the golden stores, once a format version: ``python -m tests.store.make_golden``; stores there already stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import softlabels as sl

GOLDEN = Path(__file__).parent / "golden"
CLASSES = 300


def main() -> None:
    """One small store of each kind, and beside it what it must always say."""
    GOLDEN.mkdir(exist_ok=True)
    rng = np.random.default_rng(2026)
    logits = rng.normal(0, 3, (11, CLASSES)).astype(np.float32)
    tokens = [rng.normal(0, 3, (length, CLASSES)).astype(np.float32) for length in (2, 0, 3, 1, 5, 0, 1)]
    topk = sl.Head(classes=CLASSES, encoding="topk:3", temperatures=(1.0, 2.0))
    dense = sl.Head(classes=10, encoding="dense:f16")
    ragged = sl.Head(classes=CLASSES, kind="tokens", encoding="topk:3", shape=(None,))
    adaptive = sl.Head(classes=CLASSES, kind="tokens", encoding="adaptive:0.02:d4:3", shape=(None,),
                       temperatures=(1.0, 2.0))  # fmt: skip
    threshold = sl.Head(classes=CLASSES, encoding="threshold:0.05", temperatures=(2.0,))
    counts = sl.Head(classes=CLASSES, kind="tokens", encoding="counts:20:0.02:3", shape=(None,))
    unbiased = sl.Head(classes=CLASSES, encoding="counts:30:0:2")
    excess = sl.Head(classes=CLASSES, kind="tokens", encoding="counts:20:0.02:3:excess", shape=(None,))
    pixels = {"classes": CLASSES, "kind": "pixels", "shape": (2, 3)}
    images = np.random.default_rng(14).normal(0, 3, (5, 2, 3, CLASSES)).astype(np.float32)
    for name, head, values in (
        ("topk-zarr", topk, logits),
        ("topk-parquet", topk, logits),
        ("dense-zarr", dense, logits[:, :10]),
        ("ragged-zarr", ragged, tokens),
        ("ragged-parquet", ragged, tokens),
        ("appended-zarr", topk, logits),
        ("adaptive-zarr", adaptive, tokens),
        ("adaptive-parquet", adaptive, tokens),
        ("threshold-zarr", threshold, logits),
        ("threshold-parquet", threshold, logits),
        ("counts-zarr", counts, tokens),
        ("counts-parquet", counts, tokens),
        ("unbiased-zarr", unbiased, logits),
        ("excess-zarr", excess, tokens),
        ("excess-parquet", excess, tokens),
        ("pixels-zarr", sl.Head(encoding="topk:2:d4", temperatures=(1.0, 2.0), **pixels), images),
        ("pixels-parquet", sl.Head(encoding="adaptive:0.02:q8:3", downsample=2, **pixels), images),
        ("dither-zarr", sl.Head(classes=CLASSES, kind="tokens", encoding="counts:9:0:3", shape=(None,)), tokens),
        ("dither-parquet", sl.Head(classes=CLASSES, kind="tokens", encoding="threshold:0.1:9", shape=(None,)), tokens),
        ("scaled-zarr", sl.Head(classes=CLASSES, kind="embedding", encoding="dense:q8:scaled"), logits),
    ):
        form = name.split("-")[1]
        if (GOLDEN / name).exists():
            continue
        pilot = {"logits": rng.normal(0, 3, (60, CLASSES)).astype(np.float32)}
        with sl.create(
            GOLDEN / name, heads={"logits": head}, teacher="golden", shard_format=form, unit_rows=4, pilot=pilot
        ) as to:
            steps = (3, 5, 11) if name == "appended-zarr" else (len(values),)
            for start, stop in zip((0, *steps), steps, strict=False):
                to.append(range(start, stop), {"logits": values[start:stop]})
                to.flush()
        store = sl.open(GOLDEN / name)
        labels = store.read(range(store.rows))
        parts = {"values": labels.values, "keys": store.keys(), "digest": np.array(store.snapshot.digest)}
        if hasattr(labels, "ids"):
            parts |= {"ids": labels.ids, "tail": labels.log_tail}
        if getattr(labels, "prior_index", None) is not None:
            parts |= {"which": labels.prior_index, "priors": store.codebook("logits").priors}
        if getattr(labels, "dither", None) is not None:
            parts |= {"offsets": labels.dither.offsets, "step": np.array(labels.dither.step)}
        if labels.lengths is not None:
            parts["lengths"] = labels.lengths
        np.savez(GOLDEN / f"{name}.npz", **parts)


if __name__ == "__main__":
    main()
