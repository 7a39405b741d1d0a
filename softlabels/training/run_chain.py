"""The chain that made a model: data, teacher, store, student, through students that became teachers.

Each link is named by a digest. A link that is on this machine is read and compared with its digest; nothing is opened
that is not a local directory, and no code runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from softlabels.errors import RunCorrupt, SoftLabelsError
from softlabels.models import read_run
from softlabels.models.run_record import RunRecord
from softlabels.store import Store, open_store

LinkKind = Literal["data", "student", "teacher", "store"]

MAX_LINKS = 64


@dataclass(frozen=True, kw_only=True)
class Link:
    """One link of a chain.

    Attributes:
        kind: ``data``, ``teacher``, ``store`` or ``student``.
        name: Specification or location.
        digest: Digest that names the link; None if it has none.
        state: ``here`` if it is on this machine with this digest, ``other`` if there is another in its place,
            ``missing`` if it is not there, ``recorded`` for data and models that are known by their record alone.
        details: Facts by name, such as the result of a run.
    """

    kind: LinkKind
    name: str
    digest: str | None
    state: Literal["here", "other", "missing", "recorded"]
    details: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the link as JSON values."""
        return asdict(self)


def check_run_digest(path: str | Path, actual: str | None, expected: str | None) -> None:
    """Raise unless a run has a digest; do nothing if none is expected.

    Args:
        path: Run directory, for messages.
        actual: Digest of its model.
        expected: Digest that it must have; None: any.

    Raises:
        RunCorrupt: The digests differ.
    """
    if expected is not None and actual != expected:
        raise RunCorrupt(
            f"{path}: the run has another digest, got {actual}; expected {expected}. Name the digest that inspect "
            "prints, or fetch the run again"
        )


def chain(path: str | Path) -> list[Link]:
    """Return what made a run, the run itself last.

    Args:
        path: Run directory.

    Raises:
        DataNotFound: There is no finished run.
        RunCorrupt: The description of the run is damaged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from softlabels.training import train_teacher
        >>> with TemporaryDirectory() as folder:
        ...     model = train_teacher("digits", "mlp:width=4,depth=1", f"{folder}/run", steps=1)
        ...     [(link.kind, link.state) for link in chain(f"{folder}/run")]
        [('data', 'recorded'), ('teacher', 'here')]
    """
    folder = Path(path)
    record = read_run(folder)
    return list(_links_of_run(str(folder), folder, record))[::-1]


def _links_of_run(name: str, folder: Path, record: RunRecord) -> Iterator[Link]:
    """Yield the links of a run, from itself back to the first data."""
    run: tuple[str, Path, RunRecord] | None = (name, folder, record)
    count = 0
    while run is not None and count < MAX_LINKS:
        name, folder, record = run
        count += 1
        yield _link_of_run(name, record)
        run = None
        if record.labels is not None:
            if record.labels.snapshot is not None:
                yield _link_of_store(record)
            run = _find_run(record.labels.teacher_spec, record.labels.teacher_digest, record)
            if run is None:
                yield Link(
                    kind="teacher",
                    name=record.labels.teacher_spec,
                    digest=record.labels.teacher_digest,
                    state="missing" if record.labels.teacher_spec.startswith("run:") else "recorded",
                    details={},
                )
        yield Link(
            kind="data",
            name=record.data.spec,
            digest=record.data.fingerprint,
            state="recorded",
            details={"rows": record.data.rows, "trained rows": record.data.held_out.trained_rows},
        )


def _link_of_run(name: str, record: RunRecord) -> Link:
    metrics = record.metrics
    figures = {} if metrics is None else {"steps": metrics.steps, **metrics.figures}
    for figure in ("accuracy", "perplexity", "kl", "agreement"):
        value = None if metrics is None else getattr(metrics, figure)
        if value is not None:
            figures[figure] = value
    started = {} if record.model.start is None else {"started from": record.model.start[:16]}
    objectives = {f"loss of {head}": text for head, text in record.objectives.items()}
    details = {"model": record.model.spec, **started, **objectives, **figures, **record.software}
    return Link(kind=record.kind, name=name, digest=record.model.digest, state="here", details=details)


def _link_of_store(record: RunRecord) -> Link:
    """Return the store of a student, looked up where it was."""
    labels = record.labels
    if labels is None:
        raise TypeError("a teacher has no store")
    store = _open_local(labels.store)
    state: Literal["here", "other", "missing"] = "missing"
    if store is not None:
        state = "here" if store.snapshot.digest == labels.snapshot else "other"
    encodings = {f"encoding of {head}": spec for head, spec in labels.encodings.items()}
    return Link(
        kind="store", name=labels.store or "unknown location", digest=labels.snapshot, state=state, details=encodings
    )


def _open_local(location: str | None) -> Store | None:
    """Return the store at a local path; None if it is not there or cannot be read."""
    if location is None or "://" in location or not Path(location).is_dir():
        return None
    try:
        return open_store(location)
    except SoftLabelsError:
        return None


def _find_run(spec: str, digest: str | None, record: RunRecord) -> tuple[str, Path, RunRecord] | None:
    """Return the run of a teacher, if it is here and its digest is the recorded one."""
    kind, _, text = spec.partition(":")
    if kind != "run" or not text:
        return None
    folders = [Path(text)]
    if record.labels is not None and record.labels.store is not None:
        folders.append(Path(record.labels.store).parent / text)  # relative to where the labels were made
    for folder in folders:
        try:
            teacher = read_run(folder)
        except (SoftLabelsError, OSError):
            continue
        if teacher.model.digest == digest:
            return spec, folder, teacher
    return None
