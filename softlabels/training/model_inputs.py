"""Data opened for models: images at the size that a model takes, where none is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from softlabels.errors import InvalidData
from softlabels.models import Model, ModelLike
from softlabels.models.onnx_file import read_onnx, require_onnx
from softlabels.models.run_directory import read_run
from softlabels.sources import DataLike, Source
from softlabels.sources.request import DataOptions
from softlabels.text.options import TextOptions
from softlabels.training.run_data import open_data


def open_for_models(
    models: Sequence[ModelLike], data: DataLike, *, text: TextOptions | None = None, **options: Unpack[DataOptions]
) -> list[Source]:
    """Return the data for each model, with the same rows in the same order.

    A model of square images that have another size in the data gets them resized and cropped to its own, as ``size``
    does, unless a size is chosen.

    Args:
        models: MODEL specifications, or anything ``as_model`` takes.
        data: Anything ``as_source`` takes.
        text: Options of text.
        options: Roles of columns and the size; see ``softlabels.sources.open_source``.

    Raises:
        InvalidData: The data cannot be used, such as images of several sizes for a model of any size.

    Example:
        >>> source, = open_for_models([lambda images: images], "digits")
        >>> source.input_shape
        (8, 8)
    """
    sides = [image_side(model) for model in models]
    if options.get("size") is not None or not any(sides):
        return [open_data(data, text=text, **options)] * len(models)
    try:
        source = open_data(data, text=text, **options)
    except InvalidData:
        if None in sides:
            raise
        source = None  # of several sizes, which each model resizes; anything else is raised again below
    by_side: dict[int, Source] = {}
    sources = []
    for side in sides:
        if source is not None and (side is None or not _differs(source, side)):
            sources.append(source)
            continue
        if side not in by_side and side is not None:
            sized: DataOptions = {**options, "size": side}
            by_side[side] = open_data(data, text=text, **sized)
        sources.append(by_side[side or 0])
    return sources


def image_side(model: ModelLike) -> int | None:
    """Return the side of the square images that a model takes; None for other inputs, and if it cannot be told.

    Args:
        model: MODEL specification, or anything ``as_model`` takes.

    Raises:
        DataNotFound: There is no such run or file.
        RunCorrupt: The run is damaged.
    """
    if isinstance(model, Model):
        return _side(model.input_shape)
    kind, _, text = model.partition(":") if isinstance(model, str) else ("", "", "")
    if kind == "run":
        shape = read_run(Path(text)).model.config.get("input_shape")
        return _side(tuple(shape)) if isinstance(shape, list | tuple) else None
    if kind == "onnx":
        require_onnx()
        return _side(read_onnx(Path(text)).input_spec.shape[1:])
    return None


def _side(shape: Sequence[int | None]) -> int | None:
    """Return the side of square images of one or three channels, first or last; None for other shapes."""
    if len(shape) != 3:
        return None
    for channels, height, width in ((shape[2], shape[0], shape[1]), (shape[0], shape[1], shape[2])):
        if channels in {1, 3} and height == width:
            return height
    return None


def _differs(source: Source, side: int) -> bool:
    """Return True if the inputs are images of another size than a square one of ``side`` pixels."""
    return (
        source.input_dtype == "uint8" and len(source.input_shape) in {2, 3} and source.input_shape[:2] != (side, side)
    )
