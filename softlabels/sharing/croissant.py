"""``croissant.json``: a store in the metadata format Croissant 1.1, with its provenance in PROV-O.

The files of a snapshot and the shards are listed with their SHA-256. The chain of provenance goes from the data and the
teacher to the labels; both are named by the digests that the store holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from softlabels.store import Store
from softlabels.store.format import paths
from softlabels.store.format.description import Description
from softlabels.store.format.record import read_record
from softlabels.store.shards.registry import shard_format
from softlabels.store.storage.read_errors import FETCH, read_errors
from softlabels.store.storage.storage import Storage

CROISSANT = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
MAX_BYTES = 2**28
MAX_LISTED = 10_000
"""Shards that are listed with their SHA-256; of a larger store a pattern names them."""
FORMATS = {
    ".json": "application/json", ".parquet": "application/x-parquet", ".zip": "application/zip",
    ".safetensors": "application/octet-stream",
}  # fmt: skip
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def render_croissant(store: Store, description: Description, hashes: Mapping[str, str]) -> str:
    """Return the document.

    Args:
        store: The store.
        description: Statements of its owner.
        hashes: SHA-256 of files by name, hexadecimal.
    """
    snapshot, descriptor = store.snapshot, store.descriptor
    names = sorted(hashes)
    pattern = f"{paths.SHARDS}/*/*{shard_format(descriptor.shard_format).suffix}"
    document: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": description.title or "Soft labels",
        "description": f"Soft labels of {snapshot.rows:,} rows, snapshot {snapshot.digest}.",
        "version": f"{snapshot.number}.0.0",
        "identifier": f"blake3:{snapshot.digest}",
        "citeAs": f"{description.title or 'Soft labels'}, snapshot blake3:{snapshot.digest}",
        "distribution": [
            *(_file_object(store, name, hashes[name]) for name in names),
            *([] if _lists_shards(store, hashes) else [_shard_set(store, pattern)]),
        ],
        "prov:wasGeneratedBy": _activity(store),
        "prov:wasDerivedFrom": [_data(store), *_subset(store)],
        "prov:wasAttributedTo": _teacher(store),
    }
    if description.license is not None:
        document["license"] = description.license
    if description.terms is not None:
        document["usageInfo"] = description.terms
        document["rai:dataUseCases"] = description.terms
    if description.data is not None:
        document["rai:dataCollection"] = description.data
    if description.contact is not None:
        document["creator"] = {"@type": "Organization", "name": description.contact}
    return json.dumps(document, indent=2, ensure_ascii=True) + "\n"


def hash_files(store: Store, *, workers: int = 4) -> dict[str, str]:
    """Return the SHA-256 of the files of a store by name: those of the snapshot, and the shards if they are not many.

    Args:
        store: The store.
        workers: Files that are read at the same time.

    Raises:
        StoreCorrupt: A record is missing or damaged.
        FileNotFoundError: A file is missing.
    """
    names = [*snapshot_files(store), *(shard_names(store) if store.units <= MAX_LISTED else ())]
    with ThreadPoolExecutor(workers, thread_name_prefix="softlabels-hash") as pool:
        return dict(zip(names, pool.map(lambda name: sha256_of(store.storage, name), names), strict=True))


def stated_hashes(storage: Storage, store: Store) -> dict[str, str]:
    """Return the SHA-256 of shards that the document of a store states; empty if it has no good one.

    The document may be a stranger's: nothing but hexadecimal digits of files of this store is taken from it.

    Args:
        storage: Storage of the document.
        store: The store.
    """
    with suppress(OSError, ValueError, RecursionError):
        document = json.loads(storage.read(CROISSANT, MAX_BYTES))
        entries = document.get("distribution", []) if isinstance(document, dict) else []
        stated = {
            entry.get("contentUrl"): entry.get("sha256")
            for entry in (entries if isinstance(entries, list) else ())
            if isinstance(entry, dict) and isinstance(entry.get("contentUrl"), str)
        }
        if store.units <= MAX_LISTED:
            hashes = {name: stated.get(name) for name in shard_names(store)}
            return {name: digest for name, digest in hashes.items() if re.fullmatch(r"[0-9a-f]{64}", str(digest))}  # type: ignore[misc]
    return {}


def snapshot_files(store: Store) -> Iterator[str]:
    """Yield the names of the descriptor and of the files of the snapshot."""
    snapshot = store.snapshot
    yield paths.DESCRIPTOR
    yield paths.snapshot_path(snapshot.number)
    yield paths.table_path(snapshot.number, snapshot.table)
    if snapshot.prior is not None:
        yield paths.prior_path(snapshot.number, snapshot.prior)
    if snapshot.probe is not None:
        yield paths.probe_path(snapshot.number, snapshot.probe)


def shard_names(store: Store) -> Iterator[str]:
    """Yield the names of the shards, in the order of their units."""
    for unit in range(store.units):
        record = read_record(store.storage, unit, store.descriptor)
        yield paths.shard_path(unit, record.attempt, store.descriptor.shard_format)


def _lists_shards(store: Store, hashes: Mapping[str, str]) -> bool:
    return sum(name.startswith(f"{paths.SHARDS}/") for name in hashes) == store.units


def _file_object(store: Store, name: str, digest: str) -> dict[str, Any]:
    info = store.storage.info(name)
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{0 if info is None else info.size} B",
        "encodingFormat": FORMATS[f".{name.rpartition('.')[2]}"],
        "sha256": digest,
    }


def _shard_set(store: Store, pattern: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "encodingFormat": FORMATS[f".{pattern.rpartition('.')[2]}"],
        "includes": pattern,
    }


def _activity(store: Store) -> dict[str, Any]:
    return {
        "@type": "prov:Activity",
        "@id": f"blake3:{store.descriptor.digest}",
        "name": "softlabels generate",
        "prov:used": [{"@id": _data(store)["@id"]}, {"@id": _teacher(store)["@id"]}],
    }


def _data(store: Store) -> dict[str, Any]:
    data = store.descriptor.data
    return {"@type": "prov:Entity", "@id": f"data:{data.fingerprint or 'unknown'}", "name": data.spec or "unnamed"}


def _teacher(store: Store) -> dict[str, Any]:
    teacher = store.descriptor.teacher
    return {
        "@type": "prov:SoftwareAgent",
        "@id": f"teacher:{teacher.digest or 'unknown'}",
        "name": teacher.spec or "unnamed",
        **({} if teacher.version is None else {"version": teacher.version}),
    }


def _subset(store: Store) -> list[dict[str, Any]]:
    record = store.descriptor.subset_of
    return [] if record is None else [{"@type": "prov:Entity", "@id": f"blake3:{record.snapshot}", "name": "source"}]


def sha256_of(storage: Storage, name: str) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Args:
        storage: Storage of the store.
        name: Name of the file.

    Raises:
        StoreCorrupt: The file is missing, or no regular file.
    """
    hasher = hashlib.sha256()
    with read_errors(storage.locate(name), FETCH):
        for block in storage.read_blocks(name):
            hasher.update(block)
    return hasher.hexdigest()
