"""Each bad input comes to a typed error that can be pickled and names the file and the fix, in bounded memory."""

import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from softlabels.errors import SoftLabelsError
from tests.corpus import cases, documents, forging, shards  # noqa: F401  two of them add to the cases

MEMORY = 256 * 10**6
FIX = re.compile(
    r"\b(run|fetch|repair|delete|use|name|give|copy|rename|upgrade|generate|make|choose|free)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """One good store of each kind, and what it says."""
    folder = tmp_path_factory.mktemp("good")
    roots = {kind: forging.make(folder / kind, kind) for kind in forging.KINDS}
    return roots, {kind: forging.read_all(root) for kind, root in roots.items()}


def resident(field):
    """A figure of this process in bytes: VmRSS now, VmHWM the most since it was reset."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def same(result, expected):
    return all(
        np.array_equal(a.values, b.values) and np.array_equal(getattr(a, "ids", 0), getattr(b, "ids", 0))
        for a, b in zip(result, expected, strict=True)
    )


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_bad_input(case, good, tmp_path):
    roots, truth = good
    root = tmp_path / "store"
    shutil.copytree(roots[case.kind], root)
    call = case.spoil(root)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    if case.error is None:
        assert same(call(), truth[case.kind])
        return
    with pytest.raises(SoftLabelsError) as caught:
        call()
    assert resident("VmHWM") - before < MEMORY
    error = caught.value
    assert isinstance(error, case.error), error
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert (type(again), str(again)) == (type(error), str(error))
    assert case.says in str(error)
    assert str(tmp_path) in str(error), "it names the file"
    assert FIX.search(str(error)), "it says what to do"


def test_no_case_stands_there_twice():
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)
    assert len(names) > 150


def test_what_is_tried_elsewhere_is_there(root):
    for places in cases.ELSEWHERE.values():
        for place in places:
            path, _, name = place.partition("::")
            assert f"\ndef {name}(" in (root / path).read_text(), place
