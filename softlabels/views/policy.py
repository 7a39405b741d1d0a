"""Augmentation policies: parsed from a specification, applied to an image, recorded in a store.

A policy is written ``randcrop,flip,color`` with options behind a colon, as in ``randcrop:scale=0.3,flip``. Transforms
run in the order written. Parameters of a view are SplitMix words of (seed, key, view) with a counter per draw, so they
are equal on every machine, and no view depends on another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray

from softlabels import rng
from softlabels.errors import InvalidArgument, InvalidData
from softlabels.suggestions import suggest
from softlabels.views.transforms import TRANSFORMS, Transform, as_float, center_crop, central_square, resize_mask

POLICY_VERSION = 1
"""Version of the transforms' arithmetic. It changes whenever the pixels of a view change."""


@dataclass(frozen=True)
class Policy:
    """A list of transforms with their options; make one with ``parse_policy``.

    Attributes:
        steps: Transforms in their order, each with all its options.
        version: Version of the arithmetic.

    Example:
        >>> import numpy as np
        >>> policy = parse_policy("randcrop,flip")
        >>> image = np.zeros((40, 30, 3), np.uint8)
        >>> policy.view(image, key=b"0" * 16, view=3, seed=0, size=8).shape
        (8, 8, 3)
    """

    steps: tuple[tuple[Transform, Mapping[str, float]], ...]
    version: int = POLICY_VERSION

    @property
    def spec(self) -> str:
        """The canonical specification, with every option."""
        return ",".join(
            ":".join([transform.name, *(f"{name}={_text(value)}" for name, value in options.items())])
            for transform, options in self.steps
        )

    def uniforms(self, keys: NDArray[np.uint8], views: NDArray[np.integer], seed: int) -> NDArray[np.float64]:
        """Return the random numbers of views, (n, draws) float64 in [0, 1).

        Args:
            keys: Keys of the examples, (n, 16) uint8.
            views: Numbers of the views, (n,).
            seed: Seed of the store.
        """
        halves = np.ascontiguousarray(keys).view("<u8")
        words = rng.words(seed, halves[:, 0], halves[:, 1], stream=rng.AUGMENT_STREAM)
        words = rng.mix(words ^ rng.mix(np.asarray(views).astype(np.uint64)))
        draws = sum(transform.draws for transform, _ in self.steps)
        return rng.uniforms(words[:, None], np.arange(draws)[None])

    def view(
        self, image: NDArray[np.uint8], *, key: bytes, view: int, seed: int, size: int | None = None
    ) -> NDArray[np.uint8]:
        """Return one view of an image.

        The image is transformed by itself, so its pixels do not depend on the batch it is used in.

        Args:
            image: (H, W, C) uint8 with C of 1 or 3.
            key: Key of the example, 16 bytes.
            view: Number of the view, from 0.
            seed: Seed of the store.
            size: Side of the view in pixels; None: the size of the image.

        Returns:
            (size, size, C) uint8; (H, W, C) if ``size`` is None.

        Raises:
            InvalidData: The image has another shape or dtype.
        """
        pixels = as_bytes(image)
        for transform, options, draws in self._steps(key, view, seed):
            pixels = transform.apply(pixels if transform.moves else as_float(pixels), size, draws, options)
        if size is not None and pixels.shape[1:] != (size, size):
            pixels = center_crop(pixels, size)
        return as_image(as_float(pixels))

    def mask(
        self, mask: NDArray[np.int64], *, key: bytes, view: int, seed: int, size: int | None = None
    ) -> NDArray[np.int64]:
        """Return the class numbers of the pixels of one view, by nearest neighbour.

        Args:
            mask: (H, W) int64, of the size of the image, with -1 for ignored pixels.
            key: Key of the example, 16 bytes.
            view: Number of the view.
            seed: Seed of the store.
            size: Side of the view in pixels; None: the size of the image.

        Returns:
            (size, size) int64; (H, W) if ``size`` is None. Pixels from outside the image and erased ones are -1.

        Example:
            >>> mask = np.array([[0, 1], [2, 3]])
            >>> parse_policy("flip:p=1").mask(mask, key=b"0" * 16, view=0, seed=0).tolist()
            [[1, 0], [3, 2]]
        """
        classes = torch.from_numpy(np.array(mask, np.int64))[None]
        for transform, options, draws in self._steps(key, view, seed):
            if transform.mask is not None:
                classes = transform.mask(classes, size, draws, options)
        if size is not None and classes.shape[1:] != (size, size):
            classes = resize_mask(central_square(classes), size, size)
        return np.ascontiguousarray(classes[0].numpy())

    @property
    def mixes(self) -> bool:
        """True if views may be mixed with those of other examples."""
        return bool(self.steps) and self.steps[-1][0].mix is not None

    def partner(self, key: bytes, view: int, seed: int, examples: int) -> int | None:
        """Return the number of the example that a view is mixed with; None if it is not mixed.

        Args:
            key: Key of the example, 16 bytes.
            view: Number of the view.
            seed: Seed of the store.
            examples: Number of examples.

        Example:
            >>> parse_policy("flip").partner(b"0" * 16, 0, 0, 10) is None
            True
        """
        transform, options, draws = list(self._steps(key, view, seed))[-1]
        if transform.mix is None or draws[0] >= options["p"]:
            return None
        return int(draws[1] * examples)

    def mix(
        self, image: NDArray[np.uint8], partner: NDArray[np.uint8], *, key: bytes, view: int, seed: int
    ) -> NDArray[np.uint8]:
        """Return a view mixed with the view of another example.

        Args:
            image: View of the example, (H, W, C) uint8.
            partner: View of the other example, of the same shape.
            key: Key of the example, 16 bytes.
            view: Number of the view.
            seed: Seed of the store.

        Raises:
            InvalidData: The views differ in shape.
        """
        if image.shape != partner.shape:
            raise InvalidData(
                f"image: views that are mixed need one size, got {image.shape} and {partner.shape}; expected size="
            )
        transform, options, draws = list(self._steps(key, view, seed))[-1]
        if transform.mix is None:
            return image
        return as_image(transform.mix(as_pixels(image), as_pixels(partner), draws, options))

    def _steps(
        self, key: bytes, view: int, seed: int
    ) -> Iterator[tuple[Transform, Mapping[str, float], NDArray[np.float64]]]:
        """Yield each transform with its options and its random numbers for a view."""
        draws = self.uniforms(np.frombuffer(key, np.uint8)[None], np.array([view]), seed)[0]
        start = 0
        for transform, options in self.steps:
            yield transform, options, draws[start : start + transform.draws]
            start += transform.draws

    def to_json(self) -> dict[str, Any]:
        """Return the policy as the descriptor of a store holds it."""
        return {"spec": self.spec, "version": self.version}


def as_pixels(image: NDArray[np.uint8]) -> torch.Tensor:
    """Return an (H, W, C) uint8 image as (C, H, W) float32, in memory of its own.

    Raises:
        InvalidData: The image has another shape or dtype.
    """
    return as_float(as_bytes(image))


def as_bytes(image: NDArray[np.uint8]) -> torch.Tensor:
    """Return an (H, W, C) uint8 image as (C, H, W) uint8, over the same memory where it can be.

    Raises:
        InvalidData: The image has another shape or dtype.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in {1, 3} or 0 in image.shape:
        raise InvalidData(
            f"image: unsupported layout, got {image.dtype} of shape {image.shape}; expected uint8 of shape (H, W, C) "
            "with 1 or 3 channels. Convert the image first"
        )
    # A copy of what is not writable, which torch warns of.
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)


def as_image(pixels: torch.Tensor) -> NDArray[np.uint8]:
    """Return (C, H, W) float32 pixels as an (H, W, C) uint8 image, rounded half to even."""
    rounded = pixels.round().clamp_(0, 255).to(torch.uint8)
    return torch.stack(list(rounded), dim=-1).numpy()


def center_view(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return the largest central square of an image at ``size`` pixels, the view of an image that is not augmented.

    Args:
        image: (H, W, C) uint8 with C of 1 or 3.
        size: Side of the view in pixels.

    Example:
        >>> center_view(np.zeros((4, 6, 3), np.uint8), 2).shape
        (2, 2, 3)
    """
    return as_image(center_crop(as_bytes(image), size))


def center_mask(mask: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the class numbers of the largest central square of a mask at ``size`` pixels, by nearest neighbour.

    Args:
        mask: (H, W) int64.
        size: Side of the mask in pixels.

    Example:
        >>> center_mask(np.arange(8).reshape(2, 4), 2).tolist()
        [[1, 2], [5, 6]]
    """
    square = central_square(torch.from_numpy(np.ascontiguousarray(mask))[None])
    return resize_mask(square, size, size)[0].numpy()


def parse_policy(spec: str) -> Policy:
    """Return the policy that a specification names.

    Args:
        spec: Names of transforms separated by commas, each with options behind colons, e.g.
            ``randcrop:scale=0.3:ratio=1.5,flip,color``.

    Raises:
        InvalidArgument: A name or option is unknown, or a value is out of bounds.

    Example:
        >>> parse_policy("flip").spec
        'flip:p=0.5'
    """
    steps: list[tuple[Transform, Mapping[str, float]]] = []
    for item in spec.split(","):
        name, *settings = item.strip().split(":")
        if name not in TRANSFORMS:
            raise InvalidArgument(
                f"augmentation: unknown transform, got {name!r}; expected one of {', '.join(TRANSFORMS)}"
                f"{suggest(name, TRANSFORMS)}"
            )
        transform = TRANSFORMS[name]
        if steps and steps[-1][0].mix is not None:
            raise InvalidArgument(
                f"augmentation: {steps[-1][0].name} mixes finished views, got {name} behind it; expected it at the end"
            )
        steps.append((transform, dict(transform.options) | _options(transform, settings)))
    return Policy(tuple(steps))


def _options(transform: Transform, settings: list[str]) -> dict[str, float]:
    """Return the options that were given, checked against their bounds."""
    options = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in transform.options:
            known = ", ".join(transform.options)
            raise InvalidArgument(f"augmentation: {transform.name} has no option {name!r}; expected one of {known}")
        low, high = transform.bounds[name]
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise InvalidArgument(
                f"augmentation: {transform.name}:{name} is out of bounds, got {text!r}; expected {low:g} to {high:g}"
            )
        options[name] = value
    return options


def _text(value: float) -> str:
    """Return the shortest text that is read as exactly this number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def view_digest(view: NDArray[np.uint8]) -> str:
    """Return the BLAKE3 of a view's shape and pixels, hexadecimal; stores keep a few to check replay."""
    hasher = blake3(repr(view.shape).encode())
    hasher.update(np.ascontiguousarray(view).data)
    return str(hasher.hexdigest())
