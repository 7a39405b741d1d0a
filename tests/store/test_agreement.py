"""Deep verification and reading agree on stores with forged and removed parts, and neither fails untyped."""

import json
import random
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import softlabels as sl
from softlabels.errors import SoftLabelsError
from softlabels.store.format import paths
from tests.corpus import forging
from tests.reliability.mutants import mutate, mutate_json

KINDS = ["topk-zarr", "topk-parquet", "ragged-zarr", "adaptive-zarr"]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    return {kind: forging.make(folder / kind, kind) for kind in KINDS}


def remove(root, rng):
    """Remove a file."""
    rng.choice(sorted(path for path in root.rglob("*") if path.is_file())).unlink()


def damage(root, rng):
    """Change a file; no hash fits."""
    path = rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    path.write_bytes(mutate(path.read_bytes(), rng))


def forge_document(root, rng):
    """Change a document and make every hash over it fit."""
    what = rng.choice(["descriptor", "record", "snapshot"])

    def change(value):
        changed = mutate_json(json.loads(json.dumps(value)), rng)
        value.clear()
        value.update(changed)

    try:
        forging.forge(root, **{what: change})
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        remove(root, rng)  # too strange to be written down


def forge_snapshot(root, rng):
    """Leave out the prior, or claim other rows, units or bytes."""
    changes = [
        {"prior": None}, {"rows": rng.randrange(2, 20)}, {"units": rng.randrange(1, 4)}, {"bytes": 7},
        {"probe": "a" * 64}, {"previous": "b" * 64}, {"fidelity": {}},
    ]  # fmt: skip
    forging.forge(root, snapshot=lambda value: value.update(rng.choice(changes)))


def swap_records(root, rng):
    """Exchange the records of two units."""
    first, second = (root / paths.record_path(unit) for unit in (0, 1))
    first_bytes, second_bytes = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_bytes)
    second.write_bytes(first_bytes)


CHANGES = [remove, damage, forge_document, forge_snapshot, swap_records]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(KINDS), change=st.sampled_from(CHANGES), seed=st.integers(0, 2**32))
def test_what_reading_refuses_verification_names_and_what_it_accepts_is_read(
    good, tmp_path_factory, kind, change, seed
):
    root = tmp_path_factory.mktemp("s") / "s"
    shutil.copytree(good[kind], root)
    change(root, random.Random(seed))
    try:
        forging.read_all(root)
        readable = True
    except SoftLabelsError:
        readable = False
    try:
        report = sl.verify(root, deep=True)
    except SoftLabelsError:
        assert not readable, "verification refuses what can be read"
        return
    if not readable:
        assert not report.ok, "verification accepts what cannot be read"
    elif not report.ok:
        # Readers need neither the files that only sealing reads, nor a Zarr shard's footer.
        unread = ("extras", "shards", "records", "snapshots", "probe")
        assert all(any(f"/{name}/" in problem.path for name in unread) for problem in report.bad)
    shutil.rmtree(root)
