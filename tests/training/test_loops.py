"""The example of a loop of one's own; those of other libraries are tested with the loader's adapters."""

import runpy

import pytest


def test_a_plain_loop_resumes_where_it_ended(root, sealed, tmp_path):
    train = runpy.run_path(str(root / "docs" / "examples" / "plain_pytorch.py"))["train"]
    everything = train(sealed, tmp_path / "one.pt", steps=24)
    halves = train(sealed, tmp_path / "two.pt", steps=13) + train(sealed, tmp_path / "two.pt", steps=11)
    assert halves == pytest.approx(everything, rel=1e-6)
    assert everything[-1] < everything[0]
