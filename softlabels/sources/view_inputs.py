"""Views of the images of a source: replayed exactly from (seed, key, view), wherever and in whatever order.

Images are decoded at their own size and each is transformed by itself on one of several threads, so the pixels of a
view do not depend on batches, threads or processes. Crops are fractions of the image, so views may be replayed at
another size than the labels were made at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument, InvalidData, KeyMissing, LabelsMisaligned, UnreadableRow
from softlabels.sources.image_files import Pixels
from softlabels.sources.pictures import is_pictures, map_images, map_masks
from softlabels.sources.protocol import Source, Target
from softlabels.store.format.view_record import ViewDigest, ViewRecord

DIGESTS = 8
"""Views whose pixels a store records."""
MAX_IMPLIED_SIZE = 2048
"""Side in pixels above which views are replayed only if the user chose the size; one then takes 100 MB and more."""


class ViewInputs:
    """The views of a source.

    Args:
        source: Data of images. One with a size is replayed at that size.
        record: Policy, seed and number of views.
        partners: Row of each example of the labels, (examples,), -1 for one that the data lacks; needed if the policy
            mixes examples. None: example i is row i.

    Attributes:
        source: The data.
        record: Policy, seed and number of views.
        size: Height and width of the replayed views; None: those of the images.

    Raises:
        InvalidData: The inputs are no images, or a mixing policy lacks the examples it mixes.
        InvalidArgument: The policy is unknown here, or of another version.

    Example:
        >>> from softlabels.sources import open_source
        >>> record = ViewRecord(count=2, policy="flip", version=1, seed=0, size=8, examples=1797)
        >>> ViewInputs(open_source("digits"), record).inputs(np.array([0, 0]), np.array([0, 1])).shape
        (2, 8, 8, 1)
    """

    def __init__(self, source: Source, record: ViewRecord, partners: NDArray[np.int64] | None = None) -> None:
        from softlabels.views import POLICY_VERSION, parse_policy

        if not is_pictures(source):
            raise InvalidData(
                f"{source.spec}: views need images, got {source.input_dtype} of shape {source.input_shape}; expected "
                "uint8 of shape (H, W), (H, W, 1) or (H, W, 3). Convert the data, or leave out views="
            )
        if record.version != POLICY_VERSION:
            raise InvalidArgument(
                f"views: made by version {record.version} of the transforms, this softlabels has {POLICY_VERSION}; "
                "expected the same. Install a softlabels of that version, or generate the labels again"
            )
        chosen: int | None = getattr(source, "size", None)
        check_size(record, chosen)
        self.source = source
        self.record = record
        self.size = chosen or record.size
        self._policy = parse_policy(record.policy)
        self._partners = partners
        if self._policy.mixes and partners is None and len(source) != record.examples:
            raise InvalidData(
                f"{source.spec}: other examples than the labels were mixed from, got {len(source):,}; expected "
                f"{record.examples:,}. Use the data that the labels were made from"
            )

    def inputs(self, rows: NDArray[np.int64], views: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return views, (n, size, size, C) uint8.

        Args:
            rows: Rows of the source, (n,).
            views: Number of the view of each row, (n,).

        Raises:
            UnreadableRow: Images cannot be read.
        """
        return np.stack(self._replay(rows, views, self.size))

    def target(self, name: str, rows: NDArray[np.int64], views: NDArray[np.integer]) -> NDArray[np.generic]:
        """Return the target of the head ``name`` for views; masks are transformed as the images are.

        Args:
            name: Name of the head.
            rows: Rows of the source, (n,).
            views: Number of the view of each row, (n,).

        Raises:
            InvalidArgument: There is no such target, or the policy moves pixels in a way that masks cannot follow.
        """
        target = self.source.targets.get(name)
        keys = self._keys(rows)
        if target is None or target.kind != "pixels":
            return self._without_mixed(self.source.target(name, rows), keys, views)

        def change(place: int, mask: NDArray[np.int64]) -> NDArray[np.int64]:
            return self._policy.mask(
                mask, key=keys[place].tobytes(), view=int(views[place]), seed=self.record.seed, size=self.size
            )

        return self._without_mixed(np.stack(map_masks(self.source, name, rows, change)), keys, views)

    @property
    def targets(self) -> dict[str, Target]:
        """The ground truth by head that views have."""
        return dict(self.source.targets)

    @property
    def mixes(self) -> bool:
        """True if views may be mixed with those of other examples; mixed ones have no hard targets."""
        return self._policy.mixes

    def _without_mixed(
        self, values: NDArray[np.generic], keys: NDArray[np.uint8], views: NDArray[np.integer]
    ) -> NDArray[np.generic]:
        """Return targets of views, missing for those that show two examples."""
        if self.mixes:
            mixed = [number is not None for number in self._partner_numbers(keys, views)]
            values = np.array(values)
            values[np.array(mixed, bool)] = np.nan if values.dtype.kind == "f" else -1
        return values

    def _partner_numbers(self, keys: NDArray[np.uint8], views: NDArray[np.integer]) -> list[int | None]:
        """Return the number of the example that each view is mixed with."""
        examples, seed = self.record.examples, self.record.seed
        pairs = zip(keys, views, strict=True)
        return [self._policy.partner(key.tobytes(), int(view), seed, examples) for key, view in pairs]

    def digests(self) -> tuple[ViewDigest, ...]:
        """Return the pixels of a few views, spread over the rows, to be recorded."""
        count = len(self.source)
        digests = []
        for place, row in enumerate(np.unique(np.linspace(0, count - 1, num=min(DIGESTS, count)).astype(np.int64))):
            with contextlib.suppress(UnreadableRow):  # such rows have no labels, or end the run later
                digests.append(self._digest(int(row), place % self.record.count))
        return tuple(digests)

    def check(self) -> None:
        """Raise LabelsMisaligned unless the recorded views that this data holds replay bit by bit.

        Raises:
            LabelsMisaligned: A view replays to other pixels; names the row and the versions to install.
        """
        recorded = {bytes.fromhex(entry.key): entry for entry in self.record.digests}
        rows = self._rows_of(list(recorded))
        for row, key in rows:
            entry = recorded[key]
            try:
                replayed = self._digest(row, entry.view)
            except UnreadableRow:
                continue
            if replayed.digest != entry.digest:
                raise LabelsMisaligned(
                    f"{self.source.spec}, row {row}: view {entry.view} replays to other pixels than its labels were "
                    f"made from, got digest {replayed.digest[:16]}; expected {entry.digest[:16]}. The labels were made "
                    f"with {self.record.software or 'unknown libraries'}, here is {software()}. Install those "
                    "versions, or generate the labels again"
                )

    def _digest(self, row: int, view: int) -> ViewDigest:
        """Return the pixels of a view at the size that is recorded."""
        from softlabels.views import view_digest

        rows = np.array([row])
        (pixels,) = self._replay(rows, np.array([view]), self.record.size)
        return ViewDigest(key=self._keys(rows)[0].tobytes().hex(), view=view, digest=view_digest(pixels))

    def _replay(self, rows: NDArray[np.int64], views: NDArray[np.integer], size: int | None) -> list[Pixels]:
        """Return views; an image with several of them is decoded once."""
        keys = self._keys(rows)
        images, image_of = np.unique(rows, return_inverse=True)
        order = np.argsort(image_of, kind="stable")
        places = np.split(order, np.cumsum(np.bincount(image_of, minlength=len(images)))[:-1])

        def change(image: int, pixels: Pixels) -> list[Pixels]:
            seed = self.record.seed
            return [
                self._policy.view(pixels, key=keys[place].tobytes(), view=int(views[place]), seed=seed, size=size)
                for place in places[image]
            ]

        by_image = map_images(self.source, images, change)
        replayed = [by_image[0][0]] * len(rows)
        for image, pixels in enumerate(by_image):
            for place, view in zip(places[image], pixels, strict=True):
                replayed[place] = view
        return self._mixed(replayed, keys, views, size) if self.mixes else replayed

    def _mixed(
        self, replayed: list[Pixels], keys: NDArray[np.uint8], views: NDArray[np.integer], size: int | None
    ) -> list[Pixels]:
        """Return views mixed with those of their partners, which have the same number."""
        numbers = self._partner_numbers(keys, views)
        places = [place for place, number in enumerate(numbers) if number is not None]
        if not places:
            return replayed
        partners = np.array([number for number in numbers if number is not None], np.int64)
        rows = partners if self._partners is None else self._partners[partners]
        if (rows < 0).any():
            raise KeyMissing(
                f"{self.source.spec}: lacks examples that views are mixed with, such as example "
                f"{partners[int((rows < 0).argmax())]} of the labels; expected all of them. Use the data that the "
                "labels were made from"
            )
        own, seed = self._keys(rows), self.record.seed

        def change(place: int, image: Pixels) -> Pixels:
            view = int(views[places[place]])
            other = self._policy.view(image, key=own[place].tobytes(), view=view, seed=seed, size=size)
            key = keys[places[place]].tobytes()
            return self._policy.mix(replayed[places[place]], other, key=key, view=view, seed=seed)

        for place, pixels in zip(places, map_images(self.source, rows, change), strict=True):
            replayed[place] = pixels
        return replayed

    def _keys(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.source.keys()[rows]

    def _rows_of(self, keys: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Return the first row of each key that the data holds."""
        own = np.ascontiguousarray(self.source.keys()).view("S16").reshape(-1)
        rows = []
        for key in keys:
            places = np.flatnonzero(own == np.frombuffer(key, "S16"))
            rows += [(int(places[0]), key)] if len(places) else []
        return rows


def check_size(record: ViewRecord, chosen: int | None) -> None:
    """Raise if the views of a store are too large to be replayed because a store says so.

    Args:
        record: Record of the views.
        chosen: Side of the views that the user chose, in pixels; None: nothing was chosen.

    Raises:
        InvalidArgument: The views are larger than is replayed by default, and than what was chosen.

    Example:
        >>> record = ViewRecord(count=2, policy="flip", version=1, seed=0, size=8192, examples=9)
        >>> check_size(record, chosen=8192)
    """
    if (record.size or 0) > max(MAX_IMPLIED_SIZE, chosen or 0):
        raise InvalidArgument(
            f"views: too large to be replayed by default, got {record.size} pixels a side; expected at most "
            f"{MAX_IMPLIED_SIZE}. If you trust the store, choose that size with size={record.size}"
        )


def implied_size(record: ViewRecord) -> int | None:
    """Return the size of images if the user chose none: that of the views; None: their own.

    Args:
        record: Record of the views.

    Raises:
        InvalidArgument: The views are larger than is replayed by default.
    """
    check_size(record, None)
    return record.size


def record_views(source: Source, *, count: int, policy: str, seed: int) -> ViewRecord:
    """Return the record of views that are to be labelled.

    Args:
        source: Data of images, with a size or of one size.
        count: Views of each example.
        policy: Specification of the policy; see ``softlabels.views.parse_policy``.
        seed: Seed of the parameters of views.

    Raises:
        InvalidArgument: The policy or a number is invalid.
        InvalidData: The inputs are no images.
    """
    from softlabels.views import parse_policy

    parsed = parse_policy(policy)
    record = ViewRecord(
        count=count,
        policy=parsed.spec,
        version=parsed.version,
        seed=seed,
        size=getattr(source, "size", None),
        examples=len(source),
        software=software(),
    )
    return replace(record, digests=ViewInputs(source, record).digests())


def software() -> str:
    """Return the versions of the libraries that decide the pixels of a view."""
    import torch

    names = [f"torch {torch.__version__}"]
    try:
        import PIL
    except ImportError:
        return names[0]
    return ", ".join([*names, f"Pillow {PIL.__version__}"])
