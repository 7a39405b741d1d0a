"""Tokenised text: the ids of all documents one after the other, computed once and cached by content.

The name of a cache entry covers every document, the tokenizer and the settings, so that a hit needs no comparison. An
entry whose bytes are not those that were written is computed again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from softlabels.store.storage.user_cache import cache_directory

MIN_CACHED = 2**22
"""Tokens of a corpus that is cached; a smaller one is tokenised in seconds."""

META = "corpus.json"
DTYPES = {"ids": None, "ends": np.dtype(np.int64), "written": np.dtype(np.bool_)}

Tokens = tuple[NDArray[np.int64], "NDArray[np.bool_] | None"]
"""Ids of one document, and a mask of the tokens of responses; None: no such mask."""


@dataclass(frozen=True)
class Corpus:
    """Tokens of documents.

    Attributes:
        ids: Token ids of all documents one after the other, (N,) uint16, uint32 or int64.
        ends: Index behind the last token of each document, (D,) int64.
        written: True if a token belongs to a response that is to be learned, (N,); None: there is no such mask.
    """

    ids: NDArray[Any]
    ends: NDArray[np.int64]
    written: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.ends)


def tokenize(
    blocks: Callable[[], Iterable[Sequence[Any]]],
    encode: Callable[[Sequence[Any], int], list[Tokens]],
    *,
    dtype: np.dtype[Any],
    settings: str,
    cache: Path | None = None,
) -> Corpus:
    """Return the tokens of documents, from the cache if they are there.

    Args:
        blocks: Returns the documents in blocks, the same each time; a document is text, or JSON values.
        encode: Maps the documents of a block, and the number of the first, to tokens.
        dtype: Dtype of the ids.
        settings: Everything but the documents that decides the tokens, e.g. the digest of the tokenizer.
        cache: Directory of cached corpora; None: the user's cache.
    """
    folder = (cache or cache_directory() / "tokens") / _name(blocks(), settings)
    cached = _open(folder)
    if cached is not None:
        return cached
    count, ids, ends, masks = 0, [], [], []
    total = 0
    for block in blocks():
        for tokens, written in encode(block, count):
            ids.append(tokens.astype(dtype))
            total += len(tokens)
            ends.append(total)
            if written is not None:
                masks.append(written)
        count += len(block)
    corpus = Corpus(
        np.concatenate([np.empty(0, dtype), *ids]),
        np.array(ends, np.int64),
        np.concatenate(masks) if masks else None,
    )
    if total >= MIN_CACHED:
        _write(folder, corpus)
    return corpus


def _name(blocks: Iterable[Sequence[Any]], settings: str) -> str:
    hasher = blake3(f"softlabels tokens 1\0{settings}\0".encode())
    for block in blocks:
        for document in block:
            data = json.dumps(document, sort_keys=True, ensure_ascii=False).encode(errors="surrogatepass")
            hasher.update(len(data).to_bytes(8, "little"))
            hasher.update(data)
    return str(hasher.hexdigest())


def _open(folder: Path) -> Corpus | None:
    """Return the corpus of a cache entry; None if there is none, or its bytes are not those that were written."""
    try:
        meta = json.loads((folder / META).read_text())
        arrays = {}
        for name, digest in meta.items():
            array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if name not in DTYPES or _digest(array) != digest:
                return None
            arrays[name] = array
        return Corpus(arrays["ids"], np.array(arrays["ends"]), arrays.get("written"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(folder: Path, corpus: Corpus) -> None:
    """Write a cache entry beside its place and rename it; a cache that cannot be written is no error."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    except OSError:
        return
    try:
        arrays = {name: getattr(corpus, name) for name in DTYPES if getattr(corpus, name) is not None}
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        (temporary / META).write_text(json.dumps({name: _digest(array) for name, array in arrays.items()}))
        if folder.exists():  # damaged
            shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)  # noqa: PTH104  must fail where another process was first
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)


def _digest(array: NDArray[Any]) -> str:
    hasher = blake3(f"{array.dtype.str}\0{array.shape}\0".encode())
    for start in range(0, len(array), 2**22):
        hasher.update(np.ascontiguousarray(array[start : start + 2**22]).view(np.uint8).data)
    return str(hasher.hexdigest())


def in_blocks(documents: Iterable[Any], size: int = 512) -> Iterator[list[Any]]:
    """Yield documents in lists of ``size``.

    Args:
        documents: Documents in order.
        size: Number of documents of a list.
    """
    block = []
    for document in documents:
        block.append(document)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
