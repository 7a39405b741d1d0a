"""A model: a network, what it eats, what it gives, and a digest that names exactly this one.

Teacher and student are both models. The digest is BLAKE3 over the canonical configuration and every tensor of the
state in the order of names, so two teachers with one digest say the same things.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor, nn

from softlabels.errors import InvalidArgument, InvalidLogits, RunCorrupt
from softlabels.models.architectures import ARCHITECTURES, Standardize, build_module
from softlabels.models.runs import read_run, read_weights
from softlabels.models.spec import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network ready to use.

    Attributes:
        spec: the MODEL specification it came from.
        module: the network; from (B, *input_shape) to (B, classes) logits.
        classes: width of its output.
        input_shape: shape of one input.
        config: what rebuilds it (without the weights), as JSON values; empty for the user's own code.
        run: description of the run it was loaded from, if any.
        path: its run directory, if any.
    """

    spec: str
    module: nn.Module
    classes: int
    input_shape: tuple[int, ...]
    config: Mapping[str, Any]
    run: Mapping[str, Any] | None = None
    path: Path | None = None

    @property
    def digest(self) -> str:
        """BLAKE3 over configuration and weights, hexadecimal."""
        return model_digest(self.config, self.module.state_dict())

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model without any."""
        return next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))

    def to(self, device: str | None) -> Model:
        """This model in evaluation mode on ``device``; None: an accelerator where there is one.

        Raises:
            InvalidArgument: there is no such device.
        """
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return replace(self, module=self.module.to(chosen).eval())
        except (RuntimeError, AssertionError) as error:
            raise InvalidArgument(f"device {chosen!r} cannot be used: {error}") from error

    def logits(self, inputs: NDArray[np.generic] | Tensor) -> Tensor:
        """What the model says, in inference mode: (B, *input_shape) to (B, classes) on its device.

        Raises:
            InvalidLogits: the network gave something other than a matrix with a row per input.
        """
        with torch.inference_mode(), evaluating(self.module):
            outputs = self.module(as_tensor(inputs).to(self.device))
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(inputs):
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise InvalidLogits(f"{self.spec} gave {got} for {len(inputs)} rows; logits of shape (B, C) are expected")
        return outputs


def as_tensor(inputs: NDArray[np.generic] | Tensor) -> Tensor:
    """Inputs as a tensor; copied only where the array is read-only (a memory map, say), which torch does not allow."""
    return inputs if isinstance(inputs, Tensor) else torch.from_numpy(np.require(inputs, requirements=["W", "C"]))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and back in the mode it was in."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def model_digest(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """BLAKE3 over the canonical JSON of ``config`` and, by name, each tensor's name, dtype, shape and bytes."""
    hasher = blake3(b"softlabels model 1\0")
    hasher.update(json.dumps(dict(config), sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return str(hasher.hexdigest())


def build(
    spec: str,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    seed: int = 0,
    mean: float = 0.0,
    std: float = 1.0,
) -> Model:
    """A freshly initialised built-in model.

    Args:
        spec: ``mlp`` or ``cnn`` with options, e.g. ``cnn:width=64,depth=3``.
        input_shape: shape of one input.
        classes: width of the output.
        seed: of the initial weights; torch's global random state is left as it was.
        mean: of the training inputs, for standardising.
        std: as mean.

    Raises:
        InvalidArgument: not a built-in architecture, or one that cannot take these inputs.
    """
    parsed = parse(spec, ARCHITECTURES)
    if parsed.kind not in ARCHITECTURES:
        raise InvalidArgument(f"MODEL {spec!r} cannot be trained from the start; use one of {', '.join(ARCHITECTURES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build_module(parsed.kind, parsed.options, input_shape=input_shape, classes=classes)
    for part in module.modules():
        if isinstance(part, Standardize):
            part.mean.fill_(mean)
            part.std.fill_(std if std > 0 else 1.0)
    config = {
        "architecture": parsed.kind,
        "options": dict(parsed.options),
        "input_shape": list(input_shape),
        "classes": classes,
    }
    return Model(spec=str(parsed), module=module, classes=classes, input_shape=input_shape, config=config)


def load(spec: str, *, sample: NDArray[np.generic] | None = None) -> Model:
    """A model that exists: ``run:DIR`` or ``python:MODULE:NAME``.

    Args:
        spec: the MODEL specification.
        sample: (n, *input_shape) some inputs, to learn the output width of the user's own code.

    Raises:
        InvalidArgument: a specification that names no finished model, or inputs of another shape than the run's.
        DataNotFound: no such run.
        RunCorrupt: a damaged run.
    """
    parsed = parse(spec, ARCHITECTURES)
    if parsed.kind == "python":
        return wrap(_import(parsed.rest), sample=sample, spec=spec)
    if parsed.kind != "run":
        raise InvalidArgument(f"MODEL {spec!r} is an architecture without weights; train it, then name run:DIR")
    model = load_run(Path(parsed.rest))
    if sample is not None and sample.shape[1:] != model.input_shape:
        raise InvalidArgument(f"{spec} takes inputs of shape {model.input_shape}; the data has {sample.shape[1:]}")
    return model


def load_run(folder: Path) -> Model:
    """The model of a run directory, checked against the digest in its description.

    Raises:
        DataNotFound: no finished run there.
        RunCorrupt: damaged, or weights that are not the ones described.
    """
    run = read_run(folder)
    tensors = read_weights(folder)
    try:
        config = run["model"]["config"]
        shape, classes = tuple(config["input_shape"]), int(config["classes"])
        module = build_module(config["architecture"], config["options"], input_shape=shape, classes=classes)
        module.load_state_dict(tensors)
        expected = run["model"]["digest"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunCorrupt(f"{folder} is not whole: {error}. Copy it again, or train again") from error
    model = Model(
        spec=f"run:{folder}",
        module=module.eval(),
        classes=classes,
        input_shape=shape,
        config=config,
        run=run,
        path=folder,
    )
    if model.digest != expected:
        raise RunCorrupt(f"{folder}: the weights are not those run.json describes (digest differs). Copy it again")
    return model


def wrap(
    function: Callable[[Tensor], Tensor],
    *,
    sample: NDArray[np.generic] | None = None,
    spec: str = "python:callable",
) -> Model:
    """The user's own module or function from a batch of inputs to logits, as a model.

    A function without weights is named by ``spec`` alone: what its digest says is only that.

    Args:
        function: a ``torch.nn.Module`` or any callable.
        sample: (n, *input_shape) some inputs, run once to learn the number of classes.
        spec: what to call it.

    Raises:
        InvalidArgument: no sample was given.
        InvalidLogits: it does not give (B, C) logits.
    """
    if sample is None:
        raise InvalidArgument(f"{spec}: the number of classes is learned by running it; give some inputs")
    module = function if isinstance(function, nn.Module) else _Function(function)
    model = Model(
        spec=spec, module=module.eval(), classes=0, input_shape=tuple(sample.shape[1:]), config={"python": spec}
    )
    return replace(model, classes=model.logits(sample).shape[1])


class _Function(nn.Module):
    """A plain callable as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        """What the function says."""
        return self.function(inputs)


def _import(name: str) -> Callable[[Tensor], Tensor]:
    """MODULE:NAME, a module or callable on tensors, or a class or factory without arguments that gives one."""
    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise InvalidArgument(f"MODEL 'python:{name}' lacks the name inside the module; it is python:MODULE:NAME")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as python -m does, so that a teacher may stand beside the data
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise InvalidArgument(f"MODEL 'python:{name}' cannot be imported: {error}") from error
    if isinstance(found, type):
        found = found()
    if not callable(found):
        raise InvalidArgument(f"MODEL 'python:{name}' is {type(found).__name__}, which cannot be called on a batch")
    return found  # type: ignore[no-any-return]  # whatever the user wrote
