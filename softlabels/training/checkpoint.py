"""Checkpoints: everything that a run needs to resume exactly, in one safetensors file.

The weights, the moments of AdamW and torch's random state are tensors. The step, the identity of the run and a digest
of everything are in the header, so a changed bit anywhere is refused. On a CPU, a run that was killed and resumed ends
with the same bits as one that was not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softlabels.errors import RunCorrupt, StoreConflict
from softlabels.models.digest import digest_of, state_of
from softlabels.models.run_directory import MAX_HEADER_BYTES, tensors_from_bytes, tensors_to_bytes
from softlabels.models.run_files import read_file, write_file

CHECKPOINT_FILE = "checkpoint.safetensors"
METADATA = "softlabels"


def write_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, step: int, identity: str
) -> None:
    """Replace the checkpoint of a run.

    Args:
        folder: Run directory.
        module: Network that is trained.
        optimizer: Its optimiser.
        step: Number of steps that are done.
        identity: Identity of the run.

    Raises:
        StorageFailed: The file cannot be written; the last checkpoint is still there.
    """
    tensors = {f"model/{name}": value for name, value in state_of(module).items()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value)
    tensors["random/cpu"] = torch.get_rng_state()
    device = device_of(module)
    if device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(device)
    header = {"step": step, "identity": identity}
    metadata = json.dumps(header | {"digest": digest_of(header, tensors)}, sort_keys=True)
    write_file(folder, CHECKPOINT_FILE, tensors_to_bytes(tensors, {METADATA: metadata}))


def read_checkpoint(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, identity: str) -> int:
    """Restore the last checkpoint of a run.

    Args:
        folder: Run directory.
        module: Network to restore, in place.
        optimizer: Its optimiser.
        identity: Identity of the run.

    Returns:
        Number of steps that are done; 0 if there is no checkpoint.

    Raises:
        RunCorrupt: The checkpoint is damaged.
        StoreConflict: The checkpoint is of another run.
    """
    path = folder / CHECKPOINT_FILE
    # As large as the network and its moments may be, and no larger.
    size = sum(value.nbytes for value in state_of(module).values())
    try:
        data = read_file(folder, CHECKPOINT_FILE, 4 * size + MAX_HEADER_BYTES)
    except FileNotFoundError:
        return 0
    tensors = tensors_from_bytes(path, data)
    try:
        header = _header(data)
        digest = header.pop("digest")
        if set(header) != {"step", "identity"} or digest_of(header, tensors) != digest:
            raise ValueError("its digest does not match its content")
        if header["identity"] != identity:
            raise StoreConflict(
                f"{path}: a checkpoint of another run, got identity {header['identity'][:16]}; "
                f"expected {identity[:16]}. Name another directory with --out, or delete the file"
            )
        _restore(module, optimizer, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise RunCorrupt(
            f"{path}: the checkpoint is damaged, got {type(error).__name__}: {error}; expected what training wrote. "
            "Delete the file to train from the start"
        ) from None
    return int(header["step"])


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a network: that of its first parameter, or the CPU.

    Args:
        module: The network.
    """
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _header(data: bytes) -> dict[str, Any]:
    """Return the metadata of a safetensors file that was parsed already."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])["__metadata__"]
    if set(header) != {METADATA}:
        raise ValueError("its metadata is not that of a checkpoint")
    value = json.loads(header[METADATA])
    if not isinstance(value, dict) or json.dumps(value, sort_keys=True) != header[METADATA]:
        raise ValueError("its metadata is not that of a checkpoint")
    return value


def _restore(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state = {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
    extra = {name: value for name, value in module.state_dict().items() if not isinstance(value, Tensor)}
    module.load_state_dict(state | extra)
    parameters = dict(module.named_parameters())
    for name, value in tensors.items():
        group, _, rest = name.partition("/")
        if group == "optimizer":
            key, _, parameter_name = rest.partition("/")
            parameter = parameters[parameter_name]
            # AdamW keeps its step count on the CPU, and the moments beside the weights.
            optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
    torch.set_rng_state(tensors["random/cpu"])
    device = device_of(module)
    if device.type == "cuda" and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"], device)
