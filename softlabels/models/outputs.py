"""Conversion of a model's return value to one tensor per head.

A Python teacher may return a tensor, a NumPy array, a tuple with one output, a mapping, a dataclass or the ModelOutput
of transformers. Everything else is a typed error that names the type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softlabels.errors import InvalidLogits
from softlabels.models.heads import DEFAULT_HEAD, OutputHead

EXPECTED = (
    "expected a tensor or array of shape (B, C), a mapping or dataclass {head: output}, or an object with `.logits`"
)


def name_outputs(
    value: object, heads: Mapping[str, OutputHead], *, rows: int, spec: str, copy: bool = True
) -> dict[str, Tensor]:
    """Return the outputs of one batch by head.

    Args:
        value: Return value of a model.
        heads: Declared heads; empty if the outputs define them.
        rows: Number of rows B of the batch.
        spec: MODEL specification that messages name.
        copy: If True, no output shares memory with ``value``, which the model may overwrite.

    Returns:
        Tensors (B, *shape, C) without gradient.

    Raises:
        InvalidLogits: The value is not an output, or lacks a declared head.

    Example:
        >>> list(name_outputs({"a": np.zeros((2, 3)), "b": torch.ones(2, 5)}, {}, rows=2, spec="teacher"))
        ['a', 'b']
    """
    named = _select(value, heads, rows=rows, spec=spec)
    return {name: _as_tensor(output, name, spec, copy=copy) for name, output in named.items()}


def outputs_by_head(value: object, heads: Mapping[str, OutputHead], *, rows: int, spec: str) -> dict[str, Tensor]:
    """Return the outputs of a network that is trained, with their gradients.

    Args:
        value: Return value of the network.
        heads: Declared heads.
        rows: Number of rows B of the batch.
        spec: MODEL specification that messages name.

    Raises:
        InvalidLogits: The value is not tensors with gradients, or lacks a declared head.
    """
    named = _select(value, heads, rows=rows, spec=spec)
    for name, output in named.items():
        if not isinstance(output, Tensor) or not output.requires_grad:
            raise InvalidLogits(
                f"{spec}: head {name!r} cannot be trained, got {_describe(output)} without a gradient; expected a "
                "tensor that depends on the parameters"
            )
    return dict(named)


def _select(value: object, heads: Mapping[str, OutputHead], *, rows: int, spec: str) -> dict[str, Any]:
    """Return the declared outputs, or all if none are declared, as the model returned them."""
    only = next(iter(heads)) if len(heads) == 1 else DEFAULT_HEAD
    named = _by_name(value, only, rows=rows, spec=spec)
    missing = [name for name in heads if name not in named]
    if missing:
        raise InvalidLogits(
            f"{spec}: head {missing[0]!r} is missing, got {', '.join(named) or 'no output'}; {EXPECTED}"
        )
    return {name: named[name] for name in heads or named}


def _by_name(value: object, only: str, *, rows: int, spec: str) -> Mapping[str, Any]:
    """Return the outputs by head, as the model returned them."""
    if _is_array(value):
        return {only: value}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        value = dict(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return {only: _only_output(value, rows=rows, spec=spec)}
    if any(kind.__name__ == "ModelOutput" for kind in type(value).__mro__):
        logits = getattr(value, "logits", None)
        if logits is None:
            raise InvalidLogits(f"{spec}: the output has no logits, got {type(value).__name__}; {EXPECTED}")
        return {only: logits}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        named = {str(name): output for name, output in value.items() if output is not None}
        if named:
            return named
    elif _is_array(getattr(value, "logits", None)):
        return {only: value.logits}  # type: ignore[attr-defined]  # an object that is known by this attribute alone
    raise InvalidLogits(f"{spec}: unsupported output, got {_describe(value)}; {EXPECTED}")


def _only_output(values: tuple[object, ...] | list[object], *, rows: int, spec: str) -> object:
    """Return the one entry of a tuple that has a row per input."""
    if len(values) == 1 and not isinstance(values[0], tuple | list | int | float):
        return values[0]
    outputs = [
        value for value in values if _is_array(value) and _shape(value)[:1] == (rows,) and len(_shape(value)) > 1
    ]
    if len(outputs) == 1:
        return outputs[0]
    raise InvalidLogits(
        f"{spec}: ambiguous output, got {_describe(values)}; expected one entry with a row per input. "
        "Return the logits alone, or a mapping {head: output}"
    )


def _is_array(value: object) -> bool:
    """Return True if ``value`` is a tensor, a NumPy array, or converts to one (JAX, TensorFlow, pandas)."""
    return isinstance(value, Tensor) or (hasattr(value, "__array__") and hasattr(value, "shape"))


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape)


def _as_tensor(value: object, name: str, spec: str, *, copy: bool) -> Tensor:
    """Return an output as a dense tensor without gradient."""
    if isinstance(value, Tensor):
        tensor = value.detach()
        if tensor.layout != torch.strided:
            raise InvalidLogits(f"{spec}: head {name!r} is not dense, got {tensor.layout}; expected a strided tensor")
        tensor = tensor.clone(memory_format=torch.contiguous_format) if copy else tensor
    elif _is_array(value):
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise InvalidLogits(f"{spec}: head {name!r} has an unsupported dtype, got {array.dtype}; expected numbers")
        # Always copied: torch also refuses read-only and byte-swapped arrays.
        tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    else:
        raise InvalidLogits(f"{spec}: head {name!r} is not an array, got {_describe(value)}; {EXPECTED}")
    if tensor.is_complex():
        raise InvalidLogits(
            f"{spec}: head {name!r} has an unsupported dtype, got {tensor.dtype}; expected real numbers"
        )
    return tensor


def check_inferable(shapes: Mapping[str, tuple[int, ...]], *, spec: str) -> None:
    """Raise if the kind of an output is a guess: one of several that is not named as logits.

    A single output is taken for logits. Beside others, features and class logits have the same shape, and labels of the
    wrong kind would be trained on without an error.

    Args:
        shapes: Shapes of the outputs for one batch, by head.
        spec: MODEL specification that messages name.

    Raises:
        InvalidLogits: The kind of an output must be declared.

    Example:
        >>> check_inferable({"logits": (8, 10), "aux_logits": (8, 10)}, spec="teacher")
    """
    unclear = [name for name in shapes if name != DEFAULT_HEAD and not name.endswith(DEFAULT_HEAD)]
    if len(shapes) < 2 or not unclear:
        return
    got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    kinds = {name: "embedding" if name in unclear else "classes" for name in shapes}
    raise InvalidLogits(
        f"{spec}: head {unclear[0]!r} has no declared kind, and its shape does not show it, got {got}; expected a "
        f"declaration, such as heads={kinds}, or an attribute `heads` of the model. Outputs that are not declared are "
        "not stored"
    )


def check_outputs(
    outputs: Mapping[str, Tensor], heads: Mapping[str, OutputHead], *, rows: int, positions: int | None, spec: str
) -> None:
    """Raise InvalidLogits unless each output has the shape its head declares.

    Args:
        outputs: Tensors by head.
        heads: Declared heads.
        rows: Number of rows B of the batch.
        positions: Number of positions N of all rows of ragged inputs; None if the inputs are not ragged.
        spec: MODEL specification that messages name.

    Raises:
        InvalidLogits: A shape differs; names the head and both shapes.
    """
    for name, head in heads.items():
        shape = tuple(outputs[name].shape)
        if head.ragged and positions is not None:
            expected: tuple[int, ...] = (positions, head.classes)
        elif head.ragged:
            expected = (rows, *shape[1:-1][:1], head.classes)
        else:
            expected = (rows, *[side for side in head.shape if side is not None], head.classes)
        if shape != expected:
            raise InvalidLogits(
                f"{spec}: head {name!r} has another shape for {rows} rows, got {shape}; expected {expected}"
            )


def _describe(value: object) -> str:
    """Return a short name of a value for messages: its type, and the types inside a container."""
    name = type(value).__name__
    if isinstance(value, Mapping):
        return (
            f"{name} with {', '.join(f'{key!r}: {type(entry).__name__}' for key, entry in value.items()) or 'no keys'}"
        )
    if isinstance(value, tuple | list):
        return f"{name} of {', '.join(_entry(entry) for entry in value[:5]) or 'nothing'}"
    return name


def _entry(value: object) -> str:
    return f"{type(value).__name__} {_shape(value)}" if _is_array(value) else type(value).__name__
