"""The interface of a kind of MODEL.

A kind builds networks that can be trained (``mlp:width=64``), or loads models that exist (``run:DIR``), or both
(``python:MODULE:NAME``). To add one, add a module with a ``KIND`` to ``softlabels/models/kinds``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray
from torch import Tensor, nn

from softlabels.models.declared import Declared
from softlabels.models.heads import OutputHead

if TYPE_CHECKING:
    from softlabels.models.model import Model

Build: TypeAlias = Callable[["ModelSpec", tuple[int, ...], Mapping[str, OutputHead]], nn.Module]
"""(spec, input_shape, heads) to a network with initial weights from torch's current random state."""

Load: TypeAlias = Callable[["ModelSpec", NDArray[Any] | None], "Model"]
"""(spec, sample of inputs (n, *input_shape)) to a model."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One numeric option of a built-in architecture.

    Attributes:
        default: Value if the specification leaves the option out; its type is the type of the option.
        minimum: Least value.
        maximum: Greatest value.
        omit_default: True for an option that was added to a kind later. Specifications and configurations leave it out
            at its default, so that earlier runs keep their digest.
    """

    default: int | float
    minimum: int | float = 1
    maximum: int | float = 65_536
    omit_default: bool = False


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of MODEL.

    Attributes:
        name: First word of the specification.
        form: Specification with placeholders, for messages and help.
        options: Options of an architecture; None if the text after the colon is free.
        build: Builds a network to train; None if the kind only loads models.
        load: Loads a model that exists; None if the kind only builds networks.
        version: Version of the code of an architecture. Increment it if equal weights would give other outputs: runs of
            other versions are refused.
        runs_user_code: True if the network is code of the user, so that a run directory cannot name it on its own.
        describe: Returns the configuration of a network as JSON values, for kinds whose options do not describe it.
        restore: Rebuilds such a network from that configuration and its tensors.
        needs_sample: Returns whether ``load`` needs a sample of inputs for the text of a specification; None: it never
            does.
        declares: True if ``load`` applies what a caller declares (``ModelSpec.declared``).
    """

    name: str
    form: str
    options: Mapping[str, Option] | None = None
    build: Build | None = None
    load: Load | None = None
    version: int = 1
    runs_user_code: bool = False
    describe: Callable[[nn.Module, Mapping[str, OutputHead]], dict[str, Any]] | None = None
    restore: Callable[[Mapping[str, Any], Mapping[str, Tensor]], nn.Module] | None = None
    needs_sample: Callable[[str], bool] | None = None
    declares: bool = False

    def defaults(self) -> dict[str, int | float]:
        """Return the default of each option; empty for kinds without options."""
        return {name: option.default for name, option in (self.options or {}).items()}


@dataclass(frozen=True)
class ModelSpec:
    """A parsed MODEL specification.

    Attributes:
        kind: Name of the kind.
        options: All options of an architecture, with defaults filled in, but no ``omit_default`` at its default.
        text: Text after ``KIND:`` for kinds without options.
        declared: Heads and preprocessing that the caller declares.
    """

    kind: str
    options: Mapping[str, int | float] = field(default_factory=dict)
    text: str = ""
    declared: Declared = field(default_factory=Declared)

    def __str__(self) -> str:
        if self.text:
            return f"{self.kind}:{self.text}"
        return f"{self.kind}:" + ",".join(f"{name}={value:g}" for name, value in self.options.items())
