"""Recommendations: one encoding for a goal, or the default, with the reason; and the outcome of a goal in a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from softlabels import encodings
from softlabels.encodings.registry import MANY_CLASSES, MAX_DENSE_CLASSES
from softlabels.labels import HeadKind
from softlabels.planning.goals import KL_GOALS, parse_size, resolve
from softlabels.planning.sample import Sample
from softlabels.planning.table import PlanRow, measure_row
from softlabels.store import HeadFidelity


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """One encoding for a dataset.

    Attributes:
        row: The encoding, measured on the sample.
        goal: The goal that it was chosen for, such as ``auto:max-kl=0.05``; None for the default.
        reason: Reason of the choice, as a clause.
    """

    row: PlanRow
    goal: str | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return the encoding, the goal and the reason as ``plan --json`` prints them."""
        return {"recommended": self.row.encoding, "goal": self.goal, "reason": self.reason}


def recommend(sample: Sample, goal: str | None = None) -> Recommendation:
    """Return the encoding to use for a dataset.

    Args:
        sample: Dense logits of some rows.
        goal: Goal for bytes or KL; None for the default encoding.

    Raises:
        InvalidArgument: No encoding reaches the goal.
    """
    if goal is not None:
        row, _ = measure_row(sample, resolve(goal, sample))
        return Recommendation(row=row, goal=goal, reason=f"generate chooses the same for the encoding {goal}")
    temperatures = len(sample.temperatures)
    row, _ = measure_row(sample, encodings.default(sample.classes, temperatures, sample.kind).spec)
    return Recommendation(row=row, goal=None, reason=default_reason(sample.classes, temperatures, sample.kind))


def default_reason(classes: int, temperatures: int = 1, kind: HeadKind = "classes") -> str:
    """Return why an encoding is the default for so many classes.

    Args:
        classes: Number of classes.
        temperatures: Number of temperatures.
        kind: Kind of the head.

    Example:
        >>> default_reason(10)
        'the default up to 64 classes: a list would save few bytes, and every logit keeps all of the teacher'
    """
    if kind == "pixels":
        return "the default for pixels: most have one likely class, and the list of those above 1 % takes few bytes"
    if classes <= MAX_DENSE_CLASSES:
        return (
            f"the default up to {MAX_DENSE_CLASSES} classes: a list would save few bytes, and every logit keeps all of "
            "the teacher"
        )
    if classes < MANY_CLASSES and kind != "tokens":
        return f"the default below {MANY_CLASSES:,} classes: the likeliest classes carry nearly all of the probability"
    many = "for tokens" if kind == "tokens" else f"from {MANY_CLASSES:,} classes on"
    if temperatures == 1:
        return f"the default {many}: a small sample of classes that is right on average"
    return f"the default {many} at several temperatures: the smallest KL for the bytes"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a goal in a store.

    Attributes:
        text: Sentence with the goal, the encoding and the result.
        reached: False if the result is worse than the goal.
    """

    text: str
    reached: bool


def outcome(
    goal: str, encoding: str, *, fidelity: HeadFidelity | None, size: int, bytes_per_row: float
) -> Outcome | None:
    """Return the result of a goal in a sealed store; None for goals on the number of classes, which no store records.

    Args:
        goal: Goal, such as ``auto:max-kl=0.05``.
        encoding: Encoding that was chosen for it.
        fidelity: Fidelity of the head as the snapshot holds it; None if it was not measured.
        size: Bytes of all shards.
        bytes_per_row: Bytes of all shards per row.

    Example:
        >>> outcome("auto:budget=1KB", "topk:4:f16", fidelity=None, size=900, bytes_per_row=9.0)
        Outcome(text='goal auto:budget=1KB: topk:4:f16 was chosen and takes 900 bytes, within 1,000', reached=True)
    """
    name, _, value = goal.partition("=")
    value = value.partition(":")[0]
    if name in KL_GOALS:
        measured = None if fidelity is None else fidelity.units or fidelity.overall
        if measured is None or not measured.kl:
            return None
        limit, result = float(value), next(iter(measured.kl.values()))
        where = f"KL {result:.2g} nats on {measured.rows:,} rows"
        text = f"goal {goal}: {encoding} was chosen and has {where}"
    elif name == "auto:budget":
        limit, result = parse_size(value), size
        text = f"goal {goal}: {encoding} was chosen and takes {size:,} bytes"
    elif name.endswith(":bytes"):
        limit, result = float(value), bytes_per_row
        text = f"goal {goal}: {encoding} was chosen and takes {bytes_per_row:.1f} bytes per row"
    else:
        return None
    within = f"within {limit:,}" if isinstance(limit, int) else f"within {limit:g}"
    return Outcome(text=f"{text}, {within if result <= limit else 'not ' + within}", reached=result <= limit)
