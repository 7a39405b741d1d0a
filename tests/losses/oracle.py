"""Every loss by its dense definition in float64, and labels of every encoding and tail model to try it on."""

import numpy as np
import torch

from softlabels import encodings
from softlabels.encodings import codebook
from softlabels.encodings.tail import tail_prior
from softlabels.labels import DenseLabels, Head, SparseLabels

TEMPERATURES = (1.0, 3.0)
EXACT = ("dense:f32", "topk:5:f16", "topk:5:q8", "adaptive:0.05:d4", "topk:3:f16:4", "adaptive:0.08:d16:4")
UNBIASED = ("sampled:6", "sampled:6:0.7", "threshold:0.2", "counts:9:0:4", "counts:9:0.1:4", "counts:9:0.1:4:excess",
            "counts:9:0:4:dither")  # fmt: skip
ROWS = 6


def make_labels(seed, classes, spec, tail="calibrated", *, scale=2.0, ruled_out=None):
    """Labels of random logits, with priors measured from others, and a student's logits in float64.

    The teacher rules out the classes of ``ruled_out``, (ROWS, C) bool.
    """
    generator = torch.Generator().manual_seed(seed)
    teacher = scale * torch.randn(ROWS, classes, generator=generator)
    if ruled_out is not None:
        teacher = teacher.masked_fill(torch.from_numpy(ruled_out), -torch.inf)
    others = scale * torch.randn(64, classes, generator=generator)
    student = 2 * torch.randn(ROWS, classes, generator=generator, dtype=torch.float64)
    encoding = encodings.parse(spec, classes=classes)
    at_several = (encoding.has_tail and not spec.startswith("counts")) or spec.startswith("dense")
    temperatures = TEMPERATURES if at_several else TEMPERATURES[:1]
    digest = "0" * 64 if encoding.priors > 1 else None
    head = Head(encoding=encoding.spec, classes=classes, temperatures=temperatures, tail=tail, codebook=digest)
    book = codebook.fit(encoding, head, [others]) if encoding.priors > 1 else None
    prior = None if book is None else book.priors
    if encoding.has_tail and book is None:
        prior = tail_prior([encoding.encode(others, head, np.arange(64), residual=True).residual], classes)
    encoded = encoding.encode(teacher, head, np.arange(ROWS), codebook=book)
    return encoding.decode(encoded.arrays, head, prior), student


def teacher_log_probs(labels, temperature):
    """Log p^ of each class and, where there is a bucket, of it: (B, C) or (B, C + 1), float64."""
    log_p = torch.from_numpy(labels.log_probs(temperature)).double()
    if isinstance(labels, SparseLabels) and labels.tail == "bucket" and not labels.unbiased:
        bucket = torch.from_numpy(labels.log_tail[:, labels.temperature_index(temperature)]).double()
        return torch.cat([log_p, bucket[:, None]], dim=1)
    return log_p


def student_log_probs(logits, labels, temperature):
    """Log q over the same outcomes; classes that are in the bucket are no outcome of their own."""
    log_q = (logits / temperature).log_softmax(-1)
    if isinstance(labels, DenseLabels) or labels.tail != "bucket" or labels.unbiased:
        return log_q
    is_listed = torch.from_numpy(np.isfinite(labels.log_probs(temperature)))
    rest = log_q.masked_fill(is_listed, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_q.masked_fill(~is_listed, -torch.inf), rest], dim=1)


def divergence(log_a, log_b):
    """KL(a || b) of each row."""
    there = log_a.isfinite()
    a, b = torch.where(there, log_a, 0.0), torch.where(there, log_b, 0.0)
    return torch.where(there, a.exp() * (a - b), 0.0).sum(-1)


def expected_noise(q, dither):
    """Error of dithered labels that a student of (B, C) probabilities expects: the Lomax distribution, in float64."""
    steps = (torch.arange(q.shape[1], dtype=torch.int64) * 0x9E3779B9) % 2**32
    t = 1 - ((torch.as_tensor(dither.offsets)[:, None] + steps) % 2**32).double() / 2**32
    m = q / dither.step
    return dither.step * ((m / (m + t)) ** 2 - m / (1 + m))


def coupled(logits, labels, temperature):
    """Share of a cross-entropy that the offsets of dithered labels add; 0 for others.

    The error that the student expects is a constant, and the logsumexp counts once, whatever the labels sum to.
    """
    if getattr(labels, "dither", None) is None:
        return 0.0
    log_q = (logits / temperature).log_softmax(-1)
    noise = expected_noise(log_q.exp().detach(), labels.dither)
    rest = 1 - teacher_log_probs(labels, temperature).exp().sum(-1) + noise.sum(-1)
    log_sum = (logits / temperature).logsumexp(-1)
    return torch.where(noise == 0, 0.0, noise * log_q).sum(-1) + rest * (log_sum - log_sum.detach())


def kl(logits, labels, temperature):
    log_p, log_q = teacher_log_probs(labels, temperature), student_log_probs(logits, labels, temperature)
    return divergence(log_p, log_q) + coupled(logits, labels, temperature)


def cross_entropy(logits, labels, temperature):
    log_p, log_q = teacher_log_probs(labels, temperature), student_log_probs(logits, labels, temperature)
    value = -torch.where(log_p.isfinite(), log_p.exp() * torch.where(log_p.isfinite(), log_q, 0.0), 0.0).sum(-1)
    return value + coupled(logits, labels, temperature)


def reverse_kl(logits, labels, temperature):
    return divergence(student_log_probs(logits, labels, temperature), teacher_log_probs(labels, temperature))


def jensen_shannon(logits, labels, temperature):
    log_p, log_q = teacher_log_probs(labels, temperature), student_log_probs(logits, labels, temperature)
    middle = torch.logaddexp(log_p, log_q) - np.log(2)
    return (divergence(log_p, middle) + divergence(log_q, middle)) / 2


def dkd(logits, labels, temperature, target, target_weight, other_weight):
    p = teacher_log_probs(labels, temperature).exp()
    q = student_log_probs(logits, labels, temperature).exp()
    rows = torch.arange(len(p))
    binary = [torch.stack([x[rows, target], x.sum(-1) - x[rows, target]], -1).clamp_min(1e-300).log() for x in (p, q)]
    mask = torch.ones_like(p, dtype=torch.bool)
    mask[rows, target] = False
    others = [x[mask].view(len(p), -1) for x in (p, q)]
    others = [(x / x.sum(-1, keepdim=True)).log() for x in others]
    return target_weight * divergence(*binary) + other_weight * divergence(*others)


def dist(logits, labels, temperature, inter, intra):
    p, q = teacher_log_probs(labels, temperature).exp(), (logits / temperature).softmax(-1)

    def pearson(a, b, axis):
        a, b = a - a.mean(axis, keepdim=True), b - b.mean(axis, keepdim=True)
        return (a * b).sum(axis) / (a.norm(dim=axis) * b.norm(dim=axis)).clamp_min(1e-30)

    return inter * (1 - pearson(q, p, 1).mean()) + intra * (1 - pearson(q, p, 0).mean())


def logit_mse(logits, labels):
    """Over listed classes, each side less its mean."""
    if isinstance(labels, DenseLabels):
        teacher = torch.from_numpy(labels.values).double()
        chosen = teacher.isfinite()
    else:
        teacher, chosen = torch.zeros_like(logits), torch.zeros_like(logits, dtype=torch.bool)
        for row in range(len(logits)):
            valid = np.isfinite(labels.values[row])
            ids = torch.from_numpy(labels.ids[row][valid])
            teacher[row, ids], chosen[row, ids] = torch.from_numpy(labels.values[row][valid]).double(), True
    out = []
    for row in range(len(logits)):
        a, b = logits[row][chosen[row]], teacher[row][chosen[row]]
        out.append((((a - a.mean()) - (b - b.mean())) ** 2).mean())
    return torch.stack(out)
