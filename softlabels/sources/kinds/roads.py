"""``roads:N``: N seeded road scenes with the class of every pixel and the steering angle, rendered when needed.

Options follow commas: ``roads:2000,seed=1,size=32x48``. Scenes are a function of (seed, number, size), so
``roads:1000`` is the first half of ``roads:2000``. Every fifth scene is in the split test. A key is the hash of seed,
number, size and version of the renderer. A scene takes about two milliseconds, and rendered scenes stay in memory up to
256 MiB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softlabels.errors import InvalidArgument
from softlabels.keys import id_keys
from softlabels.sources.keyed_source import KeyedSource
from softlabels.sources.protocol import Columns, Source, Target
from softlabels.sources.request import DataKind, OpenRequest
from softlabels.sources.roads import HEIGHT, PIXEL_CLASSES, RENDERER_VERSION, WIDTH, render
from softlabels.sources.split_names import TEST, TRAIN, Splits

MAX_SCENES = 10**8
MIN_SIDE, MAX_SIDE = 8, 4096
"""Bounds of the height and width of a scene, in pixels."""
TEST_EVERY = 5
"""One scene in so many is in the split test."""
CACHE_BYTES = 256 * 2**20
FORM = re.compile(r"roads:(?P<count>\d{1,9})(,seed=(?P<seed>\d{1,9}))?(,size=(?P<height>\d{1,4})x(?P<width>\d{1,4}))?")


class RoadSource(KeyedSource):
    """A source of road scenes; see Source for its members.

    Args:
        count: Number of scenes.
        seed: Seed of all scenes.
        size: Height and width in pixels.
        spec: DATA as the user typed it.

    Example:
        >>> source = RoadSource(10, size=(16, 24))
        >>> source.inputs(np.array([3])).shape, list(source.targets)
        ((1, 16, 24, 3), ['road', 'steering'])
    """

    def __init__(
        self, count: int, *, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH), spec: str = "roads"
    ) -> None:
        self._seed = seed
        self._size = size
        self._scenes: _SceneCache | None = None
        name = f"softlabels road {RENDERER_VERSION} {seed} {size[0]}x{size[1]}"
        super().__init__(
            spec,
            Columns(inputs=("image",), split="split", computed=True),
            id_keys(f"{name} {number}" for number in range(count)),
            splits=Splits((TRAIN, TEST), (np.arange(1, count + 1) % TEST_EVERY == 0).astype(np.int16)),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without rendered scenes."""
        return super().__getstate__() | {"_scenes": None}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an image, (H, W, 3)."""
        return (*self._size, 3)

    @property
    def input_dtype(self) -> np.dtype[np.generic]:
        """Dtype of the images, uint8."""
        return np.dtype(np.uint8)

    @property
    def targets(self) -> Mapping[str, Target]:
        """The class of every pixel as ``road``, and the angle of the front wheels as ``steering``."""
        road = Target(kind="pixels", classes=len(PIXEL_CLASSES), shape=self._size, class_names=PIXEL_CLASSES)
        return {"road": road, "steering": Target(kind="regression", classes=1, unit="degrees")}

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of ``rows``, (n, H, W, 3) uint8."""
        return self._rendered(rows).images(rows)

    def target(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return the target of the head ``name`` for ``rows``: (n, H, W) int64 classes or (n, 1) float32 degrees.

        Raises:
            InvalidArgument: There is no such target.
        """
        if name not in self.targets:
            return super().target(name, rows)
        scenes = self._rendered(rows)
        return scenes.classes(rows) if name == "road" else scenes.steering(rows)

    def _rendered(self, rows: NDArray[np.int64]) -> _SceneCache:
        """Return scenes that include ``rows``."""
        size = self._size[0] * self._size[1] * 4
        if len(self) * size > CACHE_BYTES:
            return _SceneCache(rows, self._seed, self._size)
        if self._scenes is None:
            self._scenes = _SceneCache(np.arange(len(self), dtype=np.int64), self._seed, self._size, lazy=True)
        self._scenes.render(rows)
        return self._scenes


class _SceneCache:
    """Rendered scenes.

    Args:
        rows: Numbers of the scenes, ascending if they are rendered lazily.
        seed: Seed of all scenes.
        size: Height and width in pixels.
        lazy: If True, ``rows`` are 0 to n - 1, and a scene is rendered when it is first needed.
    """

    def __init__(self, rows: NDArray[np.int64], seed: int, size: tuple[int, int], *, lazy: bool = False) -> None:
        self._seed, self._size, self._lazy = seed, size, lazy
        self._images = np.empty((len(rows), *size, 3), np.uint8)
        self._classes: NDArray[np.uint8] = np.empty((len(rows), *size), np.uint8)
        self._steering = np.empty((len(rows), 1), np.float32)
        self._done = np.zeros(len(rows), bool)
        if not lazy:
            for place, row in enumerate(rows):
                self._render(place, int(row))

    def render(self, rows: NDArray[np.int64]) -> None:
        """Render scenes that were not rendered before."""
        for row in rows[~self._done[rows]]:
            self._render(int(row), int(row))

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images, (n, H, W, 3), in memory of the caller's own."""
        return self._images[rows] if self._lazy else self._images

    def classes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return classes of pixels, (n, H, W)."""
        classes: NDArray[np.int64] = (self._classes[rows] if self._lazy else self._classes).astype(np.int64)
        return classes

    def steering(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return angles in degrees, (n, 1)."""
        return self._steering[rows] if self._lazy else self._steering

    def _render(self, place: int, number: int) -> None:
        scene = render(number, seed=self._seed, height=self._size[0], width=self._size[1])
        self._images[place], self._classes[place], self._steering[place] = scene.image, scene.classes, scene.steering
        self._done[place] = True


def _open(request: OpenRequest) -> Source:
    match = FORM.fullmatch(request.spec)
    count = int(match["count"]) if match else 0
    size = (int(match["height"] or HEIGHT), int(match["width"] or WIDTH)) if match else (0, 0)
    if match is None or not 1 <= count <= MAX_SCENES or not MIN_SIDE <= min(size) <= max(size) <= MAX_SIDE:
        raise InvalidArgument(
            f"{request.spec}: invalid scenes; expected roads:N, or roads:N,seed=S,size=HEIGHTxWIDTH with N from 1 to "
            f"{MAX_SCENES:,} and sides from {MIN_SIDE} to {MAX_SIDE}"
        )
    if (request.input, request.id, request.targets) != (None, None, None) or request.label:
        raise InvalidArgument(
            f"{request.spec}: road scenes have no columns to choose; leave out input=, label=, targets= and id="
        )
    return RoadSource(count, seed=int(match["seed"] or 0), size=size, spec=request.spec)


KIND = DataKind(name="road scenes", prefix="roads", open=_open)
