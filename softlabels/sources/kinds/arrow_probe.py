"""A script that reads an Arrow IPC file and validates all of it, in a process that may crash.

Exit code 0: the file is valid; standard output has the rows of its batches as JSON, null for a stream. DAMAGED: it is
not, and standard output has the reason. TOO_LARGE: a batch, or all of a stream, takes more memory than the second
argument allows, in bytes. Anything else: Arrow crashed.
"""

from __future__ import annotations

import contextlib
import json
import sys

import pyarrow as pa
import pyarrow.ipc

DAMAGED, TOO_LARGE = 3, 4
OWN_BYTES = 256 * 2**20
"""Memory that Python and Arrow take by themselves."""
MAGIC = b"ARROW1"


def is_file_format(source: pa.NativeFile) -> bool:
    """Return True if Arrow data is a file with a footer, False if it is a stream."""
    source.seek(0)
    magic = source.read(len(MAGIC))
    source.seek(0)
    return bool(magic == MAGIC)


def validate_file(path: str, limit: int) -> list[int] | None:
    """Read every batch of an Arrow IPC file or stream, validate it, and return the rows of a file's batches.

    Raises:
        ArrowException: The file is damaged.
        MemoryError: The batches of a stream take more than ``limit`` bytes together.
    """
    source = pa.OSFile(path)
    if not is_file_format(source):
        decoded = 0
        for batch in pa.ipc.open_stream(source):
            batch.validate(full=True)
            decoded += batch.nbytes
            if decoded > limit:  # a stream is read as one block
                raise MemoryError
        return None
    file = pa.ipc.open_file(source)
    rows = []
    for number in range(file.num_record_batches):
        batch = file.get_batch(number)
        batch.validate(full=True)
        rows.append(batch.num_rows)
    return rows


def main() -> int:
    """Validate the file named on the command line, and return the exit code."""
    limit = int(sys.argv[2])
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected; it needs no core dump
        # Private memory alone: address space is reserved by allocators without being used.
        resource.setrlimit(resource.RLIMIT_DATA, (limit + OWN_BYTES, limit + OWN_BYTES))
    try:
        sys.stdout.write(json.dumps(validate_file(sys.argv[1], limit)))
    except MemoryError:
        return TOO_LARGE
    except Exception as error:  # noqa: BLE001  the parent reports every reason
        sys.stdout.write(f"{type(error).__name__}: {error}")
        return DAMAGED
    return 0


if __name__ == "__main__":
    sys.exit(main())
