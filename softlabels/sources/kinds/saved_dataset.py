"""Folders that ``datasets.Dataset.save_to_disk`` wrote."""

from __future__ import annotations

from pathlib import Path

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.sources.hugging_face import HuggingFaceTable
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest

FILES = ("dataset_info.json", "state.json")


def _holds(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES) or (folder / "dataset_dict.json").is_file()


def _open(request: OpenRequest) -> Source:
    if (request.path / "dataset_dict.json").is_file():
        splits = sorted(entry.name for entry in request.path.iterdir() if entry.is_dir())
        raise InvalidArgument(
            f"{request.spec}: a folder of several splits, got {', '.join(splits)}; expected one. Name it, such as "
            f"{request.spec}/{(splits or ['train'])[0]}"
        )
    try:
        import datasets
    except ImportError:
        raise InvalidArgument(
            f"{request.spec}: needs the library datasets, which is not installed. Run pip install datasets"
        ) from None
    try:
        dataset = datasets.load_from_disk(str(request.path), keep_in_memory=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidData(
            f"{request.spec}: cannot be read as a saved dataset: {type(error).__name__}: {error}. Save it again"
        ) from error
    return request.source(HuggingFaceTable(dataset))


KIND = DataKind(name="saved dataset", open=_open, holds=_holds)
