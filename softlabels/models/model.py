"""A model: a network or function that maps inputs to named outputs, and a digest that names it.

Teacher and student are both models. ``predict`` is the only way to run one. It never hands memory of the data to code
of the user, and never returns memory that such code may overwrite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softlabels.errors import InvalidArgument, InvalidLogits
from softlabels.labels import HeadKind
from softlabels.models.digest import digest_of, tensors_of
from softlabels.models.failures import user_errors
from softlabels.models.heads import OutputHead
from softlabels.models.outputs import check_inferable, check_outputs, name_outputs
from softlabels.models.preprocessing import Preprocessing
from softlabels.models.run_record import RunRecord
from softlabels.models.sliced_logits import SlicedLogits
from softlabels.models.user_code import CodeIdentity, identify
from softlabels.sources import Ragged, map_arrays
from softlabels.text import LABELLED, Tokenizer
from softlabels.text.options import Target

CPU = torch.device("cpu")

MAX_LOGITS_BYTES = 2**28
"""Bytes of the float32 logits of a batch above which they are computed slice by slice."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network or function that is ready to use.

    Attributes:
        spec: MODEL specification it came from.
        module: The network; maps (B, *input_shape) to a tensor, or to tensors by head.
        heads: Outputs by name.
        input_shape: Shape of one input.
        config: Configuration of a built-in architecture as JSON values; empty for code of the user.
        device: Device that inputs are moved to.
        user_code: True if the network is code of the user, which may keep and overwrite the memory it sees.
        identity: Digest that was computed before the first batch; None: computed when it is needed.
        run: Description of the run it was loaded from; None for other models.
        path: Directory of that run, or file of an exported network.
        tokenizer: Tokenizer of a language model; None for other models.
        preprocessing: Preprocessing of images, which the network runs itself; None for other models.
    """

    spec: str
    module: nn.Module
    heads: Mapping[str, OutputHead]
    input_shape: tuple[int, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = CPU
    user_code: bool = False
    identity: CodeIdentity | None = None
    run: RunRecord | None = None
    path: Path | None = None
    tokenizer: Tokenizer | None = None
    preprocessing: Preprocessing | None = None

    @property
    def digest(self) -> str:
        """The digest of the model: BLAKE3, 64 hexadecimal digits."""
        return self._identity().digest

    @property
    def digest_covers(self) -> tuple[str, ...]:
        """The parts that the digest covers, in words."""
        return self._identity().covers

    def _identity(self) -> CodeIdentity:
        if self.identity is not None:
            return self.identity
        if self.user_code:
            return identify(self.module, self.spec)
        tensors = tensors_of(self.module)
        covers = ("configuration and code version", f"parameters and buffers ({len(tensors)} tensors)")
        return CodeIdentity(digest_of(self.config, tensors), covers)

    @property
    def classes(self) -> int:
        """The number of classes of the only head.

        Raises:
            InvalidArgument: The model has several heads.
        """
        if len(self.heads) != 1:
            raise InvalidArgument(f"{self.spec}: has several heads, got {', '.join(self.heads)}; expected one")
        return next(iter(self.heads.values())).classes

    def to(self, device: str | torch.device | None) -> Model:
        """Return this model on another device; the network itself is moved, as torch does.

        Args:
            device: A torch device; None: an accelerator if there is one and the model has parameters.

        Raises:
            InvalidArgument: The device does not exist or has too little memory.
        """
        if getattr(self.module, "placed", False):
            if device is not None:
                raise InvalidArgument(
                    f"{self.spec}: its layers have devices already, got device {str(device)!r}; expected none. Leave "
                    "out device=, or device_map"
                )
            return self
        has_parameters = next(self.module.parameters(), None) is not None
        if device is None and not (has_parameters and torch.cuda.is_available()):
            return self
        name = "cuda" if device is None else device
        try:
            torch.empty(0, device=name)
            return replace(self, module=self.module.to(name), device=torch.device(name))
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise InvalidArgument(
                f"device: cannot be used, got {str(name)!r} ({error}); expected a device of this machine, such as cpu"
            ) from error

    def predict(self, inputs: Any) -> dict[str, Tensor]:
        """Return the outputs for a batch, in evaluation mode and without gradients.

        Args:
            inputs: (B, *input_shape) as an array or tensor, Ragged, or a structure of them.

        Returns:
            A tensor per head on the model's device: (B, *shape, C), or (N, C) for the N positions of ragged rows. The
            memory belongs to the caller, except for the parameters of built-in networks.

        Raises:
            InvalidLogits: An output is missing or has another shape or type.
            ModelFailed: The code of the user raised an error; names its line and the shape of the inputs.

        Example:
            >>> from softlabels.models import as_model
            >>> inputs = np.ones((2, 3), np.float32)
            >>> as_model(lambda x: 2 * x, sample=inputs).predict(inputs)["logits"].tolist()
            [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
        """
        rows, positions = count_rows(inputs)
        outputs = select_labelled(self._outputs(inputs, rows), inputs)
        check_outputs(outputs, self.heads, rows=rows, positions=positions, spec=self.spec)
        return outputs

    def predict_sliced(self, inputs: Any, *, max_bytes: int = MAX_LOGITS_BYTES) -> dict[str, Tensor | SlicedLogits]:
        """Return the outputs for a batch; logits that are too large are computed when slices of them are read.

        Args:
            inputs: As for ``predict``.
            max_bytes: Bytes of float32 logits above which they are sliced. Only built-in networks that offer ``states``
                and ``project`` can do so; for others see ``predict``.

        Raises:
            InvalidLogits: As for ``predict``.
        """
        positions = count_rows(inputs)[1]
        name, head = next(iter(self.heads.items()))
        if self.listed is not None:
            listed: Any = self.module
            return {name: listed.listed_logits(inputs)}
        small = positions is None or 4 * positions * head.classes <= max_bytes
        together = getattr(self.module, "states_and_outputs", None)
        slices_all = len(self.heads) == 1 or together is not None
        if small or self.user_code or not slices_all or not is_sliceable(self.module):
            return dict(self.predict(inputs))
        tensors = map_arrays(inputs, lambda array: to_device(array, self.device, copy=False))
        with torch.inference_mode(), evaluating(self.module):
            states, others = (self.module.states(tensors), {}) if together is None else together(tensors)
        if len(states) != positions:
            raise InvalidLogits(f"{self.spec}: got states of {len(states)} positions; expected {positions}")
        heads = {other: self.heads[other] for other in others}
        check_outputs(others, heads, rows=count_rows(inputs)[0], positions=positions, spec=self.spec)
        return {name: SlicedLogits(states, self.module.project, classes=head.classes), **others}

    @property
    def listed(self) -> int | None:
        """The number of likeliest classes per position that the model tells; None if it tells the logits."""
        count = getattr(self.module, "count", None)
        return count if not self.user_code and callable(getattr(self.module, "listed_logits", None)) else None

    @property
    def target(self) -> Target:
        """Target of the outputs: the ``next`` token of each position, each ``token``, or the ``row``."""
        if not any(head.ragged for head in self.heads.values()):
            return "row"
        return "next" if getattr(self.module, "predicts_next", True) else "token"

    def infer_heads(self, inputs: Any, kinds: Mapping[str, HeadKind] | None = None) -> dict[str, OutputHead]:
        """Return the heads that the outputs for a batch show.

        Args:
            inputs: As for ``predict``.
            kinds: Kinds of the heads to use; None or empty: all outputs, whose kinds are inferred from their shapes.

        Raises:
            InvalidLogits: An output does not have a row per input, or its layout or kind cannot be inferred.
            ModelFailed: The code of the user raised an error.
        """
        rows, positions = count_rows(inputs)
        outputs = select_labelled(self._outputs(inputs, rows), inputs)
        if kinds:
            missing = next((name for name in kinds if name not in outputs), None)
            if missing is not None:
                raise InvalidLogits(
                    f"{self.spec}: head {missing!r} is missing, got {', '.join(outputs)}; expected the declared heads"
                )
            outputs = {name: outputs[name] for name in kinds}
        else:
            check_inferable({name: tuple(output.shape) for name, output in outputs.items()}, spec=self.spec)
        heads = {}
        for name, output in outputs.items():
            shape = tuple(output.shape)
            if kinds:
                heads[name] = OutputHead(classes=shape[-1], kind=kinds[name], shape=shape[1:-1])
            elif positions is not None and len(shape) == 2 and shape[0] == positions:
                heads[name] = OutputHead(classes=shape[1], kind="tokens", shape=(None,))
            else:
                heads[name] = OutputHead.of_output(name, shape, spec=self.spec)
        check_outputs(outputs, heads, rows=rows, positions=positions, spec=self.spec)
        return heads

    def _outputs(self, inputs: Any, rows: int) -> dict[str, Tensor]:
        """Run the network on inputs it may overwrite, and return outputs that it cannot."""
        tensors = map_arrays(inputs, lambda array: to_device(array, self.device, copy=self.user_code))
        # Code of the user may keep tensors for a later backward pass, which inference mode forbids.
        without_gradients = torch.no_grad() if self.user_code else torch.inference_mode()
        with without_gradients, evaluating(self.module):
            with user_errors(self.spec, inputs):
                value = self.module(tensors)
            return name_outputs(value, self.heads, rows=rows, spec=self.spec, copy=self.user_code)


def as_tensor(array: NDArray[np.generic] | Tensor) -> Tensor:
    """Return a tensor over the memory of an array; read-only arrays are copied, which torch requires.

    Args:
        array: Array or tensor of any shape.
    """
    return array if isinstance(array, Tensor) else torch.from_numpy(np.require(array, requirements=["W", "C"]))


def to_device(array: NDArray[np.generic] | Tensor, device: torch.device, *, copy: bool) -> Tensor:
    """Return an array as a tensor on a device.

    Args:
        array: Array or tensor of any shape.
        device: Where the tensor is needed.
        copy: If True, the tensor never shares memory with ``array``.
    """
    if copy and isinstance(array, np.ndarray) and device.type == "cpu":
        return torch.from_numpy(np.array(array, order="C"))
    tensor = as_tensor(array)
    moved = tensor.to(device)
    return moved.clone() if copy and moved is tensor else moved


def is_sliceable(module: nn.Module) -> TypeGuard[Any]:
    """Return True if a network computes states of positions and logits of states separately.

    Args:
        module: The network.
    """
    return callable(getattr(module, "states", None)) and callable(getattr(module, "project", None))


def select_labelled(outputs: dict[str, Tensor], inputs: Any) -> dict[str, Tensor]:
    """Return outputs with one entry per token reduced to the labelled positions; others are returned unchanged.

    Args:
        outputs: Tensors by head.
        inputs: Inputs of the batch.
    """
    if not isinstance(inputs, Ragged) or inputs.marks is None:
        return outputs
    labelled = torch.as_tensor((inputs.marks & LABELLED) > 0)
    tokens = len(labelled)
    return {
        name: output[labelled.to(output.device)] if output.shape[:1] == (tokens,) and not labelled.all() else output
        for name, output in outputs.items()
    }


def count_rows(inputs: Any) -> tuple[int, int | None]:
    """Return the number of rows of a batch, and the number of (labelled) positions if its rows are ragged.

    Args:
        inputs: Inputs of a batch.

    Raises:
        InvalidArgument: The structure holds no array.
    """
    if isinstance(inputs, Ragged):
        return len(inputs), len(inputs.values) if inputs.marks is None else int(((inputs.marks & LABELLED) > 0).sum())
    if isinstance(inputs, np.ndarray | Tensor):
        return len(inputs), None
    entries = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    if isinstance(entries, list | tuple):
        for entry in entries:
            if isinstance(entry, np.ndarray | Tensor | Ragged | Mapping | list | tuple):
                return count_rows(entry)
        if isinstance(inputs, list | tuple) and entries:
            return len(entries), None
    raise InvalidArgument(f"inputs of a model: no array, got {type(inputs).__name__}; expected (B, *input_shape)")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation mode, and restore the mode of each layer afterwards.

    Args:
        module: The network.
    """
    modes = [(layer, layer.training) for layer in module.modules()]
    if not any(training for _, training in modes):
        yield
        return
    module.eval()
    try:
        yield
    finally:
        module.train(modes[0][1])
        for layer, training in modes:
            if layer.training != training:
                layer.training = training
