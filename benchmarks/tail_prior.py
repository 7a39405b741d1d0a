"""Compare distributions for unlisted probability: KL of one tail prior for all rows, made in several ways.

    python benchmarks/tail_prior.py [--no-language-model]

Even; the mean residual; the library's (one step from even towards the least KL, docs/fidelity.md, eq. 4); and five such
steps. Priors are made from some rows and measured on others, in float64, values not rounded: what differs is the prior
alone. Flat teachers are normal logits of unit deviation around class means of deviation one half; the language model is
that of benchmarks/language_model.py, as it is. Prints a table; a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from softlabels.encodings.tail import UNIFORM_SHARE, exposure, tail_prior

STEPS = 5


def listed(p: np.ndarray, k: int) -> np.ndarray:
    """(B, C) which classes are among the k likeliest."""
    mask = np.zeros(p.shape, bool)
    np.put_along_axis(mask, np.argpartition(-p, k, axis=1)[:, :k], values=True, axis=1)
    return mask


def kl(p: np.ndarray, mask: np.ndarray, prior: np.ndarray) -> float:
    """Mean KL of rows whose unlisted mass follows ``prior``, nats."""
    rest = np.where(mask, 0.0, p)
    spread = np.where(mask, 0.0, prior)
    spread *= (rest.sum(axis=1) / spread.sum(axis=1))[:, None]
    return float(np.where(rest > 0, rest * (np.log(np.maximum(rest, 1e-300)) - np.log(np.where(mask, 1, spread))), 0.0)
                 .sum(axis=1).mean())  # fmt: skip


def priors(p: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """The ways, each (C,)."""
    classes = p.shape[1]
    rest = np.where(mask, 0.0, p)
    mass, residual = rest.sum(axis=1), rest.sum(axis=0)
    row, column = np.nonzero(mask)
    even = exposure(np.log(mass)[:, None], row, column, classes)
    ours = tail_prior([np.stack([residual[None], even])], classes)[0].astype(np.float64)
    candidates = {"even": np.full(classes, 1 / classes), "mean residual": mixed(residual), "ours": ours}
    for _ in range(STEPS - 1):
        weight = mass / np.where(mask, 0.0, ours).sum(axis=1)
        ours = mixed(residual / np.maximum(weight @ ~mask, 1e-300))
    return candidates | {f"{STEPS} steps": ours}


def mixed(sums: np.ndarray) -> np.ndarray:
    """A distribution that is nowhere 0, as the library's."""
    return (1 - UNIFORM_SHARE) * sums / sums.sum() + UNIFORM_SHARE / len(sums)


def softmax(logits: np.ndarray) -> np.ndarray:
    """(B, C), of float64."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def flat(classes: int) -> Callable[[int], np.ndarray]:
    """Probabilities of so many rows of a teacher without much of an opinion."""
    rng = np.random.default_rng(0)
    means = 0.5 * rng.standard_normal(classes)
    return lambda rows: softmax(rng.standard_normal((rows, classes)) + means)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-language-model", action="store_true")
    cases = [(f"flat, {c} classes", k, *map(flat(c), (8192, 4096))) for c, k in ((10, 4), (100, 32), (1000, 32))]
    if not parser.parse_args().no_language_model:
        import fidelity

        fidelity.PRIOR_POSITIONS = 2048
        others, held_out = (
            softmax(logits.double().numpy()) for logits in reversed(fidelity.language_logits(1500, 512))
        )
        cases += [("language model", k, others, held_out) for k in (8, 32)]
    print(f"| teacher | listed | even | mean residual | ours | {STEPS} steps |\n|---|---:|---:|---:|---:|---:|")
    for name, k, train, test in cases:
        candidates, mask = priors(train, listed(train, k)), listed(test, k)
        print(f"| {name} | {k} | " + " | ".join(f"{kl(test, mask, prior):.4f}" for prior in candidates.values()) + " |")


if __name__ == "__main__":
    main()
