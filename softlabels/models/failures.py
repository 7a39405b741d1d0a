"""Errors that the code of the user raises, as typed errors that show its own line."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softlabels.errors import ModelFailed, SoftLabelsError

PACKAGES = (Path(__file__).parents[1], Path(torch.__file__).parent, Path(importlib.__file__).parent)
"""Folders whose lines are not the user's."""


@contextmanager
def user_errors(spec: str, inputs: Any) -> Iterator[None]:
    """Turn an error of the model's own code into ModelFailed.

    Args:
        spec: MODEL specification that messages name.
        inputs: Inputs of the batch.

    Raises:
        ModelFailed: The code raised an error; names its type, its text, the line and the shape of the inputs.
    """
    try:
        yield
    except SoftLabelsError:
        raise
    except Exception as error:
        advice = "Change the model or the data so that they agree"
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error):
            advice = "Use a smaller batch (batch_size=) or a smaller model"
        elif "dtype" in str(error):
            advice = "Inputs have the dtype of the data: convert them in the model, as with inputs.float()"
        raise ModelFailed(
            f"{spec}: the model raised {describe_error(error)}, got inputs of "
            f"{_describe(inputs)}; expected inputs that the model takes. {advice}"
        ) from error


def describe_error(error: Exception) -> str:
    """Return the type and text of an error of the user's code, and the last line of it that is the user's.

    Args:
        error: The error.
    """
    return f"{type(error).__name__}: {_first_lines(error)}{_own_line(error)}"


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:500] or "no message"


def _own_line(error: Exception) -> str:
    """Return the last line of the traceback that is the user's, with its place."""
    frames = traceback.extract_tb(error.__traceback__)
    installed = Path(sys.prefix)
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith("<frozen")
        and not any(Path(frame.filename).is_relative_to(folder) for folder in PACKAGES)
    ]
    written = [
        frame
        for frame in own
        if "site-packages" not in frame.filename and not Path(frame.filename).is_relative_to(installed / "lib")
    ]
    if not (written or own):
        return ""
    frame = (written or own)[-1]
    return f" ({Path(frame.filename).name}:{frame.lineno}: {frame.line or frame.name})"


def _describe(inputs: Any) -> str:
    if isinstance(inputs, np.ndarray | Tensor):
        return f"shape {tuple(inputs.shape)}, dtype {str(inputs.dtype).removeprefix('torch.')}"
    return f"type {type(inputs).__name__}"
