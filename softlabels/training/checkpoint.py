"""Checkpoints: everything a run needs to go on exactly where it was, in one safetensors file.

Written aside, synced and renamed, so there is always one whole checkpoint. Weights, AdamW's moments and torch's random
state are tensors; the step and the run's identity are in the file's metadata. On a CPU, a run that was killed and
resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from softlabels.errors import RunCorrupt
from softlabels.models import write_atomically

FILE = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def write_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, step: int, identity: str
) -> None:
    """Keep the state after ``step`` steps."""
    tensors: dict[str, Tensor] = {f"model/{name}": tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for moment in MOMENTS:
            tensors[f"optimizer/{moment}/{name}"] = optimizer.state[parameter][moment]
    tensors["random"] = torch.get_rng_state()
    metadata = {"softlabels": json.dumps({"step": step, "identity": identity})}
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    write_atomically(folder / FILE, data)


def read_checkpoint(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore the last checkpoint; the number of steps done, 0 where there is none.

    Raises:
        RunCorrupt: damaged.
    """
    path = folder / FILE
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            step = int(json.loads(file.metadata()["softlabels"])["step"])
        module.load_state_dict(
            {name.removeprefix("model/"): tensor for name, tensor in tensors.items() if name.startswith("model/")}
        )
        for name, parameter in module.named_parameters():
            state = {moment: tensors[f"optimizer/{moment}/{name}"] for moment in MOMENTS}
            # AdamW keeps its step count on the CPU and the moments beside the weights.
            optimizer.state[parameter] = {
                moment: tensor if moment == "step" else tensor.to(parameter.device) for moment, tensor in state.items()
            }
        torch.set_rng_state(tensors["random"])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise RunCorrupt(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it to train from the start"
        ) from None
    return step
