"""Outputs of every kind of head for the same rows, and teachers that return them."""

import numpy as np
import torch

import softlabels as sl
from softlabels.models import OutputHead
from softlabels.sources import TokenSource

ROWS = 40
LENGTHS = np.random.default_rng(2).integers(2, 9, ROWS)
HEADS = {
    "classes": OutputHead(classes=12),
    "tokens": OutputHead(classes=30, kind="tokens", shape=(None,)),
    "pixels": OutputHead(classes=3, kind="pixels", shape=(4, 5)),
    "regression": OutputHead(classes=2, kind="regression"),
    "embedding": OutputHead(classes=16, kind="embedding"),
}


def named_outputs(kind):
    """Float32 outputs of one kind, one array per row."""
    head = HEADS[kind]
    rng = np.random.default_rng(list(HEADS).index(kind))
    shapes = [(length, head.classes) for length in LENGTHS] if head.ragged else [(*head.shape, head.classes)] * ROWS
    return [rng.normal(0, 3, shape).astype(np.float32) for shape in shapes]


def heads_of(kind, encoding):
    """The heads of a store that takes these outputs."""
    head = HEADS[kind]
    return {kind: sl.Head(classes=head.classes, kind=head.kind, shape=head.shape, encoding=encoding)}


class LookUp:
    """A teacher that finds the outputs of a sequence by its first token."""

    def __init__(self, kinds):
        self.heads = {kind: HEADS[kind] for kind in kinds}

    def __call__(self, inputs):
        return {kind: self.outputs(kind, inputs) for kind in self.heads}

    def outputs(self, kind, inputs):
        values = named_outputs(kind)
        chosen = [values[row] for row in self.rows_of(inputs)]
        return torch.tensor(np.concatenate(chosen) if kind == "tokens" else np.stack(chosen))

    def rows_of(self, inputs):
        """Rows of a batch; sequences start with their row number plus one."""
        ends = np.cumsum(np.asarray(inputs.lengths))
        return [
            int(inputs.values[end - length]) - 1 for end, length in zip(ends, np.asarray(inputs.lengths), strict=True)
        ]


def teacher_of(kind):
    """A teacher with the head of one kind, or with all heads for None."""
    return LookUp(HEADS if kind is None else (kind,))


def token_source():
    """One sequence per row; its first token is the number of the row plus one."""
    return TokenSource([np.concatenate([[row + 1], np.zeros(length - 1, int)]) for row, length in enumerate(LENGTHS)])
