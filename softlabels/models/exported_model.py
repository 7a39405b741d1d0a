"""The model of an exported file: its outputs as heads, and its identity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softlabels.errors import InvalidArgument
from softlabels.labels import HeadKind
from softlabels.models.digest import digest_of
from softlabels.models.exported import ExportedNetwork, heads_of
from softlabels.models.heads import OutputHead
from softlabels.models.kind import ModelSpec
from softlabels.models.model import Model
from softlabels.models.preprocessing import Preprocessing
from softlabels.models.user_code import CodeIdentity


def kinds_of(spec: ModelSpec, metadata: Mapping[str, Any]) -> dict[str, HeadKind]:
    """Return the kinds of outputs by name: as declared, else as ``export-model`` wrote them.

    Args:
        spec: Specification with the declarations of the caller.
        metadata: Heads and preprocessing that ``export-model`` wrote; empty for other files.
    """
    written = {name: OutputHead.from_json(head).kind for name, head in metadata.get("heads", {}).items()}
    return {**written, **spec.declared.kinds}


def preprocessing_of(spec: ModelSpec, metadata: Mapping[str, Any]) -> Preprocessing | None:
    """Return the preprocessing of images that was declared or written; None without any.

    Args:
        spec: Specification with the declarations of the caller.
        metadata: Heads and preprocessing that ``export-model`` wrote; empty for other files.

    Raises:
        InvalidArgument: Preprocessing is declared, and the network does it itself.
    """
    written = metadata.get("preprocessing")
    base = Preprocessing.from_json(written) if isinstance(written, Mapping) else None
    if metadata and base is None and spec.declared.preprocessing:
        raise InvalidArgument(
            f"{spec}: preprocesses images itself, got options of preprocessing; leave out mean=, std=, scale= and "
            "layout="
        )
    return spec.declared.preprocessing_over(base)


def exported_model(
    spec: ModelSpec,
    network: ExportedNetwork,
    sample: Any,
    *,
    config: Mapping[str, Any],
    path: Path,
    not_covered: tuple[str, ...] = (),
) -> Model:
    """Return the model of an exported network, run once to find its heads.

    Args:
        spec: MODEL specification.
        network: The network.
        sample: Some inputs, (n, *input_shape); None: zeros, if the file fixes the shape of the input.
        config: Kind, version and digest of the file; preprocessing and heads are added.
        path: The file.
        not_covered: Clauses on what the digest does not cover.

    Raises:
        InvalidArgument: A sample is needed.
        InvalidLogits: An output is not of its kind.
    """
    preprocessing = network.preprocessing
    inputs = sample
    if inputs is None:
        shape = network.input_spec.shape[1:]
        if preprocessing is not None or None in shape:
            raise InvalidArgument(f"{spec}: a sample of inputs is needed to find the heads, got None")
        inputs = np.zeros((1, *[side or 1 for side in shape]), network.input_spec.dtype)
    with torch.inference_mode():
        outputs = network(torch.as_tensor(np.array(inputs[:1])))
    heads = heads_of(str(spec), outputs, {output.name: output.kind or "classes" for output in network.outputs})
    document = {
        **config,
        "preprocessing": None if preprocessing is None else preprocessing.to_json(),
        "heads": {name: head.to_json() for name, head in heads.items()},
    }
    covers = ("file with its weights", "preprocessing", "kinds of heads", *not_covered)
    return Model(
        spec=str(spec),
        module=network.eval(),
        heads=heads,
        input_shape=tuple(int(side) for side in inputs.shape[1:]),
        config=document,
        identity=CodeIdentity(digest_of(document, {}), covers),
        preprocessing=preprocessing,
        path=path,
    )
