"""Seeded road scenes: an image, the class of every pixel and a steering angle, rendered by row number.

A pinhole camera 1.4 m above a flat road looks along it. Scene i is a function of (seed, i) alone: horizon, curvature,
wide lanes, lateral offset of the camera, vehicles, light, fog and noise are SplitMix draws. A scene of 64 x 96 pixels
takes about a millisecond to render, and nothing is stored.

Pixel classes are sky, terrain, road, marking and vehicle. The steering angle follows pure pursuit (Coulter 1992): the
front wheels point at the centre of the lane 12 m ahead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softlabels import rng

PIXEL_CLASSES = ("sky", "terrain", "road", "marking", "vehicle")
SKY, TERRAIN, ROAD, MARKING, VEHICLE = range(5)
HEIGHT, WIDTH = 64, 96
RENDERER_VERSION = 1
"""Version of the renderer; it changes whenever a pixel, a class or an angle of a scene changes."""
CAMERA_HEIGHT = 1.4
"""Metres above the road."""
WHEELBASE, LOOK_AHEAD = 2.7, 12.0
"""Metres."""
MARKING_WIDTH, DASH, GAP = 0.18, 3.0, 6.0
"""Metres; the middle marking is dashed."""
MAX_VEHICLES = 4

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One rendered scene.

    Attributes:
        image: (H, W, 3) uint8.
        classes: (H, W) uint8, indices of PIXEL_CLASSES.
        steering: Angle of the front wheels in degrees; positive to the right.
    """

    image: Image
    classes: NDArray[np.uint8]
    steering: float


def render(number: int, *, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Scene:
    """Return scene ``number``.

    Args:
        number: Number of the scene, from 0.
        seed: Seed of all scenes.
        height: Rows of the image.
        width: Columns of the image.

    Example:
        >>> scene = render(3)
        >>> scene.image.shape, bool(scene.classes.max() < len(PIXEL_CLASSES))
        ((64, 96, 3), True)
    """
    word = rng.words(seed, np.array([number]), stream=rng.ROAD_STREAM)
    draws = rng.uniforms(word, np.arange(24 + 5 * MAX_VEHICLES))
    view = _View(draws, height, width)
    classes, depth = view.ground()
    image = _paint(classes, depth, view, draws)
    vehicles = draws[24:].reshape(MAX_VEHICLES, 5)[: int(draws[7] * (MAX_VEHICLES + 1))]
    for vehicle in sorted(vehicles, key=lambda values: -values[0]):  # the farthest first: nearer ones cover it
        _add_vehicle(image, classes, view, vehicle)
    return Scene(image=_expose(image, depth, draws, word), classes=classes, steering=view.steering)


class _View:
    """Geometry of one scene: a camera over a road of two lanes with constant curvature.

    Attributes:
        horizon: Row of the horizon, a fraction of a pixel allowed.
        focal: Focal length in pixels.
        steering: Angle of the front wheels in degrees.
    """

    def __init__(self, draws: NDArray[np.float64], height: int, width: int) -> None:
        self.height, self.width = height, width
        self.horizon = height * (0.32 + 0.14 * draws[0])
        self.focal = width * (0.75 + 0.25 * draws[1])
        self.curvature = 0.016 * (2 * draws[2] - 1) ** 3  # 1/m; mostly gentle, down to a radius of 62 m
        self.lane = 3.0 + 0.8 * draws[3]
        self.offset = 0.9 * (2 * draws[4] - 1)  # of the camera from the centre of its lane, to the right
        ahead = self.curvature * LOOK_AHEAD**2 / 2 - self.offset
        self.steering = math.degrees(math.atan(2 * WHEELBASE * ahead / LOOK_AHEAD**2))

    def center(self, depth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the lateral position of the middle marking at a depth, in metres from the camera's axis.

        The camera drives in the right lane, so the middle marking is half a lane to its left.
        """
        return np.asarray(self.curvature * depth**2 / 2 - self.offset - self.lane / 2)

    def ground(self) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Return the classes without vehicles, (H, W) uint8, and the depth of each row in metres, (H,)."""
        rows = np.arange(self.height) + 0.5 - self.horizon
        depth = np.where(rows > 0, self.focal * CAMERA_HEIGHT / np.maximum(rows, 1e-3), np.inf)
        depth = np.minimum(depth, 400.0)
        columns = np.arange(self.width) + 0.5 - self.width / 2
        lateral = columns[None] * depth[:, None] / self.focal - self.center(depth)[:, None]
        classes = np.full((self.height, self.width), TERRAIN, np.uint8)
        classes[np.abs(lateral) < self.lane + 0.5] = ROAD
        # A pixel far away is wider than a marking: it is a marking where the marking covers half of it.
        half = np.maximum(MARKING_WIDTH, 0.5 * depth / self.focal)[:, None] / 2
        classes[np.abs(np.abs(lateral) - self.lane) < half] = MARKING
        is_dash = ((depth % (DASH + GAP)) < DASH)[:, None]
        classes[(np.abs(lateral) < half) & is_dash] = MARKING
        classes[rows <= 0] = SKY
        return classes, depth


def _paint(
    classes: NDArray[np.uint8], depth: NDArray[np.float64], view: _View, draws: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the colours of sky and ground, (H, W, 3) in [0, 1]."""
    terrain = np.array([0.25, 0.38, 0.16]) + draws[8:11] * [0.35, 0.2, 0.15]
    road = np.full(3, 0.22 + 0.2 * draws[11])
    marking = np.array([0.85, 0.85, 0.8]) * (0.75 + 0.25 * draws[12])
    palette = np.stack([np.zeros(3), terrain, road, marking, np.zeros(3)])
    image = palette[classes]
    share = np.clip((np.arange(view.height) + 0.5) / max(view.horizon, 1), 0, 1)[:, None]
    zenith, haze = np.array([0.3, 0.5, 0.85]) * (0.5 + 0.5 * draws[13]), np.array([0.8, 0.84, 0.9])
    sky = zenith * (1 - share) + haze * share
    return np.where((classes == SKY)[..., None], sky[:, None], image)


def _add_vehicle(
    image: NDArray[np.float64], classes: NDArray[np.uint8], view: _View, draws: NDArray[np.float64]
) -> None:
    """Draw a vehicle on one of the lanes; ``image`` and ``classes`` are written to."""
    depth = 7 + 55 * draws[0] ** 1.5
    size = (1.75 + 0.4 * draws[1], 1.4 + 1.2 * draws[1] ** 3)  # width and height in metres
    lane = view.lane / 2 if draws[2] < 0.5 else -view.lane / 2
    middle = view.width / 2 + view.focal * (float(view.center(np.array(depth))) + lane) / depth
    bottom = view.horizon + view.focal * CAMERA_HEIGHT / depth
    half, tall = view.focal * size[0] / depth / 2, view.focal * size[1] / depth
    rows = slice(max(round(bottom - tall), 0), max(min(round(bottom), view.height), 0))
    columns = slice(max(round(middle - half), 0), max(min(round(middle + half), view.width), 0))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return
    colour = np.array([draws[3], draws[4], (draws[3] + draws[4]) / 2]) * 0.8 + 0.05
    image[rows, columns] = colour
    window = slice(rows.start + (rows.stop - rows.start) // 6, rows.start + (rows.stop - rows.start) // 2)
    image[window, columns] = colour * 0.35 + 0.1
    image[rows.stop - max((rows.stop - rows.start) // 8, 1) : rows.stop, columns] = 0.05
    classes[rows, columns] = VEHICLE


def _expose(
    image: NDArray[np.float64], depth: NDArray[np.float64], draws: NDArray[np.float64], word: NDArray[np.uint64]
) -> Image:
    """Return the image with fog, light, vignette and noise, as uint8."""
    height, width, _ = image.shape
    fog = np.exp(-np.minimum(depth, 400) * 0.03 * draws[14] ** 2)[:, None, None]
    image = image * fog + (1 - fog) * (0.75 + 0.1 * draws[15])
    light = 0.35 + 0.85 * draws[16]
    slope = 1 + 0.35 * (2 * draws[17] - 1) * np.linspace(-1, 1, width)[None, :, None]
    noise = rng.uniforms(rng.mix(word), np.arange(height * width * 3)).reshape(height, width, 3)
    sigma = 0.02 + 0.06 * draws[18]
    image = image * light * slope + sigma * (2 * noise - 1) * math.sqrt(3)
    return np.ascontiguousarray((np.clip(image, 0, 1) * 255).round().astype(np.uint8))
