"""Networks in files of other tools: the input they take, and outputs in the layout of heads.

An exported network is a function from one array to named arrays. This module feeds it images in its own layout and
batch size, turns probabilities back into logarithms, moves the class axis last, and finds the kinds of the heads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softlabels.errors import InvalidArgument, InvalidLogits
from softlabels.labels import HeadKind
from softlabels.models.heads import DEFAULT_HEAD, OutputHead
from softlabels.models.preprocessing import Preprocessing

Run = Callable[[NDArray[Any]], Sequence[NDArray[Any]]]
"""Function from the input to the outputs, in the order of their specifications."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The input of an exported network.

    Attributes:
        name: Name of the input.
        shape: Sizes of its axes, the batch first; None for an axis of any size.
        dtype: NumPy dtype.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    @property
    def batch(self) -> int | None:
        """The number of rows that each call takes; None for any."""
        return self.shape[0] if self.shape else None


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """An output of an exported network.

    Attributes:
        name: Name of the head.
        kind: Meaning of the values; None: unknown.
        softmax_axis: Axis along which the values are probabilities; None if they are none.
        channels_first: True if axis 1 of an output with four axes are the classes.
    """

    name: str
    kind: HeadKind | None = None
    softmax_axis: int | None = None
    channels_first: bool = True

    def arranged(self, values: Tensor) -> Tensor:
        """Return values as a head has them: logarithms in place of probabilities, classes last.

        Args:
            values: Output of the network, (B, ...).
        """
        if self.softmax_axis is not None:
            values = values.float().log()
        if self.kind == "pixels" and values.ndim == 4 and self.class_axis(values.ndim) == 1:
            return values.permute(0, 2, 3, 1)
        if self.kind == "regression" and values.ndim == 4 and self.channels_first:
            return values.permute(0, 2, 3, 1)
        if self.kind == "regression" and values.ndim in {1, 3}:
            return values.unsqueeze(-1)
        return values

    def class_axis(self, axes: int) -> int:
        """Return the axis of the classes.

        Args:
            axes: Number of axes of the output.
        """
        if self.softmax_axis is not None:
            return self.softmax_axis % axes
        return 1 if self.channels_first and axes == 4 else axes - 1


class ExportedNetwork(nn.Module):
    """A network that another tool runs.

    Args:
        spec: MODEL specification that messages name.
        run: Function from the input to the outputs.
        input_spec: The input.
        outputs: The outputs in their order.
        preprocessing: Preprocessing of images; None: inputs are passed as they are.
    """

    def __init__(
        self,
        spec: str,
        run: Run,
        input_spec: InputSpec,
        outputs: Sequence[OutputSpec],
        preprocessing: Preprocessing | None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.run = run
        self.input_spec = input_spec
        self.outputs = tuple(outputs)
        self.preprocessing = preprocessing

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs by head.

        Args:
            inputs: (B, *input_shape) of any numeric dtype.

        Raises:
            InvalidArgument: The network takes inputs of another shape or dtype.
            InvalidLogits: An output does not have a row per input.
        """
        prepared = inputs if self.preprocessing is None else self.preprocessing.apply(inputs)
        array = self._checked(prepared.cpu().numpy())
        batch = self.input_spec.batch or len(array)
        blocks = [self._run_block(array[start : start + batch], batch) for start in range(0, len(array), batch)]
        return {
            output.name: output.arranged(torch.cat([block[index] for block in blocks])).to(inputs.device)
            for index, output in enumerate(self.outputs)
        }

    def _run_block(self, rows: NDArray[Any], batch: int) -> list[Tensor]:
        """Return the outputs of at most ``batch`` rows; a network of a fixed batch sees copies of the last row."""
        missing = batch - len(rows)
        full = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows
        tensors = []
        for output, value in zip(self.outputs, self.run(np.ascontiguousarray(full)), strict=True):
            if value.ndim == 0 or len(value) != batch:
                raise InvalidLogits(
                    f"{self.spec}: output {output.name!r} does not have a row per input, got shape {value.shape} for "
                    f"{batch} rows; expected ({batch}, ...). Name the outputs to use with heads={{'NAME': KIND}}"
                )
            if value.dtype.kind != "f":
                raise InvalidLogits(
                    f"{self.spec}: output {output.name!r} has an unsupported dtype, got {value.dtype}; expected "
                    "floats, such as logits. Name the outputs to use with heads={'NAME': KIND}"
                )
            tensors.append(torch.from_numpy(np.array(value[: len(rows)], np.float32)))
        return tensors

    def _checked(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the input in the dtype of the network, once its shape is sure to be the network's."""
        expected = self.input_spec.shape
        if len(expected) != array.ndim or any(
            side is not None and side != actual for side, actual in zip(expected[1:], array.shape[1:], strict=True)
        ):
            shown = ", ".join("any" if side is None else str(side) for side in expected[1:])
            raise InvalidArgument(
                f"{self.spec}: input {self.input_spec.name!r} has another shape, got {array.shape[1:]} after "
                f"preprocessing; expected ({shown}) per row. {self._advice(array)}"
            )
        if np.can_cast(array.dtype, self.input_spec.dtype, "same_kind") or self.input_spec.dtype.kind == "f":
            return array.astype(self.input_spec.dtype, copy=False)
        if array.dtype.kind in "iu" and self.input_spec.dtype.kind in "iu":
            return array.astype(self.input_spec.dtype)
        raise InvalidArgument(
            f"{self.spec}: input {self.input_spec.name!r} has another dtype, got {array.dtype}; expected "
            f"{self.input_spec.dtype}. Convert the data, or use scale='1' for images"
        )

    def _advice(self, array: NDArray[Any]) -> str:
        if len(self.input_spec.shape) == 4 and array.ndim in {3, 4}:
            return "Name size=, and layout='nchw' or layout='nhwc', as the network was trained"
        return "Use the data that the network was trained for"


def check_images(spec: str, input_spec: InputSpec, sample: Any, preprocessing: Preprocessing | None) -> None:
    """Raise InvalidArgument if images would reach a network without anybody saying how they are scaled.

    Args:
        spec: MODEL specification that messages name.
        input_spec: Input of the network.
        sample: Some inputs, (n, *input_shape); None is not checked.
        preprocessing: Declared preprocessing.

    Raises:
        InvalidArgument: The inputs are 8-bit images, the network takes floats, and nothing is declared.
    """
    dtype = getattr(sample, "dtype", None)
    is_image = len(input_spec.shape) == 4 and dtype is not None and str(dtype).removeprefix("torch.") == "uint8"
    if is_image and input_spec.dtype.kind == "f" and preprocessing is None:
        raise InvalidArgument(
            f"{spec}: the preprocessing of images is unknown, got 8-bit images for an input of {input_spec.dtype}; "
            "expected scale= (1 for raw values, 1/255), and mean= and std= if the network was trained with them"
        )


def select_outputs(
    spec: str, names: Sequence[str], shown: Mapping[str, OutputSpec], kinds: Mapping[str, HeadKind]
) -> list[tuple[str, OutputSpec]]:
    """Return the outputs that become heads: those with a declared kind, or else all.

    Args:
        spec: MODEL specification that messages name.
        names: Names of the outputs in their order.
        shown: What the file shows of each output.
        kinds: Declared kinds, by name of the output or of the head.

    Raises:
        InvalidArgument: A declared output does not exist, or the kind of an output is unknown.
    """
    heads = {name: identifier(name) for name in names}
    unknown = [name for name in kinds if name not in heads and name not in heads.values()]
    if unknown:
        raise InvalidArgument(f"{spec}: no output {unknown[0]!r}, got {', '.join(names)}; expected one of them")
    selected = []
    for name in names:
        kind = kinds.get(name) or kinds.get(heads[name])
        if kind is None and kinds:
            continue
        known = kind or shown[name].kind
        if known is None:
            raise InvalidArgument(
                f"{spec}: the meaning of output {name!r} is unknown; expected heads={{{name!r}: KIND}}, with a KIND of "
                "classes, pixels, regression or embedding"
            )
        output = shown[name]
        if output.softmax_axis is not None and known not in {"classes", "pixels", "tokens"}:
            raise InvalidArgument(
                f"{spec}: output {name!r} holds probabilities of a softmax, got heads={{{name!r}: {known!r}}}; "
                "expected classes or pixels"
            )
        selected.append(
            (
                name,
                OutputSpec(
                    name=heads[name],
                    kind=known,
                    softmax_axis=output.softmax_axis,
                    channels_first=output.channels_first,
                ),
            )
        )
    if len({output.name for _, output in selected}) < len(selected):
        raise InvalidArgument(f"{spec}: two outputs have one name as heads, got {', '.join(names)}; rename one")
    return selected


def heads_of(spec: str, outputs: Mapping[str, Tensor], kinds: Mapping[str, HeadKind]) -> dict[str, OutputHead]:
    """Return the heads that outputs of declared kinds show.

    Args:
        spec: MODEL specification that messages name.
        outputs: Outputs by head for a batch, classes last.
        kinds: Kind of each head.

    Raises:
        InvalidLogits: An output has another number of axes than its kind.
    """
    axes = {"classes": {2}, "embedding": {2}, "tokens": {3}, "pixels": {4}, "regression": {2, 3, 4}}
    heads = {}
    for name, output in outputs.items():
        kind, shape = kinds[name], tuple(output.shape)
        if len(shape) not in axes[kind]:
            raise InvalidLogits(
                f"{spec}: output {name!r} cannot be {kind}, got shape {shape}; expected "
                f"{' or '.join(str(count) for count in sorted(axes[kind]))} axes. Name its kind with "
                f"heads={{{name!r}: KIND}}"
            )
        heads[name] = OutputHead(classes=shape[-1], kind=kind, shape=shape[1:-1])
    return heads


def needs_sample(text: str) -> bool:
    """Return True: the heads of an exported network are those of its outputs for a sample."""
    return True


def identifier(name: str) -> str:
    """Return the name of a head for the name of an output: letters, digits and underscores.

    Args:
        name: Name of the output, such as ``StatefulPartitionedCall:0``.

    Example:
        >>> identifier("logits"), identifier("Identity:0")
        ('logits', 'Identity_0')
    """
    text = re.sub(r"[^0-9A-Za-z_]", "_", name) or DEFAULT_HEAD
    return f"head_{text}"[:64] if text[0].isdigit() else text[:64]
