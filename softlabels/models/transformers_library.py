"""The library transformers: its classes by name, its errors, and what it prints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from softlabels.errors import InvalidArgument, InvalidData, SoftLabelsError


def class_of(config: Mapping[str, Any]) -> Any:
    """Return the class of a model.

    Args:
        config: Configuration of the model.

    Raises:
        InvalidArgument: The library is not installed, or has no such class.
    """
    try:
        import transformers
    except ImportError:
        raise InvalidArgument(
            "hf:PATH: the library transformers is not installed. Run pip install 'softlabels[language]'"
        ) from None
    name = str((config.get("architectures") or [""])[0])
    cls = getattr(transformers, name, None) if name.isidentifier() else None
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise InvalidArgument(
            f"hf: unknown architecture, got {name!r}; expected a model class of transformers {transformers.__version__}"
        )
    return cls


def is_known(model_type: str) -> bool:
    """Return True if the library has models of a type.

    Args:
        model_type: Type in a configuration.
    """
    from transformers import AutoConfig

    try:
        AutoConfig.for_model(model_type)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def transformers_errors(folder: Path) -> Iterator[None]:
    """Raise InvalidData for whatever transformers raises while it makes a model.

    Args:
        folder: Directory that the message names.

    Raises:
        InvalidData: An error of transformers was raised.
    """
    try:
        yield
    except SoftLabelsError:
        raise
    except Exception as error:  # noqa: BLE001  each architecture raises errors of its own
        raise InvalidData(
            f"{folder}: transformers cannot load it, got {type(error).__name__}: {error}; expected a complete model. "
            "Correct config.json, or download the model again"
        ) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and reports of transformers while a model is loaded."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
