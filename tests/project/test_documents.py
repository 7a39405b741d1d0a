"""The code blocks of README and docs run as they stand, each page in a folder of its own.

A page's ``sh`` and ``python`` blocks run in their order; Python blocks share one namespace. The folder holds what the
pages assume a reader has: tables with the bundled digits and a module with a plain ``torch.nn.Module``. Blocks that are
not to be run are fenced as ``text``. Commands run in this process, and README's teacher, which is the demo's, has been
trained before by the same command: tests/project/test_wheel.py runs commands as processes.
"""

import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from softlabels_cli.demo import TEACHER as DEMO_TEACHER
from tests.cli.calls import call
from tests.warm import run

PAGES = ["README.md", "docs/quickstart.md", "docs/stores.md", "docs/guides/share.md", "docs/guides/vision.md"]
FILE = re.compile(r"# (\w+\.py)\n")
"""First line of a block that a reader saves as a file."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
TEACHER = '''"""A teacher of the reader's own."""

import torch

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def model(images):
    """Logits of a batch of images."""
    return network(images.float() / 16)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch, digits_path):
    """A reader's folder: training, test and additional rows, and a teacher."""
    table = pq.read_table(digits_path)
    is_test = np.asarray(table["split"]) == "test"
    pq.write_table(table.filter(~is_test), tmp_path / "train.parquet")
    pq.write_table(table.filter(is_test), tmp_path / "test.parquet")
    pq.write_table(table, tmp_path / "more.parquet")
    (tmp_path / "my_teacher.py").write_text(TEACHER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("my_teacher", None)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, root, folder, request):
    text = (root / page).read_text()
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("\n```") // 2, "a block without a language is not run"
    if DEMO_TEACHER in text:
        shutil.copytree(request.getfixturevalue("demo_teacher"), folder / "teacher")
    namespace = {"__name__": page}
    for language, code in blocks:
        if language == "sh" and not code.startswith("make "):
            for line in code.replace("\\\n", " ").splitlines():
                program, *arguments = shlex.split(line)
                if program != "softlabels":
                    subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True)
                    continue
                call(*arguments)
        elif file := FILE.match(code):
            (folder / file[1]).write_text(code)
            sys.modules.pop(file[1].removesuffix(".py"), None)
        elif language == "python":
            exec(compile(code, page, "exec"), namespace)  # noqa: S102  our own page


def test_the_targets_that_readme_names_exist(root):
    makefile = (root / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", (root / "README.md").read_text(), re.MULTILINE)
    assert targets
    assert [target for target in targets if f"\n{target}: " not in makefile] == []


PACKAGES = (
    "softlabels.models.kinds", "softlabels.sources.kinds", "softlabels.encodings.families", "softlabels.losses",
    "softlabels.generation.engines", "softlabels.store.shards",
)  # fmt: skip
RUN_PARTS = """
import importlib, pathlib, pytest, sys
from tests.project.test_documents import BLOCK, PACKAGES
for name in PACKAGES:
    importlib.import_module(name).__path__.append(str(pathlib.Path("parts", *name.split(".")).absolute()))
from softlabels.encodings.families import families
from softlabels.generation.engines import engines
from softlabels.models.kinds import kinds
from softlabels.sources.kinds import data_kinds
from softlabels.store.shards.registry import names
for listed in (kinds, data_kinds, families, engines, names):
    listed.cache_clear()  # a server of test processes has listed them without these parts
importlib.import_module("softlabels.losses.brier")
exec(BLOCK.findall(pathlib.Path(sys.argv[1]).read_text())[-1][1])
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "parts/tests"]))
"""


def test_a_part_of_each_kind_is_one_file(root, tmp_path):
    """The blocks of docs/contributing.md that begin with a path are put there; its last block and tests use them."""
    page = root / "docs" / "contributing.md"
    for _, code in BLOCK.findall(page.read_text()):
        path = tmp_path / "parts" / code.partition("\n")[0].removeprefix("# ")
        if path.suffix == ".py":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
    run("-c", RUN_PARTS, page, cwd=tmp_path)
    assert sorted((tmp_path / "labels" / "shards").rglob("*.plain"))
