"""Description of a training run: what decided its result, and what came of it.

``run.json`` holds it as canonical JSON. The identity of a run is a digest of everything that decides its weights, so a
run directory is never taken for the result of other data, labels, options or code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self, get_args

from softlabels.store.format import canonical_json
from softlabels.store.format.fields import Fields, check_integer, check_number

RunKind = Literal["teacher", "student"]
HeldOutRule = Literal["split", "keys", "none"]

MAX_ITEMS = 2**16
"""Items of a list in a record: columns, heads."""
MAX_NAMES = 2**20
"""Class names."""
MAX_COUNT = 2**48

RecipeValue = int | float | str | bool | None | Mapping[str, int | float | str]
"""Value of a field of a recipe; a mapping holds one for each head."""

WITHOUT_EFFECT_ON_STEPS = ("max_seconds",)
"""Options of a recipe that end a run earlier but change no step, so that they are no cause of its weights."""


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """The network of a run.

    Attributes:
        spec: MODEL specification.
        config: Configuration of a built-in architecture; empty for code of the user.
        initial: Digest of the untrained network, for code of the user; None for built-in architectures.
        start: Digest of the trained model whose weights the run started from; None if it started from scratch.
        digest: Digest of the trained network; None before training has finished.
        covers: Parts that the digest covers, in words.
    """

    spec: str
    config: Mapping[str, Any] = field(default_factory=dict)
    initial: str | None = None
    start: str | None = None
    digest: str | None = None
    covers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The rows that a run did not train on, and that measure it.

    Attributes:
        rule: ``split`` for the rows of other splits, ``keys`` for rows whose hashed key is at most ``threshold``,
            ``none`` if there are none.
        splits: Names of these splits.
        threshold: Greatest hashed key that is held out.
        rows: Number of rows that were held out.
        trained_rows: Number of rows that were trained on.
        sketch: Least hashed keys of rows that were trained on, as 16 hexadecimal digits each. They show if other data
            contains rows that were trained on.
    """

    rule: HeldOutRule
    splits: tuple[str, ...] = ()
    threshold: int = 0
    rows: int = 0
    trained_rows: int = 0
    sketch: str = ""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The data of a run.

    Attributes:
        spec: DATA as the user named it.
        fingerprint: Digest of the ordered keys.
        rows: Number of rows.
        inputs: Names of the input columns.
        label: Name of the column of hard labels; None if there is none.
        shape: Shape of one input.
        dtype: Dtype of the inputs.
        class_names: Names of the classes by number; None if hard labels are numbers.
        hard_labels: Digest of the hard labels of all rows; None without any.
        split: Digest of the rows that were trained on and of those that were held out.
        content: Digest of the inputs, if ids name the rows; None if keys cover the content.
        held_out: Rows that measure the run.
    """

    spec: str
    fingerprint: str
    rows: int
    inputs: tuple[str, ...]
    label: str | None
    shape: tuple[int, ...]
    dtype: str
    class_names: tuple[str, ...] | None
    hard_labels: str | None
    split: str
    content: str | None
    held_out: HeldOut


@dataclass(frozen=True, kw_only=True)
class RunLabels:
    """The soft labels of a run.

    Attributes:
        snapshot: Digest of the store's snapshot; None for a live teacher.
        store: Location of the store; None for a live teacher.
        teacher_spec: MODEL specification of the teacher.
        teacher_digest: Digest of the teacher; None if it has none.
        encodings: Encoding of each head; empty for a live teacher.
        bytes_per_row: Size of the labels in bytes per row; None for a live teacher.
    """

    snapshot: str | None
    teacher_spec: str
    teacher_digest: str | None
    store: str | None = None
    encodings: Mapping[str, str] = field(default_factory=dict)
    bytes_per_row: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """The result of a run.

    Attributes:
        steps: Optimiser steps.
        accuracy: Share of held-out rows whose likeliest class is the hard label; None if none could be measured.
        held_out_rows: Number of held-out rows.
        held_out_tokens: Number of predicted tokens in these rows; 0 for other models than those of text.
        perplexity: Perplexity of the next token on held-out text; None for other models, as the fields below.
        bits_per_byte: Cross-entropy in bits per byte of held-out text.
        kl: Mean KL divergence of held-out labels from the model, in nats per token.
        agreement: Share of held-out tokens whose likeliest class is that of the labels.
        sample: Text that the model continues.
        figures: Figures on the held-out rows by name, such as ``steering.error``; see training/figures.py.
    """

    steps: int
    accuracy: float | None = None
    held_out_rows: int = 0
    held_out_tokens: int = 0
    perplexity: float | None = None
    bits_per_byte: float | None = None
    kl: float | None = None
    agreement: float | None = None
    sample: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Description of a training run.

    Attributes:
        kind: ``teacher`` for a run on hard labels, ``student`` for one on soft labels.
        model: The network.
        recipe: Fields of the recipe.
        data: The data.
        labels: The soft labels; None for a teacher.
        objectives: Losses of each head, in words.
        software: Versions of the packages, by name.
        trainer: Version of the training code.
        metrics: The result; None before training has finished.
    """

    kind: RunKind
    model: RunModel
    recipe: Mapping[str, RecipeValue]
    data: RunData
    labels: RunLabels | None
    trainer: int
    objectives: Mapping[str, str] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    metrics: RunMetrics | None = None

    def __getitem__(self, name: str) -> Any:
        """Return a field as ``run.json`` holds it: ``run["metrics"]["accuracy"]``."""
        return self.to_json()[name]

    @property
    def identity(self) -> str:
        """The digest of everything that decides the weights: BLAKE3, 64 hexadecimal digits."""
        return canonical_json.digest(self.causes())

    def causes(self) -> dict[str, Any]:
        """Return everything that decides the weights, as JSON values."""
        without_result = replace(self, metrics=None, model=replace(self.model, digest=None, covers=()))
        document = without_result.to_json()
        # The same data under another name, and other statistics of the same labels, train the same weights.
        del document["data"]["spec"], document["metrics"], document["software"]
        for name in WITHOUT_EFFECT_ON_STEPS:
            document["recipe"].pop(name, None)
        if document["labels"] is not None:
            is_live = self.labels is not None and self.labels.snapshot is None
            document["labels"] = {
                "snapshot": document["labels"]["snapshot"],
                "teacher": document["labels"]["teacher_digest"] if is_live else None,
            }
        return document

    def difference(self, other: RunRecord) -> str:
        """Return the first differences between the causes of two runs, in words.

        Args:
            other: Run to compare with.
        """
        own, others = dict(_flat(self.causes())), dict(_flat(other.causes()))
        names = [name for name in sorted({*own, *others}) if own.get(name) != others.get(name)]
        shown = [f"{name} is {_short(others.get(name))}, not {_short(own.get(name))}" for name in names[:3]]
        return "; ".join([*shown, *([f"{len(names) - 3} more differ"] if len(names) > 3 else [])])

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the record of an untrusted document.

        Args:
            value: JSON object.

        Raises:
            ValueError: A field is missing, or has another type or range; names the field.
        """
        document = Fields(value)
        kind = document.text("kind")
        if kind not in get_args(RunKind):
            raise ValueError(f"kind: got {kind!r}; expected {' or '.join(get_args(RunKind))}")
        return cls(
            kind=kind,  # type: ignore[arg-type]  # checked above
            model=_model(document.object("model")),
            recipe={
                name: _recipe_value(f"recipe.{name}", entry) for name, entry in _mapping(document, "recipe").items()
            },
            data=_data(document.object("data")),
            labels=None if document.get("labels") is None else _labels(document.object("labels")),
            trainer=document.integer("trainer", 0, MAX_COUNT),
            objectives=_texts_by_name(document, "objectives"),
            software=_texts_by_name(document, "software"),
            metrics=None if document.get("metrics") is None else _metrics(document.object("metrics")),
        )


def _model(fields: Fields) -> RunModel:
    return RunModel(
        spec=fields.text("spec"),
        config=_mapping(fields, "config"),
        initial=fields.optional_hash("initial"),
        start=fields.optional_hash("start"),
        digest=fields.optional_hash("digest"),
        covers=fields.texts("covers", MAX_ITEMS),
    )


def _data(fields: Fields) -> RunData:
    names = None if fields.get("class_names") is None else fields.texts("class_names", MAX_NAMES)
    return RunData(
        spec=fields.text("spec"),
        fingerprint=fields.text("fingerprint"),
        rows=fields.integer("rows", 0, MAX_COUNT),
        inputs=fields.texts("inputs", MAX_ITEMS),
        label=fields.optional_text("label"),
        shape=tuple(check_integer("data.shape", side, 0, MAX_COUNT) for side in fields.items("shape", 64)),
        dtype=fields.text("dtype"),
        class_names=names,
        hard_labels=fields.optional_hash("hard_labels"),
        split=fields.hash("split"),
        content=fields.optional_hash("content"),
        held_out=_held_out(fields.object("held_out")),
    )


def _held_out(fields: Fields) -> HeldOut:
    rule = fields.text("rule")
    if rule not in get_args(HeldOutRule):
        raise ValueError(f"data.held_out.rule: got {rule!r}; expected {', '.join(get_args(HeldOutRule))}")
    sketch = fields.text("sketch")
    if len(sketch) % 16 or not set(sketch) <= set("0123456789abcdef"):
        raise ValueError("data.held_out.sketch: got another text; expected 16 hexadecimal digits for each key")
    return HeldOut(
        rule=rule,  # type: ignore[arg-type]  # checked above
        splits=fields.texts("splits", MAX_ITEMS),
        threshold=fields.integer("threshold", 0, 2**64 - 1),
        rows=fields.integer("rows", 0, MAX_COUNT),
        trained_rows=fields.integer("trained_rows", 0, MAX_COUNT),
        sketch=sketch,
    )


def _labels(fields: Fields) -> RunLabels:
    size = fields.get("bytes_per_row")
    encodings = fields.object("encodings")
    return RunLabels(
        store=fields.optional_text("store"),
        snapshot=fields.optional_hash("snapshot"),
        teacher_spec=fields.text("teacher_spec"),
        teacher_digest=fields.optional_text("teacher_digest"),
        encodings={name: encodings.text(name) for name in encodings},
        bytes_per_row=None if size is None else check_number("labels.bytes_per_row", size),
    )


def _metrics(fields: Fields) -> RunMetrics:
    names = ("accuracy", "perplexity", "bits_per_byte", "kl", "agreement")
    numbers = {name: fields.get(name) for name in names}
    return RunMetrics(
        steps=fields.integer("steps", 0, MAX_COUNT),
        held_out_rows=fields.integer("held_out_rows", 0, MAX_COUNT),
        held_out_tokens=fields.integer("held_out_tokens", 0, MAX_COUNT) if "held_out_tokens" in fields else 0,
        sample=fields.optional_text("sample"),
        figures=_numbers_by_name(fields, "figures"),
        **{n: None if value is None else check_number(f"metrics.{n}", value) for n, value in numbers.items()},
    )


def _mapping(fields: Fields, name: str) -> dict[str, Any]:
    """Return an object of any fields; what reads it checks them."""
    entries = fields.object(name)
    return {key: entries.get(key) for key in entries}


def _texts_by_name(fields: Fields, name: str) -> dict[str, str]:
    """Return an object of texts; empty if it is missing, as in documents of earlier versions."""
    if name not in fields:
        return {}
    entries = fields.object(name)
    return {key: entries.text(key) for key in entries}


def _numbers_by_name(fields: Fields, name: str) -> dict[str, float]:
    """Return an object of numbers; empty if it is missing, as in documents of earlier versions."""
    if name not in fields:
        return {}
    entries = fields.object(name)
    return {key: check_number(f"{name}.{key}", entries.get(key)) for key in entries}


def _recipe_value(path: str, value: object) -> RecipeValue:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {str(head): _head_value(f"{path}.{head}", entry) for head, entry in value.items()}
    if type(value) is int:
        return check_integer(path, value, -(2**64), 2**64)
    return check_number(path, value)


def _head_value(path: str, value: object) -> int | float | str:
    return value if isinstance(value, str) else check_number(path, value)


def _flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the leaves of a JSON value with their paths."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _flat(entry, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 48 else f"{text[:22]}...{text[-23:]}"
