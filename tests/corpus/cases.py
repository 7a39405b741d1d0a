"""Bad input, one case at least for each phrase that concerns a local store; what each must come to.

A case takes a good store, spoils it, and hands back what to call; or it expects nothing but the right rows. Phrases are
the document's own words, so that the list can be compared with it. Those that need processes and not bytes have tests
elsewhere: see ELSEWHERE.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import softlabels as sl
from softlabels.errors import (
    KeyMissing,
    ShardMissing,
    SoftLabelsError,
    StoreConflict,
    StoreCorrupt,
    StoreNotFound,
    StoreUnsupported,
)
from softlabels.labels import Head
from softlabels.sources import DatasetSource, TokenSource, id_keys
from softlabels.store import TeacherRecord, create_or_open
from softlabels.store.format import canonical_json, paths
from softlabels.store.shards import zarr_shard
from tests.corpus.forging import (
    CHUNK_ROWS,
    CLASSES,
    columns,
    descriptor,
    forge,
    make,
    read_all,
    record_of,
    shard_of,
    snapshot_of,
)

Action = Callable[[], object]

ELSEWHERE = {
    "kill -9 at each system call": (
        "tests/reliability/test_commits.py::test_a_kill_at_each_system_call_leaves_all_or_nothing",
    ),
    "SIGSTOP": ("tests/generation/test_processes.py::test_a_stopped_generator_holds_up_its_unit_alone_and_goes_on",),
    "two generators on one store": (
        "tests/generation/test_processes.py::test_several_generators_share_the_work",
        "tests/generation/test_processes.py::test_of_generators_that_fit_a_codebook_at_once_one_makes_the_stores",
    ),
    "reader during write": (
        "tests/generation/test_processes.py::test_a_stopped_generator_holds_up_its_unit_alone_and_goes_on",
    ),
    "ENOSPC, EDQUOT, EIO, EROFS, EMFILE": (
        "tests/store/test_failing_disk.py::test_what_the_system_refuses_while_writing_is_said_with_advice",
        "tests/store/test_failing_disk.py::test_too_many_open_files_for_real",
        "tests/reliability/test_commits.py::test_an_error_from_any_system_call_commits_nothing_bad",
    ),
    "out of inodes": (
        "tests/reliability/test_scarce.py::test_without_inodes_nothing_is_lost_and_the_same_command_goes_on",
    ),
    "no hard links": (
        "tests/store/test_failing_disk.py::test_without_hard_links_a_rename_that_never_replaces_commits",
        "tests/store/test_failing_disk.py::test_where_nothing_is_exclusive_a_second_writer_is_refused",
    ),
    "clock a day off": (
        "tests/store/test_clocks.py::test_another_machine_goes_on_with_a_store_whatever_its_clock_says",
    ),
    "shared memory (/dev/shm) full": (
        "tests/reliability/test_scarce.py::test_a_full_shared_memory_is_an_error_within_seconds",
    ),
    "HTML, ANSI and CSV injection": (
        "tests/cli/test_commands.py::test_names_are_shown_within_their_line_and_escaped",
        "tests/cli/test_commands.py::test_heads_have_plain_names_alone",
    ),
    "keys unknown, reordered": (
        "tests/loading/test_loader.py::test_rows_without_labels_are_named",
        "tests/loading/test_loader.py::test_data_in_another_order_is_joined_by_content",
    ),
    "mixed tokenizers": (
        "tests/loading/adapters/test_huggingface.py::test_labels_of_other_lengths_than_the_text_are_refused",
        "tests/loading/adapters/test_huggingface.py::test_labels_that_do_not_fit_a_student_are_refused_before_the_first_step",
    ),
    "worker killed": (
        "tests/loading/test_state.py::test_a_worker_that_is_killed_is_an_error_and_no_hang",
        "tests/loading/adapters/test_torch_datasets.py::test_a_killed_worker_of_a_dataloader_is_an_error",
    ),
    "world size 4 to 3 to 8": (
        "tests/loading/test_state.py::test_every_checkpoint_resumes_to_all_the_rest",
        "tests/loading/test_loader_ranks.py::test_ranks_meet_at_every_step_and_another_world_size_goes_on",
    ),
    "cache shared or corrupted between epochs": (
        "tests/store/test_garbage.py::test_a_damaged_ledger_only_costs_time",
        "tests/loading/test_join.py::test_the_index_is_built_once_kept_and_verified",
    ),
}
"""Phrases that processes, disks and loaders are needed for, and where they are tried."""


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        phrase: of the list.
        variant: which of several.
        kind: of the store it starts from.
        spoil: from the store's directory, what to call.
        error: what it must raise; None: it must read as before.
        says: what the message must hold beside the path: the fault.
    """

    phrase: str
    variant: str
    kind: str
    spoil: Callable[[Path], Action]
    error: type[SoftLabelsError] | None
    says: str

    @property
    def name(self) -> str:
        """As the test is called."""
        return f"{self.phrase} ({self.variant or self.kind})"


CASES: list[Case] = []


def case(
    phrase: str,
    error: type[SoftLabelsError] | None = StoreCorrupt,
    *,
    says: str = "",
    kinds: tuple[str, ...] = ("topk-zarr",),
    variant: str = "",
) -> Callable[[Callable[[Path], Action | None]], Callable[[Path], Action | None]]:
    """Register a case for each kind of store; one that hands back nothing is read whole."""

    def register(spoil: Callable[[Path], Action | None]) -> Callable[[Path], Action | None]:
        def ready(root: Path) -> Action:
            return spoil(root) or partial(read_all, root)

        for kind in kinds:
            named = ", ".join(item for item in (variant, kind if len(kinds) > 1 else "") if item)
            CASES.append(Case(phrase, named, kind, ready, error, says))
        return spoil

    return register


BOTH = ("topk-zarr", "topk-parquet")


def file_of(root: Path, what: str) -> Path:
    """A file of a store by what it is."""
    sealed = snapshot_of(root)
    return {
        "descriptor": root / paths.DESCRIPTOR,
        "record": root / paths.record_path(0),
        "shard": shard_of(root),
        "snapshot": root / paths.snapshot_path(1),
        "table": root / paths.table_path(1, sealed["table"]),
        "prior": root / paths.prior_path(1, str(sealed["prior"])),
    }[what]


FILES = ("descriptor", "record", "shard", "snapshot", "table", "prior")


def edit(path: Path, change: Callable[[bytearray], object]) -> None:
    """Change a file's bytes."""
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


# Damage.


def edges(data: bytes) -> list[int]:
    """Return the lengths to cut to: nothing, one byte, the middle, one byte short."""
    return [0, 1, len(data) // 2, len(data) - 1]


for _what in FILES:
    for _edge in range(4):

        @case("truncation at every edge", variant=f"{_what} {_edge}", says="")
        def _(root: Path, what: str = _what, edge: int = _edge) -> None:
            path = file_of(root, what)
            data = path.read_bytes()
            path.write_bytes(data[: edges(data)[edge]])


@case("truncation at every edge", variant="every range of a shard", kinds=BOTH, says="committed")
def _(root: Path) -> None:
    path = shard_of(root)
    path.write_bytes(path.read_bytes()[: record_of(root)["footer"]["offset"]])


def flip(data: bytearray) -> None:
    """One bit in the middle."""
    data[len(data) // 2] ^= 4


@case("flips in payload", kinds=BOTH, says="not what")
def _(root: Path) -> None:
    edit(shard_of(root), lambda data: data.__setitem__(300, data[300] ^ 1))


@case("flips in index", kinds=("topk-parquet",), says="not what")
def _(root: Path) -> None:
    """The footer is Parquet's index; a Zarr shard's is not read."""
    edit(shard_of(root), lambda data: data.__setitem__(-40, data[-40] ^ 1))


for _what in FILES:
    if _what != "shard":

        @case(f"flips in {_what}", says="")
        def _(root: Path, what: str = _what) -> None:
            edit(file_of(root, what), flip)


@case("zeroed pages", kinds=BOTH, says="not what")
def _(root: Path) -> None:
    edit(shard_of(root), lambda data: data.__setitem__(slice(100, 400), bytes(300)))


@case("missing shard", ShardMissing, kinds=BOTH, says="missing")
def _(root: Path) -> None:
    shard_of(root).unlink()


@case("missing record", says="missing")
def _(root: Path) -> None:
    (root / paths.record_path(0)).unlink()


@case("missing chunk", kinds=BOTH, says="")
def _(root: Path) -> None:
    forge(root, record=lambda value: value["chunks"].pop())


@case("missing column", says="is expected")
def _(root: Path) -> None:
    def without_first(segment: bytes) -> bytes:
        second = segment.index(zarr_shard.LOCAL_MAGIC, 4)
        return segment[second:]

    forge(root, chunk=without_first)


@case("missing table of units", says="missing")
def _(root: Path) -> None:
    file_of(root, "table").unlink()


@case("missing snapshot", StoreNotFound, says="not sealed")
def _(root: Path) -> None:
    file_of(root, "snapshot").unlink()


@case("missing descriptor", StoreCorrupt, says="missing")
def _(root: Path) -> None:
    file_of(root, "descriptor").unlink()


@case("extra files", None, kinds=BOTH)
def _(root: Path) -> None:
    (root / "notes.txt").write_text("mine")
    (root / "records" / "00" / "1.json").write_text("{}")
    (root / "records" / "00" / "99999999999999.json").write_text("{}")
    (root / "records" / "junk").mkdir()
    (root / "records" / "01").mkdir()
    (root / "records" / "01" / "00000001.json").write_text("{}")  # units of this shelf begin at 4,096
    (root / "shards" / "00" / ("00000000-" + "0" * 32 + ".zarr.zip")).write_bytes(b"litter")
    (root / "snapshots" / "0000001.json").write_text("{}")


@case("shards swapped", kinds=BOTH, says="not what")
def _(root: Path) -> None:
    first, second = shard_of(root, 0), shard_of(root, 1)
    ours, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(ours)


@case("records swapped", says="describes unit 1")
def _(root: Path) -> None:
    (root / paths.record_path(0)).write_bytes((root / paths.record_path(1)).read_bytes())


@case("shards or records from another store", variant="record", says="another store")
def _(root: Path) -> None:
    other = make(root.parent / "other", "topk-zarr", teacher=TeacherRecord(spec="t", digest="other"))
    (root / paths.record_path(0)).write_bytes((other / paths.record_path(0)).read_bytes())


@case("shards or records from another store", variant="record and shard made again", says="not the one that was sealed")
def _(root: Path) -> None:
    other = make(root.parent / "other", "topk-zarr", spoil=lambda result: result["logits/tail"].fill(-1))
    name = shard_of(other).name
    (root / "shards" / "00" / name).write_bytes(shard_of(other).read_bytes())
    (root / paths.record_path(0)).write_bytes((other / paths.record_path(0)).read_bytes())


@case("shards or records from another store", variant="descriptor", says="not the one that was sealed")
def _(root: Path) -> None:
    other = make(root.parent / "other", "topk-zarr", seed=1)
    (root / paths.DESCRIPTOR).write_bytes((other / paths.DESCRIPTOR).read_bytes())


@case("forged CRC", says="damaged")
def _(root: Path) -> None:
    """The zip's and Zarr's checksums fit, and BLAKE3 was recomputed; what is inside declares more than there is."""

    def shorter(segment: bytes) -> bytes:
        return segment.replace(struct.pack("<I", 4 * 16), struct.pack("<I", 5 * 16), 1)

    forge(root, chunk=shorter)


# Paths.

for _name, _path in {
    "`..`": "../../../../etc/passwd", "absolute": "/etc/passwd", "URL": "https://example.org/x", "`%2e`": "%2e%2e/x",
    "NUL": "x\x00y",
}.items():  # fmt: skip

    @case("paths", variant=f"{_name} as attempt", says="cannot name a shard")
    def _(root: Path, path: str = _path) -> None:
        forge(root, record=lambda value: value.update(attempt=path))

    @case("paths", variant=f"{_name} as table", says="expected a BLAKE3")
    def _(root: Path, path: str = _path) -> None:
        forge(root, snapshot=lambda value: value.update(table=path))

    @case("paths", variant=f"{_name} as head", says="expected at most 64 letters")
    def _(root: Path, path: str = _path) -> None:
        forge(root, descriptor=lambda value: value.update(heads={path: value["heads"]["logits"]}))

    @case("paths", variant=f"{_name} as codebook", says="expected a BLAKE3")
    def _(root: Path, path: str = _path) -> None:
        forge(root, descriptor=lambda value: value["heads"]["logits"].update(codebook=path))


for _what in FILES:

    @case("links", variant=f"{_what} is a link", says="link")
    def _(root: Path, what: str = _what) -> None:
        path = file_of(root, what)
        path.rename(root.parent / "elsewhere")
        path.symlink_to(root.parent / "elsewhere")

    @case("FIFO", variant=_what, says="no regular file")
    def _(root: Path, what: str = _what) -> None:
        path = file_of(root, what)
        path.unlink()
        os.mkfifo(path)

    @case("device", variant=_what, says="")
    def _(root: Path, what: str = _what) -> None:
        path = file_of(root, what)
        path.unlink()
        path.symlink_to("/dev/zero")


for _folder in ("records", "records/00", "shards", "shards/00", "snapshots"):

    @case("links", variant=f"{_folder} is a link", says="symbolic link")
    def _(root: Path, folder: str = _folder) -> None:
        (root / folder).rename(root.parent / "elsewhere")
        (root / folder).symlink_to(root.parent / "elsewhere")


@case("links", variant="writing where a directory is a link", says="symbolic link")
def _(root: Path) -> Action:
    outside = root.parent / "outside"
    outside.mkdir()
    (root / paths.record_path(0)).unlink()
    (root / "shards").rename(root.parent / "moved")
    (root / "shards").symlink_to(outside)

    def write() -> None:
        try:
            with create_or_open(root, descriptor("topk-zarr")).begin(0) as writer:
                writer.append(columns("topk-zarr", range(6)))
                writer.commit()
        finally:
            assert not list(outside.iterdir())

    return write


@case("links", None, variant="a hard link is as good as a copy")
def _(root: Path) -> None:
    path = shard_of(root)
    os.link(path, root.parent / "elsewhere")


@case("links", variant="the lock is a link", says="symbolic link")
def _(root: Path) -> Action:
    victim = root.parent / "precious"
    victim.write_text("precious")
    (root / "tmp" / "appending.lock").symlink_to(victim)

    def append() -> None:
        try:
            create_or_open(root, descriptor("topk-zarr")).lock()
        finally:
            assert victim.read_text() == "precious"

    return append


@case("case collisions", says="differ in case alone")
def _(root: Path) -> None:
    def twice(value: dict[str, Any]) -> None:
        value["heads"] = {"Logits": value["heads"]["logits"], "logits": value["heads"]["logits"]}

    forge(root, descriptor=twice)


@case("NFC collisions", says="expected at most 64 letters")
def _(root: Path) -> None:
    def twice(value: dict[str, Any]) -> None:
        value["heads"] = dict.fromkeys(("\u00e9", "e\u0301"), value["heads"]["logits"])

    forge(root, descriptor=twice)


@case("case collisions", None, variant="files of other case are nobody's")
def _(root: Path) -> None:
    record = root / paths.record_path(0)
    (record.parent / "00000000.JSON").write_text("{}")
    shard = shard_of(root)
    (shard.parent / shard.name.upper()).write_bytes(b"")


# Sizes.


def declaring(size: int, which: int = 0) -> Callable[[bytes], bytes]:
    """A chunk whose compressed array number ``which`` says it has ``size`` bytes."""

    def change(segment: bytes) -> bytes:
        offset = 0
        for _ in range(which):
            offset = segment.index(zarr_shard.LOCAL_MAGIC, offset + 4)
        name_size = struct.unpack_from("<H", segment, offset + 26)[0]
        body = offset + zarr_shard.LOCAL_HEADER.size + name_size
        return segment[: body + 4] + struct.pack("<I", size) + segment[body + 8 :]

    return change


@case("decompression bombs", variant="blosc", says="declares")
def _(root: Path) -> None:
    forge(root, chunk=declaring(2**31 - 1))


@case("decompression bombs", variant="ragged blosc", kinds=("ragged-zarr", "adaptive-zarr"), says="declares")
def _(root: Path) -> None:
    forge(root, chunk=declaring(2**31 - 1, 4))


@case("decompression bombs", variant="zstd page of Parquet", kinds=("topk-parquet",), says="damaged")
def _(root: Path) -> None:
    forge(root, chunk=lambda segment: b"PAR1" + bytes.fromhex("150015feffffff0f") + segment[12:])


@case("decompression bombs", variant="table of units", says="page")
def _(root: Path) -> None:
    """A page of a column that is read says it has 2 GiB, where it said what two rows take."""
    data = bytearray(file_of(root, "table").read_bytes())
    rows = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(2)
    offset = rows.data_page_offset + 3
    assert data[offset] < 0x80
    data[offset : offset + 1] = bytes.fromhex("feffffff0f")
    forge(root, listed=bytes(data))


@case("decompression bombs", variant="a table of very many units", says="units: got 1099511627776; expected")
def _(root: Path) -> None:
    forge(root, snapshot=lambda value: value.update(units=2**40))


@case("declared sizes of 2^50", variant="shard", says="")
def _(root: Path) -> None:
    forge(root, record=lambda value: value["shard"].update(size=2**50))


@case("declared sizes of 2^50", variant="chunk", says="at most")
def _(root: Path) -> None:
    """A file with a hole, so that its size is true."""

    def huge(value: dict[str, Any]) -> None:
        value["chunks"][0]["size"] = 2**31

    forge(root, record=huge)
    os.truncate(shard_of(root), 2**31 + 1000)


@case("declared sizes of 2^50", variant="extras", says="extras.size: got")
def _(root: Path) -> Action:
    forge(root, record=lambda value: value["extras"].update(size=2**50))
    return partial(sl.seal, root)


@case("declared sizes of 2^50", variant="a snapshot of a terabyte", says="at most")
def _(root: Path) -> None:
    os.truncate(root / paths.snapshot_path(1), 2**40)


for _shape in ([2**60], [-1], [0], [2**20 - 1] * 4, ["a"], [None, 3], [1.5]):

    @case("shapes 2^60, -1, 0, overflowing products", variant=str(_shape), kinds=("dense-zarr",), says="")
    def _(root: Path, shape: list[Any] = _shape) -> None:
        forge(root, descriptor=lambda value: value["heads"]["logits"].update(shape=shape))


for _field, _value in (("rows", 2**60), ("rows", -1), ("rows", 0), ("unit_rows", 2**60), ("chunk_rows", 0)):

    @case("shapes 2^60, -1, 0, overflowing products", variant=f"{_field} {_value}", says="")
    def _(root: Path, field: str = _field, value: int = _value) -> None:
        forge(root, descriptor=lambda about: about.update({field: value}))


for _classes in (0, -1, 2**60, 1.5, "many"):

    @case("shapes 2^60, -1, 0, overflowing products", variant=f"classes {_classes}", says="class")
    def _(root: Path, classes: Any = _classes) -> None:
        forge(root, descriptor=lambda about: about["heads"]["logits"].update(classes=classes))


# Ragged rows.


def lengths(*values: int) -> Callable[[Path], None]:
    """Say other lengths than the entries have; the real writer is asked for a chunk of its own."""

    def spoil(root: Path) -> None:
        kind = "ragged-zarr"
        store = descriptor(kind)
        result = {name: array[:CHUNK_ROWS] for name, array in columns(kind, range(CHUNK_ROWS)).items()}
        array = np.array(values, "<u4")
        body = zarr_shard.encode_array(array, store.codec)

        def change(segment: bytes) -> bytes:
            offset = segment.index(b"logits/length/c/0") + len(b"logits/length/c/0")
            end = segment.index(zarr_shard.LOCAL_MAGIC, offset)
            header = offset - len(b"logits/length/c/0") - zarr_shard.LOCAL_HEADER.size
            fields = list(zarr_shard.LOCAL_HEADER.unpack_from(segment, header))
            fields[7] = fields[8] = len(body)
            name = segment[header + zarr_shard.LOCAL_HEADER.size : offset]
            return segment[:header] + zarr_shard.LOCAL_HEADER.pack(*fields) + name + body + segment[end:]

        assert len(result["logits/length"]) == CHUNK_ROWS
        forge(root, chunk=change)

    return spoil


case("ragged offsets negative", kinds=("ragged-zarr",), says="counted")(lengths(2**32 - 1, 0, 0, 0))
case("ragged offsets past the end", kinds=("ragged-zarr",), says="counted")(lengths(0, 1, 2, 100))
case("ragged offsets overlapping", kinds=("ragged-zarr",), says="counted")(lengths(3, 3, 3, 3))


@case("ragged offsets falling", kinds=("ragged-parquet",), says="")
def _(root: Path) -> None:
    """Parquet's lists come from repetition levels; those of one column say other lists than the lengths."""

    def change(segment: bytes) -> bytes:
        data = bytearray(segment)
        for offset in range(len(data) - 40, len(data)):
            data[offset] = 0
        return bytes(data)

    forge(root, chunk=change)


# Values.


def written(kind: str, name: str, value: Any, offset: Any = (0, 0)) -> Callable[[Path], None]:
    """A store whose writer put ``value`` somewhere in a column: every hash fits."""

    def spoil(root: Path) -> None:
        shutil.rmtree(root)
        make(root, kind, spoil=lambda result: result[name].__setitem__(offset, value))

    return spoil


for _format in ("zarr", "parquet"):
    _topk, _dense = f"topk-{_format}", f"dense-{_format}"
    case("NaN", kinds=(_topk,), variant=_topk, says="")(written(_topk, "logits/values", np.nan))
    case("NaN", kinds=(_dense,), variant=_dense, says="NaN")(written(_dense, "logits/values", np.nan))
    case("NaN", kinds=(_topk,), variant=f"{_topk}, tail", says="NaN")(written(_topk, "logits/tail", np.nan))
    case("infinities", kinds=(_topk,), variant=_topk, says="")(written(_topk, "logits/values", np.inf))
    case("infinities", kinds=(_dense,), variant=_dense, says="infinity")(written(_dense, "logits/values", np.inf))
    case("all -inf", kinds=(_dense,), variant=_dense, says="finite")(written(_dense, "logits/values", -np.inf, 0))
    case("all -inf", kinds=(_topk,), variant=_topk, says="")(written(_topk, "logits/values", -np.inf, 0))
    case("log-probs above 0", kinds=(_topk,), variant=_topk, says="")(written(_topk, "logits/values", 0.5))
    case("ids past the vocabulary", kinds=(_topk,), variant=_topk, says="class id")(written(_topk, "logits/ids", 300))
    case("ids 16-bit wrap", kinds=(_topk,), variant=_topk, says="class id 65535")(written(_topk, "logits/ids", 65535))
    case("ids repeated in a row", kinds=(_topk,), variant=_topk, says="twice")(written(_topk, "logits/ids", 1))


# Keys and mixtures.


@case("keys repeated with unlike labels", StoreConflict, says="unlike labels")
def _(root: Path) -> Action:
    other = make(root.parent / "other", "topk-zarr", spoil=lambda result: result["logits/ids"].__iadd__(7))
    return partial(sl.merge, [root, other], root.parent / "merged")


@case("keys reordered", says="not the one that was sealed")
def _(root: Path) -> None:
    """A unit made again with its rows in another order is not the one that was sealed."""
    other = make(root.parent / "other", "topk-zarr", spoil=lambda result: result.update(key=result["key"][::-1].copy()))
    (root / "shards" / "00" / shard_of(other).name).write_bytes(shard_of(other).read_bytes())
    (root / paths.record_path(0)).write_bytes((other / paths.record_path(0)).read_bytes())


@case("mixed class counts", StoreConflict, says="with other settings")
def _(root: Path) -> Action:
    heads = {"logits": Head(encoding="topk:3:f16", classes=CLASSES + 1)}
    other = make(root.parent / "other", "topk-zarr", heads=heads, extras=False)
    return partial(sl.merge, [root, other], root.parent / "merged")


@case(
    "mixed tokenizers",
    StoreConflict,
    kinds=("ragged-zarr",),
    variant="another vocabulary",
    says="with other settings",
)
def _(root: Path) -> Action:
    heads = {"logits": Head(encoding="topk:3:f16", classes=CLASSES + 64, kind="tokens", shape=(None,))}
    other = make(root.parent / "other", "ragged-zarr", heads=heads, extras=False)
    return partial(sl.merge, [root, other], root.parent / "merged")


@case("mixed tokenizers", StoreConflict, kinds=("ragged-zarr",), variant="one vocabulary size", says="do not mix")
def _(root: Path) -> Action:
    """The teacher tells which tokenizer it was; without a digest its name does."""
    shutil.rmtree(root)
    make(root, "ragged-zarr", teacher=TeacherRecord(spec="llama, its tokenizer", digest=None))
    other = make(
        root.parent / "other", "ragged-zarr", teacher=TeacherRecord(spec="mistral, its tokenizer", digest=None)
    )
    return partial(sl.merge, [root, other], root.parent / "merged")


@case("mixed tokenizers", KeyMissing, kinds=("ragged-zarr",), variant="text cut by another", says="have no label")
def _(root: Path) -> Action:
    """Keys are made of token ids: the same text cut otherwise is other content."""
    ours, other = [[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, 56]]
    shutil.rmtree(root)

    def named(result: dict[str, np.ndarray]) -> None:
        result["key"][:2] = TokenSource(ours).keys()

    make(root, "ragged-zarr", spoil=named)
    assert len(sl.loader(sl.open(root), inputs=TokenSource(ours), batch_size=1)) == 2
    return partial(sl.loader, sl.open(root), inputs=TokenSource(other))


@case("keys unknown", KeyMissing, says="1 of 2 rows")
def _(root: Path) -> Action:
    shutil.rmtree(root)
    make(root, "topk-zarr", spoil=lambda result: result["key"].__setitem__(slice(0, 1), id_keys(["a"])))
    return partial(sl.loader, sl.open(root), inputs=DatasetSource([0, 1], ids=["a", "b"]))


@case("mixed temperatures", StoreConflict, says="another store")
def _(root: Path) -> Action:
    heads = {"logits": Head(encoding="topk:3:f16", classes=CLASSES, temperatures=(1.0, 2.0))}
    return partial(create_or_open, root, descriptor("topk-zarr", heads=heads))


@case("mixed teachers", StoreConflict, says="Labels of different teachers do not mix")
def _(root: Path) -> Action:
    other = make(root.parent / "other", "topk-zarr", teacher=TeacherRecord(spec="t", digest="other"))
    return partial(sl.merge, [root, other], root.parent / "merged")


@case("logits for probabilities", says="")
def _(root: Path) -> None:
    written("topk-zarr", "logits/values", [9.5, 4.0, 1.0], 0)(root)


# Documents.


def raw(what: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Write other bytes for a document."""

    def spoil(root: Path) -> None:
        path = file_of(root, what)
        path.write_bytes(change(path.read_bytes()))

    return spoil


DOCUMENTS = ("descriptor", "record", "snapshot")
for _what in DOCUMENTS:
    case("duplicate JSON keys", variant=_what, says="twice")(raw(_what, lambda data: b'{"version":1,' + data[1:]))
    case("NaN literals", variant=_what, says="NaN")(raw(_what, lambda data: b'{"a":NaN,' + data[1:]))
    case("200,000 brackets", variant=_what, says="")(raw(_what, lambda _: b"[" * 200_000))
    case("200,000 brackets", variant=f"{_what}, within the limit", says="nested too deeply")(
        raw(_what, lambda _: b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}")
    )
    case("bad UTF-8", variant=_what, says="")(raw(_what, lambda data: data[:-2] + b"\xff\xfe"))

    @case("1 GiB JSON", variant=_what, says="at most")
    def _(root: Path, what: str = _what) -> None:
        os.truncate(file_of(root, what), 2**30)


@case("future format version", StoreUnsupported, says="Upgrade softlabels")
def _(root: Path) -> None:
    forge(root, descriptor=lambda value: value.update(version=2))


@case("future format version", variant="of a record", says="version 9")
def _(root: Path) -> None:
    forge(root, record=lambda value: value.update(version=9))


@case("future format version", variant="of a snapshot", says="version 9")
def _(root: Path) -> None:
    forge(root, snapshot=lambda value: value.update(version=9))


@case("unknown required feature", StoreUnsupported, says="holograms")
def _(root: Path) -> None:
    forge(root, descriptor=lambda value: value.update(requires=["holograms"]))


# Other people's formats.


@case("Zarr v2", says="is expected")
def _(root: Path) -> None:
    """Zarr v2 names the chunks of an array 0.0."""
    forge(root, chunk=lambda segment: segment.replace(b"key/c/0/0", b"key/0.0.0"))


@case("pickle filters", None, variant="documents inside a shard are never obeyed")
def _(root: Path) -> None:
    def change(segment: bytes) -> bytes:
        return segment.replace(b'{"name": "crc32c"}', b'{"name": "pickle"}')

    forge(root, footer=change)


@case("object arrays", None, variant="documents inside a shard are never obeyed")
def _(root: Path) -> None:
    forge(root, footer=lambda segment: segment.replace(b'"data_type": "float16"', b'"data_type": "object0"'))


@case("unknown codecs", says="codec")
def _(root: Path) -> None:
    forge(root, descriptor=lambda value: value["shard"].update(codec="pickle"))


@case("unknown codecs", variant="of a Parquet column", kinds=("topk-parquet",), says="damaged")
def _(root: Path) -> None:
    """Given a codec number that it does not know, pyarrow 26.0.1 aborts the process."""
    forge(root, footer=lambda segment: segment.replace(b"\x15\x0c", b"\x15\x6e"))


@case("pickled checkpoints", variant="as extras", says="")
def _(root: Path) -> Action:
    import pickle

    record = record_of(root)
    data = pickle.dumps({"weights": [1.0]})
    path = root / paths.extras_path(0, record["attempt"])
    path.write_bytes(data)
    forge(root, record=lambda value: value["extras"].update(size=len(data), blake3=_blake3(data)))
    file_of(root, "snapshot").unlink()
    return partial(sl.seal, root)


@case("pickled checkpoints", variant="as tail prior", says="no arrays")
def _(root: Path) -> None:
    import pickle

    data = pickle.dumps({"weights": [1.0]})
    (root / paths.prior_path(1, _blake3(data))).write_bytes(data)
    forge(root, snapshot=lambda value: value.update(prior=_blake3(data)))


@case("`module:function` tags coming from a store", None, variant="a teacher's name is only a name")
def _(root: Path) -> None:
    forge(root, descriptor=lambda value: value["teacher"].update(spec="python:os:abort"))


@case("`module:function` tags coming from a store", variant="as encoding", says="os:abort")
def _(root: Path) -> None:
    forge(root, descriptor=lambda value: value["heads"]["logits"].update(encoding="python:os:abort"))


@case("YAML tags coming from a store", says="")
def _(root: Path) -> None:
    (root / paths.DESCRIPTOR).write_text("!!python/object/apply:os.abort []\n")


# Snapshots of before.


@case(
    "rolled-back signatures", variant="an older snapshot, where the digest is known", says="no snapshot has the digest"
)
def _(root: Path) -> Action:
    digest = snapshot_of(root)["digest"]
    forge(root, snapshot=lambda value: value.update(previous="0" * 64))
    return partial(sl.open, root, digest=digest)


@case("foreign signatures", variant="a snapshot of another store", says="not the one that was sealed")
def _(root: Path) -> None:
    other = make(root.parent / "other", "topk-zarr", seed=1)
    for path in (other / "snapshots").iterdir():
        (root / "snapshots" / path.name).write_bytes(path.read_bytes())


@case("stripped signatures", variant="a snapshot without its digest", says="digest")
def _(root: Path) -> None:
    value = snapshot_of(root)
    del value["digest"]
    file_of(root, "snapshot").write_bytes(canonical_json.to_bytes(value))


def _blake3(data: bytes) -> str:
    from blake3 import blake3

    return str(blake3(data).hexdigest())
