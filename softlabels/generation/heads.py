"""Heads of a new store: the encoding of each output of a teacher, and the codebooks that encodings need."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from softlabels import encodings, planning
from softlabels.encodings import Codebook, codebook
from softlabels.encodings.codebook import MAX_CODEBOOK_BYTES
from softlabels.errors import InvalidArgument
from softlabels.generation.pilot import Pilot
from softlabels.generation.text_data import CHOSEN_ENCODING, CHOSEN_HEAD
from softlabels.labels import DISTRIBUTIONS, Head, canonical_temperatures
from softlabels.models import OutputHead
from softlabels.planning.container import USUAL_POSITIONS, geometry_of
from softlabels.store.format.codebooks import digest_of
from softlabels.store.format.descriptor_file import find_descriptor
from softlabels.store.storage.registry import open_storage
from softlabels.store.storage.storage import Location

EVERY_HEAD = "*"
"""Name that stands for the heads of kind classes or tokens."""

LISTED_KINDS = ("classes", "tokens")
"""Kinds of head that an encoding without a head's name is for."""

STORE_SECONDS = 60.0
"""Time that a rank waits for the first one to make the store; then it checks the teacher and makes the store itself."""

STORE_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class PlannedHeads:
    """Heads of a store with their canonical encodings.

    Attributes:
        heads: Heads by name.
        codebooks: New codebooks, by head.
    """

    heads: Mapping[str, Head]
    codebooks: Mapping[str, Codebook] = field(default_factory=dict)

    def geometry(
        self, rows: int | None, unit_rows: int | None = None, *, positions: int = USUAL_POSITIONS
    ) -> tuple[int, int]:
        """Return the rows of a unit and of a chunk.

        Args:
            rows: Rows of the store; None if they are appended.
            unit_rows: Rows of a unit; None: from the size of a row.
            positions: Positions of a ragged row.
        """
        return geometry_of(self.heads, rows, unit_rows, positions=positions)


def default_encoding(head: OutputHead, temperatures: int = 1) -> str:
    """Return the encoding of a head if none is chosen.

    Distributions of few classes are stored dense, of many as lists (see ``encodings.default``). Regression is stored in
    float32: its values have units, such as metres, that float16 rounds to 3 digits, and few numbers cost few bytes.
    Embeddings are stored in float16: they are wide, and the error of 2^-11 is far below the error of any student.
    Distributions of a fixed shape that are no pixels are stored in float16.

    Args:
        head: Output of the teacher.
        temperatures: Number of temperatures.

    Example:
        >>> default_encoding(OutputHead(classes=2, kind="regression"))
        'dense:f32'
    """
    if head == CHOSEN_HEAD:
        return CHOSEN_ENCODING
    if head.kind == "regression":
        return "dense:f32"
    if head.kind == "pixels" or (head.kind in LISTED_KINDS and (head.ragged or not head.shape)):
        return encodings.default(head.classes, temperatures, head.kind).spec
    return "dense:f16"


def requested_heads(
    outputs: Mapping[str, OutputHead],
    encoding: str | Mapping[str, str] | None,
    temperatures: tuple[float, ...],
    downsample: int | Mapping[str, int] = 1,
) -> dict[str, Head]:
    """Return the heads of a store for the outputs of a teacher; encodings may still be targets.

    Tokens are stored as ragged rows, also if every row has the same number.

    Args:
        outputs: Heads of the teacher.
        encoding: As ``Settings.encoding``.
        temperatures: As ``Settings.temperatures``.
        downsample: As ``Settings.downsample``.

    Raises:
        InvalidArgument: An encoding names no head, or a temperature is out of range.
    """
    chosen = _encodings_by_head(outputs, encoding)
    sides = _sides_by_head(outputs, downsample)
    sorted_temperatures = canonical_temperatures(sorted(temperatures))
    heads = {}
    for name, output in outputs.items():
        if output.kind == "tokens" and len(output.shape) == 1:
            output = replace(output, shape=(None,))  # noqa: PLW2901  the stored form of the same head
        is_distribution = output.kind in DISTRIBUTIONS
        heads[name] = Head(
            encoding=chosen.get(name) or default_encoding(output, len(sorted_temperatures)),
            classes=output.classes,
            kind=output.kind,
            shape=_downsampled(name, output, sides.get(name, 1)),
            temperatures=sorted_temperatures if is_distribution else (1.0,),
            downsample=sides.get(name, 1),
        )
    return heads


def _sides_by_head(outputs: Mapping[str, OutputHead], downsample: int | Mapping[str, int]) -> dict[str, int]:
    """Return the squares that pixels are averaged over, by head."""
    dense = [name for name, head in outputs.items() if len(head.shape) == 2]
    sides = dict.fromkeys(dense, downsample) if isinstance(downsample, int) else dict(downsample)
    unknown = next((name for name in sides if name not in dense), None)
    if unknown is not None or (not dense and downsample not in (1, {})):
        raise InvalidArgument(
            f"downsample: no head with an output per pixel, got {unknown or downsample!r}; expected "
            f"{', '.join(dense) or 'none, for the teacher has no such head'}"
        )
    return sides


def _downsampled(name: str, output: OutputHead, side: int) -> tuple[int | None, ...]:
    """Return the positions of a head once squares of pixels are averaged."""
    if side == 1:
        return output.shape
    if side < 1 or any(int(axis or 1) % side for axis in output.shape):
        raise InvalidArgument(
            f"downsample: got {side} for head {name!r} of {' x '.join(map(str, output.shape))} pixels; expected a "
            "number that divides both"
        )
    return tuple(int(axis or 1) // side for axis in output.shape)


def _encodings_by_head(outputs: Mapping[str, OutputHead], encoding: str | Mapping[str, str] | None) -> dict[str, str]:
    """Return the specifications that were given, by head."""
    if encoding is None:
        return {}
    named = {EVERY_HEAD: encoding} if isinstance(encoding, str) else dict(encoding)
    listed = ", ".join(f"{name} ({head.kind})" for name, head in outputs.items())
    unknown = next((name for name in named if name not in outputs and name != EVERY_HEAD), None)
    if unknown is not None:
        raise InvalidArgument(f"encoding: no such head, got {unknown!r}; the teacher has {listed}")
    general = named.pop(EVERY_HEAD, None)
    if general is not None:
        covered = [name for name, head in outputs.items() if head.kind in LISTED_KINDS or len(outputs) == 1]
        if not covered:
            raise InvalidArgument(
                f"encoding {general!r}: for heads of kind classes or tokens, got {listed}; expected HEAD=SPEC"
            )
        named = dict.fromkeys(covered, general) | named
    return named


def plan_heads(requested: Mapping[str, Head], existing: Mapping[str, Head], pilot: Pilot, *, seed: int) -> PlannedHeads:
    """Return heads with canonical encodings: targets are resolved, and codebooks fitted, on a pilot.

    Args:
        requested: Heads by name; encodings may be targets.
        existing: Heads of the store that is resumed, or whose rows are copied: the result of a target and the codebook
            are taken from them.
        pilot: Outputs of a few rows like those of the store.
        seed: Seed of the store.

    Raises:
        InvalidArgument: An encoding is unknown, no encoding reaches a target, or a codebook would be too large.
    """
    heads, codebooks = {}, {}
    for name, requested_head in requested.items():
        before = existing.get(name)
        temperatures = canonical_temperatures(requested_head.temperatures, before.temperatures if before else ())
        head = replace(requested_head, temperatures=temperatures)
        encoding = _resolve(name, head, before, pilot)
        heads[name], fitted = _with_codebook(name, replace(head, encoding=encoding), before, pilot, seed)
        if fitted is not None:
            codebooks[name] = fitted
    return PlannedHeads(heads, codebooks)


def existing_heads(location: Location) -> Mapping[str, Head]:
    """Return the heads of a store; empty if there is no store at ``location``.

    Args:
        location: Location of the store.
    """
    descriptor = find_descriptor(open_storage(location))
    return {} if descriptor is None else descriptor.heads


def store_appears(location: Location, *, seconds: float = STORE_SECONDS) -> bool:
    """Return True as soon as there is a store at ``location``; False if there is none after some time.

    Args:
        location: Location of the store.
        seconds: Time to wait for another process to make it.
    """
    deadline = time.monotonic() + seconds
    while not existing_heads(location):
        if time.monotonic() >= deadline:
            return False
        time.sleep(STORE_POLL_SECONDS)
    return True


def _resolve(name: str, head: Head, existing: Head | None, pilot: Pilot) -> str:
    """Return the canonical encoding of a head."""
    if not planning.is_target(head.encoding):
        current = encodings.parse(head.encoding, classes=head.classes).current.spec
        if (
            existing is not None
            and encodings.parse(existing.encoding, classes=existing.classes).current.spec == current
        ):
            return existing.encoding  # by the rule that its rows were made with
        return current
    if head.kind not in DISTRIBUTIONS:
        raise InvalidArgument(
            f"head {name!r}: targets are for distributions, got {head.encoding!r} for {head.kind}; expected dense[:f32]"
        )
    return existing.encoding if existing is not None else planning.resolve(head.encoding, pilot.sample(name, head))


def _with_codebook(
    name: str, head: Head, existing: Head | None, pilot: Pilot, seed: int
) -> tuple[Head, Codebook | None]:
    """Return a head with the codebook that its encoding needs, and that codebook if it is new."""
    encoding = encodings.parse(head.encoding, classes=head.classes)
    if encoding.priors == 1:
        return head, None
    size = 4 * encoding.priors * head.classes * len(head.temperatures)
    if size > MAX_CODEBOOK_BYTES:
        raise InvalidArgument(
            f"head {name!r}: the codebook of {encoding.spec} is too large, got {size:,} bytes for {head.classes:,} "
            f"classes at {len(head.temperatures)} temperatures; expected at most {MAX_CODEBOOK_BYTES:,}. Use "
            f"{MAX_CODEBOOK_BYTES * encoding.priors // size} tail priors or fewer"
        )
    if existing is not None and existing == replace(head, codebook=existing.codebook):
        return existing, None
    fitted = codebook.fit(encoding, head, pilot.logits(name, head), seed=seed)
    return replace(head, codebook=digest_of(fitted)), fitted
