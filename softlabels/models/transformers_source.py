"""The directory and the options that ``hf:`` names: ``hf:PATH``, or ``hf:OWNER/NAME@REVISION`` of a hub.

Options stand behind it: ``hf:./Qwen,dtype=bfloat16,attention=sdpa``. A model of a hub is named by its commit, so that
the same specification is the same model next year. Only configuration, tokenizer and safetensors are downloaded; code
and pickles never are.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softlabels.errors import DataNotFound, InvalidArgument, InvalidData
from softlabels.models.kind import ModelSpec
from softlabels.models.spec_options import split_options

OPTIONS = {
    "dtype": ("auto", "float32", "float16", "bfloat16"),
    "attention": ("eager", "sdpa", "flash_attention_2", "flex_attention"),
    "quantization": ("8bit", "4bit"),
    "device_map": (),
}
"""Values of each option; any text for the last, which is passed on to transformers."""

QUANTIZER = "bitsandbytes"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
DOWNLOADED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class TransformersSource:
    """A model that transformers saved.

    Attributes:
        spec: Specification with the commit of a hub's model.
        folder: Its directory.
        options: Options by name, as they were typed.
    """

    spec: str
    folder: Path
    options: dict[str, str]

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of ``from_pretrained`` that the options stand for."""
        arguments: dict[str, Any] = {"dtype": self.options.get("dtype", "auto")}
        if (attention := self.options.get("attention")) is not None:
            arguments["attn_implementation"] = attention
        if (place := self.options.get("device_map")) is not None:
            arguments["device_map"] = place
        if (bits := self.options.get("quantization")) is not None:
            from transformers import BitsAndBytesConfig

            arguments["quantization_config"] = BitsAndBytesConfig(**{f"load_in_{bits}": True})
        return arguments


def locate(spec: ModelSpec, *, pinned: bool = False) -> TransformersSource:
    """Return the directory of a specification, downloaded if it is of a hub.

    Args:
        spec: Specification of the kind ``hf``.
        pinned: If True, a model of a hub must be named by its commit.

    Raises:
        InvalidArgument: An option is unknown or cannot be used here, or the revision of a hub's model is missing.
        DataNotFound: There is no such model, or it cannot be downloaded.
        InvalidData: The model has no safetensors.
    """
    text, options = split_options(spec, tuple(OPTIONS))
    _check(options, str(spec))
    match = HUB_ID.fullmatch(text)
    if match is None or Path(text).exists():
        return TransformersSource(str(spec), Path(text), options)
    name, revision = match.groups()
    if revision is None:
        raise DataNotFound(
            f"hf:{text}: there is no such directory, and no revision of a model of a hub; expected a directory that "
            f"transformers saved, or hf:{name}@COMMIT. The page of the model lists its commits"
        )
    commit, folder = _download(name, revision, pinned=pinned)
    return TransformersSource(str(spec).replace(f"{name}@{revision}", f"{name}@{commit}", 1), folder, options)


def _check(options: dict[str, str], spec: str) -> None:
    """Raise InvalidArgument for values of options that are unknown or cannot be used on this machine."""
    import torch

    for name, value in options.items():
        if OPTIONS[name] and value not in OPTIONS[name]:
            raise InvalidArgument(f"MODEL {spec!r}: unknown {name}, got {value!r}; expected {', '.join(OPTIONS[name])}")
    if options.get("attention") == "flex_attention" and not torch.cuda.is_available():
        raise InvalidArgument(
            f"MODEL {spec!r}: flex_attention needs CUDA, got a machine without it; expected sdpa or eager"
        )
    for name, library, extra in (("device_map", "accelerate", "devices"), ("quantization", QUANTIZER, "quantization")):
        if name in options and importlib.util.find_spec(library) is None:
            raise InvalidArgument(
                f"MODEL {spec!r}: {name} needs the library {library}, which is not installed. Run pip install "
                f"'softlabels[{extra}]'"
            )


def _download(name: str, revision: str, *, pinned: bool) -> tuple[str, Path]:
    """Return the commit of a revision, and the directory that its files were downloaded to."""
    try:
        import huggingface_hub
    except ImportError:
        raise InvalidArgument(
            f"hf:{name}@{revision}: needs the library huggingface_hub, which is not installed. Run pip install "
            "'softlabels[hub]'"
        ) from None
    subject = f"hf:{name}@{revision}"
    try:
        commit = revision
        if not COMMIT.fullmatch(revision):
            commit = str(huggingface_hub.HfApi().model_info(name, revision=revision).sha)
            if pinned:
                raise InvalidArgument(
                    f"{subject}: a revision that moves, got {revision!r}; expected its commit, so that the run can be "
                    f"repeated: hf:{name}@{commit}"
                )
        folder = Path(huggingface_hub.snapshot_download(name, revision=commit, allow_patterns=list(DOWNLOADED)))
        if not any(folder.glob("*.safetensors")):
            files = [
                file.rfilename for file in huggingface_hub.HfApi().model_info(name, revision=commit).siblings or ()
            ]
            _require_safetensors(subject, files)
    except (InvalidArgument, InvalidData):
        raise
    except Exception as error:  # noqa: BLE001  the library raises errors of HTTP, of files and of its own
        first = next(iter(str(error).strip().splitlines()), "no message")
        raise DataNotFound(
            f"{subject}: cannot be downloaded, got {type(error).__name__}: {first}; expected a model of the hub. "
            "Check name, revision and network; the token of a private model is that of `hf auth login`"
        ) from None
    return commit, folder


def _require_safetensors(subject: str, files: list[str]) -> None:
    """Raise InvalidData if a model of a hub has pickled weights alone; one without any is a configuration."""
    pickled = next((name for name in files if name.endswith(PICKLED)), None)
    if pickled is not None:
        raise InvalidData(
            f"{subject}: the weights are pickled, got {pickled}; expected safetensors, because a pickle runs code when "
            "it is loaded. Use a revision with safetensors (hubs convert models on request), or convert it"
        )
