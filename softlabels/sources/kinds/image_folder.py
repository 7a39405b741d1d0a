"""Folders of images: ``photos/CLASS/x.jpg``, ``photos/train/CLASS/x.jpg``, or ``photos/x.jpg`` without classes.

The first folder is a split if all of them are named as splits; the next one is the class. Deeper folders belong to the
class. Pairs of image and mask are two folders with equal file names, ``images/x.jpg`` and ``masks/x.png``; a folder
beside ``images`` is a column of its name (``--target road=masks``).

Files are found in the order of their names. Names that start with a dot, and files with other ends than those of
images, are passed over.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from softlabels.errors import InvalidData
from softlabels.sources.image_files import SUFFIXES
from softlabels.sources.protocol import Source
from softlabels.sources.request import DataKind, OpenRequest
from softlabels.sources.split_names import SPELLINGS, canonical_split
from softlabels.sources.tables import MemoryTable

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
"""Names of the folder of images beside folders of masks, in lower case."""
OTHER_KINDS = {
    "dataset_info.json", "dataset_dict.json", "softlabels.json", "run.json", "zarr.json", ".zarray", ".zgroup",
}  # fmt: skip
"""Files of saved datasets, stores, runs and arrays, whose folders hold no classes."""
MAX_ENTRIES = 10_000
"""Entries that are looked at to find out whether a folder holds images."""


def open_folder(folder: Path, name: str) -> MemoryTable:
    """Return the images below a folder as a table of paths, with class and split.

    Args:
        folder: The folder.
        name: Its name in messages.

    Raises:
        InvalidData: There are no images, or folders of classes differ only in case or Unicode form.

    Example:
        >>> open_folder(Path("photos"), "photos").schema.names  # doctest: +SKIP
        ['image', 'label', 'split']
    """
    files = [path.split("/") for path in _files(folder)]
    if not files:
        raise InvalidData(f"{name}: no images, got files of other types; expected {', '.join(SUFFIXES)}")
    splits: list[str] | None = None
    if all(len(parts) > 1 and canonical_split(parts[0]) in SPELLINGS for parts in files):
        splits = [canonical_split(parts[0]) for parts in files]
    names = [parts[1:] if splits is not None else parts for parts in files]
    top = {parts[0].lower() for parts in names if len(parts) > 1}
    if any(image in top for image in IMAGE_FOLDERS) and all(len(parts) > 1 for parts in names):
        return MemoryTable(name, _pairs(files, splits, name))
    columns = {"image": pa.array(["/".join(parts) for parts in files], pa.large_string())}
    if all(len(parts) > 1 for parts in names):
        classes = [parts[0] for parts in names]
        _check_alike(classes, name)
        columns["label"] = pa.array(classes).dictionary_encode()
    elif any(len(parts) > 1 for parts in names):
        alone = next("/".join(parts) for parts, rest in zip(files, names, strict=True) if len(rest) == 1)
        raise InvalidData(
            f"{name}: images inside and outside of class folders, got {alone} beside folders; expected CLASS/x.jpg for "
            "all, or no folders. Move the file"
        )
    if splits is not None:
        columns["split"] = pa.array(splits).dictionary_encode()
    return MemoryTable(name, pa.table(columns))


def _pairs(files: Sequence[Sequence[str]], splits: Sequence[str] | None, name: str) -> pa.Table:
    """Return pairs of files that have the same name in parallel folders."""
    depth = 0 if splits is None else 1
    by_folder: dict[str, dict[str, str]] = {}
    split_of: dict[str, str] = {}
    for row, parts in enumerate(files):
        stem = "/".join([*parts[:depth], *parts[depth + 1 : -1], parts[-1].rpartition(".")[0]])
        files_of_folder = by_folder.setdefault(parts[depth], {})
        if stem in files_of_folder:
            raise InvalidData(
                f"{name}: two files of one name, got {files_of_folder[stem]} and {'/'.join(parts)}; expected one. "
                "Rename one of them"
            )
        files_of_folder[stem] = "/".join(parts)
        if splits is not None:
            split_of[stem] = splits[row]
    image = next(folder for folder in by_folder if folder.lower() in IMAGE_FOLDERS)
    stems = list(by_folder[image])
    columns = {"image": pa.array([by_folder[image][stem] for stem in stems], pa.large_string())}
    for folder, paths in by_folder.items():
        if folder == image:
            continue
        lonely = sorted(set(stems) ^ set(paths))
        if lonely:
            place = image if lonely[0] in by_folder[image] else folder
            raise InvalidData(
                f"{name}: images and {folder} differ in their files, got {lonely[0]} in {place} alone and "
                f"{len(lonely) - 1} more; expected the same names in both. Add or remove files"
            )
        columns[folder] = pa.array([paths[stem] for stem in stems], pa.large_string())
    if splits is not None:
        columns["split"] = pa.array([split_of[stem] for stem in stems])
    return pa.table(columns)


def _check_alike(classes: Sequence[str], name: str) -> None:
    """Raise InvalidData if folders of classes differ only in case or Unicode form."""
    seen: dict[str, str] = {}
    for folder in dict.fromkeys(classes):
        other = seen.setdefault(unicodedata.normalize("NFC", folder.strip()).casefold(), folder)
        if other != folder:
            raise InvalidData(
                f"{name}: folders of classes differ only in case or Unicode form, got {other!r} and {folder!r} "
                f"({folder!a}); expected one folder per class. Rename or join them"
            )


def _files(folder: Path, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yield the paths of images below a folder, relative to it, in the order of their names.

    Links are followed, except to one of the folders ``above``.
    """
    status = folder.stat()
    identity = status.st_dev, status.st_ino
    if identity in above:
        return
    with os.scandir(folder) as entries:
        visible = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    for name, is_folder in visible:
        if is_folder:
            yield from _files(folder / name, f"{prefix}{name}/", above | {identity})
        elif name.lower().endswith(SUFFIXES):
            yield prefix + name


def _holds(folder: Path) -> bool:
    """Return True if a folder holds images at some depth, and is no store, run or array."""
    entry_count = 0
    for _, folders, names in os.walk(folder, followlinks=True):
        if OTHER_KINDS & {*names}:
            return False
        if any(entry.lower().endswith(SUFFIXES) for entry in names):
            return True
        entry_count += len(folders) + len(names)
        if entry_count > MAX_ENTRIES:
            return False
    return False


def _open(request: OpenRequest) -> Source:
    table = open_folder(request.path, request.spec)
    return request.source(table, base=request.path)


KIND = DataKind(name="folder of images", open=_open, holds=_holds)
