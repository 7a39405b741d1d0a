"""Folders that ``datasets.Dataset.save_to_disk`` wrote.

Their files are Arrow streams, of which a prepared one can crash the process. So each is first read in a child process,
as Arrow files are (arrow.py). Small datasets are then read into memory, large ones are mapped by the library: if a file
of one is truncated while it is in use, the process ends with SIGBUS.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from softlabels.errors import InvalidArgument, InvalidData
from softlabels.sources.hugging_face import HuggingFaceTable
from softlabels.sources.kinds.arrow import probe
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest
from softlabels.store.storage.regular_file import read_regular

INFO_FILE, STATE_FILE = "dataset_info.json", "state.json"
FILES = (INFO_FILE, STATE_FILE)
MAX_JSON_BYTES = 2**24
MAX_IN_MEMORY = 2**28
"""Bytes of a dataset that is read into memory."""


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
        sizes = _checked_sizes(request.path, request.spec)
        dataset = datasets.load_from_disk(str(request.path), keep_in_memory=sum(sizes) <= MAX_IN_MEMORY)
    except InvalidData:
        raise
    except Exception as error:  # noqa: BLE001  the library checks no document
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise InvalidData(f"{request.spec}: cannot be read as a saved dataset: {reason}. Save it again") from None
    return request.source(HuggingFaceTable(dataset))


def _checked_sizes(folder: Path, name: str) -> list[int]:
    """Return the sizes of the Arrow files of a dataset, each read in a child process before.

    Raises:
        InvalidData: An Arrow file is damaged.
        ValueError: A document is damaged, or names a file elsewhere.
    """
    json.loads(read_regular(folder / INFO_FILE, MAX_JSON_BYTES))
    state: Any = json.loads(read_regular(folder / STATE_FILE, MAX_JSON_BYTES))
    files = [*(state["_data_files"] or []), *(state.get("_indices_data_files") or [])]
    sizes = []
    for entry in files:
        path = folder / entry["filename"]
        if path.name != entry["filename"] or not path.is_file():
            raise ValueError(f"no regular file {entry['filename']!r:.100} in the folder")
        sizes.append(path.stat().st_size)
        probe(path, f"{name}/{path.name}", sizes[-1])
    return sizes


KIND = DataKind(name="saved dataset", open=_open, holds=_holds)
