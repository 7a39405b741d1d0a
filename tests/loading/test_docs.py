"""The examples of docs/loading.md, run from top to bottom as one program."""

import re
import shutil

import numpy as np

from softlabels.labels import Head
from tests.loading.stores import random_logits, write_store


def test_the_examples_of_the_page_run(root, sealed, tmp_path, monkeypatch):
    """In a folder with a store of the digits and one of token labels, by the names that the page uses."""
    shutil.copytree(sealed, tmp_path / "labels")
    logits = [random_logits(length, 7, seed=length) for length in np.random.default_rng(0).integers(1, 40, 100)]
    head = Head(encoding="topk:3:f16", classes=7, kind="tokens", shape=(None,))
    write_store(tmp_path / "tokens", logits, head=head)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs" / "loading.md").read_text(), re.DOTALL)
    assert len(blocks) > 3
    known = {}
    for block in blocks:
        exec(compile(block, "docs/loading.md", "exec"), known)  # noqa: S102  our own page
    assert len(known["frugal"]) == -(-1797 // 64)
